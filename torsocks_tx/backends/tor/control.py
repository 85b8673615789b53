"""Commands and events over one control connection, made safe where txtorcon's protocol is not.

Every command has a deadline, none can hold a line break, none hangs when tor is gone, and each
listener gets every event. Works the same over a connection of ours (:mod:`.authentication`) and
over one that an application's txtorcon owns. It never reads or changes tor's configuration by
itself.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredLock,
    TimeoutError,
    fail,
    succeed,
)
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.commands import COMMANDS, EVENTS, UNRECOGNIZED
from torsocks_tx.backends.tor.events import printable
from torsocks_tx.backends.tor.waiting import Waiters, limit
from torsocks_tx.errors import without_text

COMMAND_TIMEOUT = 10.0
"""Seconds that tor may take to answer a command; it answers in milliseconds unless it hangs."""

READ_SIZE = 8192
"""Bytes that are read from tor in one turn of the reactor. For each line of an answer txtorcon
copies all lines before it: by 64 KiB, the list of 3,000 circuits took turns of 50 ms."""

QUIET_SECONDS = 60.0
"""Seconds for which a line about a tor that cannot be used is not repeated."""

Listener = Callable[[str], None]
_T = TypeVar("_T")
_log = Logger()


class TorLog:
    """The log of one tor; ``label``: what a pool has at the beginning of each line."""

    def __init__(self) -> None:
        self.label = ""
        self._said: set[str] = set()
        self._quiet_until: dict[str, float] = {}

    def say(self, text: str, level: LogLevel = LogLevel.warn) -> None:
        """Log a line."""
        _log.emit(level, "{text}", text=self.label + text)

    def rarely(self, text: str, now: float) -> None:
        """Log a line, and not again for ``QUIET_SECONDS``, however many clients there are."""
        if now >= self._quiet_until.get(text, 0.0):
            self._quiet_until[text] = now + QUIET_SECONDS
            self.say(text)

    def once(self, text: str, level: LogLevel = LogLevel.warn) -> None:
        """Log a line, unless that was done before."""
        if text not in self._said:
            self._said.add(text)
            self.say(text, level)


class ControlError(Exception):
    """A command failed; ``code`` is tor's own, or 0 where tor gave none."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = printable(text)
        super().__init__(f"{code} {self.text}" if code else self.text)


class ControlLost(ControlError):
    """The control connection is gone."""

    def __init__(self) -> None:
        super().__init__(0, "the control connection is lost")


class Control:
    """Commands and events over one authenticated ``TorControlProtocol`` of txtorcon.

    ``is_proven``: tor has proved that it knows its cookie. ``ours``: the connection is, and is
    dropped when a command has had no answer for ``COMMAND_TIMEOUT``: answers come in order, so none
    will come to any later one. ``log``: that of this tor, for all connections to it.
    """

    def __init__(
        self, protocol: Any, clock: IReactorTime, *, ours: bool = False, log: TorLog | None = None
    ) -> None:
        self.protocol = protocol
        self.clock = clock
        self.is_proven = False
        self._ours = ours
        if ours:
            protocol.transport.bufferSize = READ_SIZE
        self.log = log or TorLog()
        self._changing_events = DeferredLock()
        self._subscriptions: dict[str, _Subscription] = {}
        self._lost: Waiters[None] = Waiters()
        protocol.when_disconnected().addBoth(lambda _: self._lost.settle(None))

    @property
    def version(self) -> str:
        """What tor says its version is, such as ``0.4.9.11``; "" where it does not say."""
        return str(self.protocol.version)

    @property
    def peer_host(self) -> str | None:
        """The address on which tor's control port answers; None for a unix socket."""
        peer = self.protocol.transport.getPeer()
        return peer.host if isinstance(peer, IPv4Address | IPv6Address) else None

    @property
    def peer_path(self) -> str | None:
        """The path of tor's control socket; None for a TCP port."""
        peer = self.protocol.transport.getPeer()
        return os.fsdecode(peer.name) if isinstance(peer, UNIXAddress) and peer.name else None

    async def command(self, line: str) -> str:
        """Send one command and return the text of its answer, one line under the other.

        The ``250`` of each line and the final ``OK`` are left out. A line break or a NUL in
        ``line`` is a ``ValueError``. A refusal, a loss and a missing answer are a ``ControlError``.
        """
        return await self._send(line)

    async def read_lines(self, line: str, take: Callable[[str], None]) -> None:
        """Send one command, and give ``take`` each line of its answer as it comes.

        That is for answers of many lines, and fails as ``command`` does; ``take`` must not raise.
        An ``OK`` may be the last line.
        """
        await self._send(line, take)

    async def _send(self, line: str, take: Callable[[str], None] | None = None) -> str:
        if any(character in line for character in "\r\n\0"):
            raise ValueError("a control command is one line")
        if self._lost.is_settled:
            raise ControlLost
        try:
            return await self._deadline(self.protocol.queue_command(line, take))
        except ControlError as error:
            if error.code == UNRECOGNIZED:
                for refused in (each for each in COMMANDS if each.admits(line)):
                    self.log.once(refused.loss(error.code), refused.level)
            raise

    async def get_info(self, key: str) -> str:
        """Return the raw value of one GETINFO key: quotes and escapes as tor sent them."""
        answer = await self.command(f"GETINFO {key}")
        name, equals, value = answer.partition("=")
        if name != key or not equals:
            raise ControlError(0, f"no value of {key} in the answer to GETINFO")
        return value.removeprefix("\n").removesuffix("\n")

    def listen(self, event: str, callback: Listener) -> Deferred[None]:
        """Have ``callback`` called with the text of each such event (without its name).

        The Deferred fires when tor has agreed to send them; it fails with a ``ControlError``.
        """
        if self._lost.is_settled:
            return fail(ControlLost())
        subscription = self._subscriptions.get(event)
        if subscription is None:
            subscription = self._subscriptions[event] = _Subscription(event)
            # One after the other: tor refuses all events of a command if it refuses one of them.
            self._changing_events.run(self._subscribe, subscription)
        subscription.callbacks.append(callback)
        return subscription.accepted.wait()

    def unlisten(self, event: str, callback: Listener) -> Deferred[None]:
        """Undo one ``listen``; after the last one tor is asked to send no more such events.

        The Deferred fires when tor has answered, and never fails: a failure is logged.
        """
        subscription = self._subscriptions.get(event)
        if subscription is None or callback not in subscription.callbacks:
            return succeed(None)
        subscription.callbacks.remove(callback)
        if subscription.callbacks or self._lost.is_settled:
            return succeed(None)
        del self._subscriptions[event]
        removed = self._changing_events.run(self._unsubscribe, subscription)
        return removed.addErrback(self._say_not_removed, event)

    def _subscribe(self, subscription: _Subscription) -> Deferred[None]:
        return Deferred.fromCoroutine(self._add(subscription)).addBoth(subscription.accepted.settle)

    async def _add(self, subscription: _Subscription) -> None:
        """Ask tor for an event; where it refuses, ask for the others as before."""
        event = subscription.event
        if self._lost.is_settled:
            raise ControlLost
        try:
            added = self.protocol.add_event_listener(event, subscription.deliver)
        except RuntimeError:  # an application's txtorcon knows tor's events by name
            del self._subscriptions[event]
            raise ControlError(552, f"tor knows no event {event}") from None
        subscription.is_known = True
        try:
            await self._deadline(added)
        except ControlError as error:
            if error.code and self._subscriptions.get(event) is subscription:
                del self._subscriptions[event]
                if event in EVENTS:
                    self.log.once(EVENTS[event].loss(error.code), EVENTS[event].level)
                with suppress(ControlError):
                    await self._unsubscribe(subscription)
            raise

    def _unsubscribe(self, subscription: _Subscription) -> Deferred[None]:
        if not subscription.is_known or self._lost.is_settled:
            return succeed(None)
        subscription.is_known = False
        return self._deadline(
            self.protocol.remove_event_listener(subscription.event, subscription.deliver)
        )

    def _say_not_removed(self, failure: Failure, event: str) -> None:
        """Log why tor goes on sending an event, unless it is gone or nobody waits any more."""
        if failure.check(ControlLost, CancelledError):
            return
        if failure.check(ControlError):
            self.log.say(f"tor goes on sending its event {event} ({failure.value})")
        else:
            text = "a fault of this program: it goes on listening to tor's {event}"
            _log.failure(text, without_text(failure), event=event)

    def when_lost(self) -> Deferred[None]:
        """Fire, and never fail, when the connection is gone; cancelling ends only this waiting."""
        return self._lost.wait()

    def close(self) -> None:
        """Drop the connection at once, even if tor hangs."""
        self.protocol.transport.abortConnection()

    def _deadline(self, answer: Deferred[_T]) -> Deferred[_T]:
        """Give ``answer`` a deadline, and turn every failure into a ``ControlError``."""
        return limit(answer, COMMAND_TIMEOUT, self.clock).addErrback(self._as_control_error)

    def _as_control_error(self, failure: Failure) -> NoReturn:
        # txtorcon installs the reactor when it is imported: not before there is a connection.
        from txtorcon.torcontrolprotocol import TorDisconnectError, TorProtocolError

        error = failure.value
        if isinstance(error, TorProtocolError):
            raise ControlError(int(error.code), str(error.text)) from None
        if isinstance(error, TorDisconnectError):
            raise ControlLost from None
        if isinstance(error, TimeoutError):
            if self._ours and not self._lost.is_settled:
                self.log.say("tor's control port has not answered: connecting again")
                self.close()
            raise ControlError(0, "tor did not answer in time") from None
        failure.raiseException()


async def unless_refused(answer: Awaitable[_T]) -> _T | None:
    """Return an answer of tor, or None where it gives none; a loss is still a ``ControlLost``."""
    try:
        return await answer
    except ControlLost:
        raise
    except ControlError:
        return None


class _Subscription:
    """All that listen to one event; txtorcon knows only this one listener."""

    def __init__(self, event: str) -> None:
        self.event = event
        self.is_known = False  # to txtorcon
        self.callbacks: list[Listener] = []
        self.accepted: Waiters[None] = Waiters()

    def deliver(self, text: str) -> None:
        """Call every listener."""
        call_all(self.callbacks, text, self.event)


def call_all(callbacks: Sequence[Callable[[_T], object]], value: _T, event: str) -> None:
    """Call each, also if one of them is taken out of the list or fails meanwhile."""
    for callback in tuple(callbacks):
        try:
            callback(value)
        except Exception:
            text = "a listener to tor's {event} failed"
            _log.failure(text, without_text(Failure()), event=event)
