"""Questions to tor about an onion service that could not be reached, where no event says why.

A thousand streams that fail at once share one command and its answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.commands import CIRCUITS, CLIENT_AUTH_VIEW, VERSION
from torsocks_tx.backends.tor.control import Control, ControlError, ControlLost
from torsocks_tx.backends.tor.onion.events import Step, parse_circuit
from torsocks_tx.backends.tor.waiting import Waiters, limit

ANSWER_TIMEOUT = 1.0
"""Seconds for tor to answer once it has refused a stream; it takes under a millisecond."""

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
        # Who waits for the next answer, of the commands that are under way.
        self._next: dict[str, Waiters[_T] | None] = {}

    def answer_to(self, command: str) -> Deferred[_T]:
        """Fire with tor's answer; fail as ``ask`` does. Can be cancelled."""
        is_sent = command in self._next
        waiters = self._next.get(command) or Waiters(self._clock)
        waiting = waiters.wait()
        if is_sent:
            self._next[command] = waiters
        else:
            self._send(command, waiters)
        return waiting

    def _send(self, command: str, waiters: Waiters[_T]) -> None:
        self._next[command] = None
        asked = self._ask(command)
        asked.addCallbacks(waiters.fire, lambda failure: _fail(waiters, failure))
        asked.addBoth(lambda _: self._send_again(command))

    def _send_again(self, command: str) -> None:
        """Send the command for those who asked while it was under way."""
        waiters = self._next.pop(command)
        if waiters is not None:
            self._send(command, waiters)


def _fail(waiters: Waiters[_T], failure: Failure) -> None:
    error = failure.value
    waiters.fail(lambda: error if isinstance(error, Exception) else ControlLost())


class TorQueries:
    """Asks by one control connection.

    All fail with ``ControlError`` or, where tor is silent, ``TimeoutError``.
    """

    def __init__(self, control: Control, clock: IReactorTime) -> None:
        def ask(command: str) -> Deferred[str]:
            return limit(Deferred.fromCoroutine(control.command(command)), ANSWER_TIMEOUT, clock)

        def read_circuits(command: str) -> Deferred[_Joined]:
            joined: _Joined = defaultdict(set)
            reading = control.read_lines(command, lambda line: _note_joined(line, joined))
            answered = limit(Deferred.fromCoroutine(reading), ANSWER_TIMEOUT, clock)
            return answered.addCallback(lambda _: joined)

        self._commands = SharedCommands(ask, clock)
        self._circuits = SharedCommands(read_circuits, clock)

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


def _note_joined(line: str, joined: _Joined) -> None:
    """Note a circuit of tor's list if it is joined."""
    if "HSCR_JOINED" in line:  # spare the others the parsing
        circuit = parse_circuit(line.removeprefix("circuit-status="))
        if circuit is not None and circuit.step is Step.JOINED:
            joined[circuit.address].add(circuit.token)
