"""Questions to tor about an onion service that could not be reached, where no event says why.

A thousand streams that fail at once share one command and its answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.commands import CIRCUITS, CLIENT_AUTH_VIEW, VERSION
from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.onion.events import Step, parse_circuit
from torsocks_tx.backends.tor.waiting import Waiters, limit
from torsocks_tx.socks.onion_address import has_public_key

ANSWER_TIMEOUT = 1.0
"""Seconds for tor to answer once it has refused a stream; it takes under a millisecond."""

LINES_AT_ONCE = 50
"""Circuits of tor's list that are read in one turn of the reactor: it takes a millisecond."""

_T = TypeVar("_T")

_Joined = dict[str, set[str | None]]
"""For each onion service, the tokens of the circuits to it that are open."""


class SharedCommands(Generic[_T]):
    """Sends each command at most once at a time; ``ask`` sends one and fires with its answer.

    An answer is at least as new as the question: a command that is under way already is not
    waited for, but the one after it.
    """

    def __init__(self, ask: Callable[[str], Deferred[_T]], clock: IReactorTime) -> None:
        self._ask = ask
        self._clock = clock
        self._sent: set[str] = set()
        self._next: dict[str, Waiters[_T]] = {}

    def answer_to(self, command: str) -> Deferred[_T]:
        """Fire with tor's answer; fail as ``ask`` does. Can be cancelled."""
        if command in self._sent:
            return self._next.setdefault(command, Waiters(self._clock)).wait()
        waiters: Waiters[_T] = Waiters(self._clock)
        waiting = waiters.wait()
        self._send(command, waiters)
        return waiting

    def _send(self, command: str, waiters: Waiters[_T]) -> None:
        self._sent.add(command)
        asked = self._ask(command)
        asked.addCallbacks(waiters.fire, lambda failure: _fail(waiters, failure))
        asked.addBoth(lambda _: self._send_again(command))

    def _send_again(self, command: str) -> None:
        """Send the command for those who asked while it was under way."""
        self._sent.discard(command)
        waiters = self._next.pop(command, None)
        if waiters is not None:
            self._send(command, waiters)


def _fail(waiters: Waiters[_T], failure: Failure) -> None:
    error = failure.value
    waiters.fail(lambda: error if isinstance(error, Exception) else ControlLost())


class TorQueries:
    """Asks by one control connection.

    All fail with ``ControlError`` or, where tor is silent, ``TimeoutError``.
    """

    def __init__(self, control: Control, clock: IReactorTime, cooperator: Cooperator) -> None:
        def ask(command: str) -> Deferred[str]:
            return limit(Deferred.fromCoroutine(control.command(command)), ANSWER_TIMEOUT, clock)

        async def read_circuits(command: str) -> _Joined:
            joined: _Joined = defaultdict(set)
            reading = _read_joined(await ask(command), joined)
            for _ in reading:  # a short answer is read at once
                await cooperator.coiterate(reading)
            return joined

        self._commands = SharedCommands(ask, clock)
        self._circuits = SharedCommands(
            lambda command: Deferred.fromCoroutine(read_circuits(command)), clock
        )

    async def fence(self) -> None:
        """Return when all events that tor has sent so far are read."""
        try:
            await self._commands.answer_to(VERSION.line())
        except ControlError as error:
            if not error.code:  # a refusal is an answer, too
                raise

    async def has_joined_circuit(self, address: str, token: str | None) -> bool:
        """Whether a circuit to the service is open that streams with this token use."""
        joined = await self._circuits.answer_to(CIRCUITS.line())
        tokens = joined.get(address, set())
        return bool(tokens) if token is None else not tokens.isdisjoint((token, None))

    async def has_key(self, address: str) -> bool:
        """Whether tor holds a client authorization key for the service."""
        answer = await self._commands.answer_to(CLIENT_AUTH_VIEW.line(address=address))
        return any(line.startswith(f"CLIENT {address} ") for line in answer.splitlines())


def _read_joined(circuits: str, joined: _Joined) -> Iterator[None]:
    """Add the circuits of tor's list that are joined, some of them in each step."""
    for number, line in enumerate(circuits.splitlines(), 1):
        if "HSCR_JOINED" in line:  # spare the others the parsing
            circuit = parse_circuit(line.removeprefix("circuit-status="))
            if circuit is not None and circuit.step is Step.JOINED:
                joined[circuit.address].add(circuit.token)
        if number % LINES_AT_ONCE == 0:
            yield


def check_key(address: str, cooperator: Cooperator) -> Deferred[bool]:
    """Fire with whether a service can have this address, by a step of ``cooperator``."""

    def check() -> Iterator[None]:
        checked.callback(has_public_key(f"{address}.onion"))
        yield from ()

    checked: Deferred[bool] = Deferred(lambda _: task.stop())
    task = cooperator.cooperate(check())
    return checked
