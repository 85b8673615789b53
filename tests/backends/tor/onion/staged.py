"""A fake ``Control``: the test sends its events, and answers come from a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from tests.support.names import ONION
from torsocks_tx.backends.tor.control import ControlLost, TorLog
from torsocks_tx.backends.tor.waiting import Waiters

ADDRESS = ONION.removesuffix(".onion")
VIEW = f"ONION_CLIENT_AUTH_VIEW {ADDRESS}"
NO_KEY = f"ONION_CLIENT_AUTH_VIEW {ADDRESS}"
KEY = f"{NO_KEY}\nCLIENT {ADDRESS} x25519:AAAA"


class StagedControl:
    """Has what ``Control`` has and the onion observer uses.

    ``answers``: by the whole command; a Deferred is waited for, an exception is raised.
    ``listening``: how a ``listen`` ends: a Deferred to wait for, or an exception to raise.
    """

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.log = TorLog()
        self.answers: dict[str, Any] = {"GETINFO version": "0.4.9.11", VIEW: NO_KEY}
        self.listeners: dict[str, list[Callable[[str], None]]] = defaultdict(list)
        self.listening: Any = None
        self.lost = False
        self._losing: Waiters[None] = Waiters()

    async def command(self, line: str) -> str:
        self.commands.append(line)
        if self.lost:
            raise ControlLost
        answer = self.answers.get(line, "")
        if isinstance(answer, Deferred):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    async def get_info(self, key: str) -> str:
        return await self.command(f"GETINFO {key}")

    async def read_lines(self, line: str, take: Callable[[str], None]) -> None:
        for each in (await self.command(line)).splitlines():
            take(each)

    async def listen(self, event: str, callback: Callable[[str], None]) -> None:
        if isinstance(self.listening, Deferred):
            await self.listening
        if isinstance(self.listening, Exception):
            raise self.listening
        self.listeners[event].append(callback)

    def unlisten(self, event: str, callback: Callable[[str], None]) -> Deferred[None]:
        if callback in self.listeners[event]:
            self.listeners[event].remove(callback)
        return succeed(None)

    def when_lost(self) -> Deferred[None]:
        return self._losing.wait()

    def lose(self) -> None:
        """Lose the connection."""
        self.lost = True
        self._losing.fire(None)

    def send(self, *events: str) -> None:
        """Send events, each with its name in front."""
        for event in events:
            name, _, text = event.partition(" ")
            for listener in tuple(self.listeners[name]):
                listener(text)


def staged() -> Any:
    """Make one, typed so that it can stand for a ``Control``."""
    return StagedControl()


def requested() -> str:
    return f"HS_DESC REQUESTED {ADDRESS} NO_AUTH $A~relay desc"


def received() -> str:
    return f"HS_DESC RECEIVED {ADDRESS} NO_AUTH $A~relay desc"


def failed(reason: str) -> str:
    return f"HS_DESC FAILED {ADDRESS} NO_AUTH $A~relay desc REASON={reason}"


def _circuit(name: str, status: str, purpose: str, state: str, token: str, rest: str = "") -> str:
    return (
        f"{name} 7 {status} $A~relay PURPOSE={purpose} HS_STATE={state} REND_QUERY={ADDRESS}"
        f' SOCKS_USERNAME="<torS0X>0" SOCKS_PASSWORD="{token}"{rest}'
    )


def intro_moved(state: str, before: str, token: str = "token", more: str = "") -> str:
    rest = f"{more} OLD_PURPOSE=HS_CLIENT_INTRO OLD_HS_STATE={before}"
    return _circuit("CIRC_MINOR", "PURPOSE_CHANGED", "HS_CLIENT_INTRO", state, token, rest)


def acknowledged(token: str = "token", more: str = "") -> str:
    return intro_moved("HSCI_DONE", "HSCI_INTRO_SENT", token, more)


def nacked(token: str = "token") -> str:
    return intro_moved("HSCI_CONNECTING", "HSCI_INTRO_SENT", token)


def joined(token: str = "token", name: str = "CIRC_MINOR") -> str:
    return _circuit(name, "PURPOSE_CHANGED", "HS_CLIENT_REND", "HSCR_JOINED", token)


def built(token: str = "token") -> str:
    return _circuit("CIRC", "BUILT", "HS_CLIENT_INTRO", "HSCI_CONNECTING", token)


def abandoned(token: str = "token") -> str:
    rend = ("HS_CLIENT_REND", "HSCR_ESTABLISHED_WAITING")
    return _circuit("CIRC", "CLOSED", *rend, token, " REASON=TIMEOUT")


def left(token: str = "token") -> str:
    return _circuit("CIRC", "CLOSED", "HS_CLIENT_REND", "HSCR_JOINED", token, " REASON=FINISHED")


def silent(token: str = "token") -> str:
    intro = ("HS_CLIENT_INTRO", "HSCI_INTRO_SENT")
    return _circuit("CIRC", "CLOSED", *intro, token, " REASON=TIMEOUT")
