"""A tor in memory with relays, mappings and a SocksPort, and a backend over it."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from zope.interface import implementer

from tests.backends.ends import Receiver
from tests.backends.tor.onion.staged import StagedControl
from tests.support.transports import FakeTransport
from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.ports import SocksPort
from torsocks_tx.backends.tor.providers import FixedTorProvider
from torsocks_tx.errors import SOCKSError
from torsocks_tx.policy.circuits import ExitChoice
from torsocks_tx.policy.fresh import FREE, Tries
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Address, Credentials, Request

FLAGS = "Exit Fast Running Stable Valid"
_ALIAS = re.compile(rb"[0-9a-f]{32}\.invalid")


def fingerprint(name: str) -> str:
    return name.encode().ljust(20, b"-").hex().upper()


def kinds(heard: list[Any]) -> list[Any]:
    """Return what a receiver heard, with the class of each refusal in its place."""
    return [type(each) if isinstance(each, SOCKSError) else each for each in heard]


def choice_of(*countries: str) -> ExitChoice:
    return ExitChoice(frozenset(countries))


class ScriptedTor(StagedControl):
    """``relays``: address, flags and bandwidth by name; ``countries`` by address, None: no geoip.

    ``mapped``: targets by alias. ``circuits``: the lines of circuit-status.
    """

    def __init__(self, relays: Mapping[str, tuple[str, str, str]], countries: Any) -> None:
        super().__init__()
        self.relays = dict(relays)
        self.countries: Mapping[str, str] | None = countries
        self.mapped: dict[str, str] = {}
        self.circuits: list[str] = []

    async def command(self, line: str) -> str:
        said = await super().command(line)
        word, *rest = line.split(" ")
        if word == "MAPADDRESS":
            for pair in rest:
                alias, _, target = pair.partition("=")
                self.mapped.pop(alias, None)
                if target != alias:
                    self.mapped[alias] = target
        if line == "GETINFO ip-to-country/ipv4-available":
            return f"ip-to-country/ipv4-available={int(self.countries is not None)}"
        if line.startswith("GETINFO ip-to-country/"):
            known = self.countries or {}
            return "\n".join(f"{key}={known.get(key.partition('/')[2], '??')}" for key in rest)
        return said

    async def get_info(self, key: str) -> str:
        return (await self.command(f"GETINFO {key}")).partition("=")[2]

    async def read_lines(self, line: str, take: Callable[[str], None]) -> None:
        await super().command(line)
        lines = ["circuit-status=", *self.circuits]
        if line == "GETINFO ns/all":
            lines = ["ns/all="]
            for name, (address, flags, bandwidth) in self.relays.items():
                key = base64.b64encode(bytes.fromhex(fingerprint(name))).decode().rstrip("=")
                when = "2038-01-01 00:00:00"
                lines.append(f"r {name} {key} {key} {when} {address} 9001 0")
                lines += [f"s {flags}", f"w Bandwidth={bandwidth}"]
        for each in [*lines, "OK"]:
            take(each)


RELAYS = {
    **{f"a{n}": (f"192.0.2.{n}", FLAGS, "100") for n in range(6)},
    **{f"b{n}": (f"198.51.100.{n}", FLAGS, "100") for n in range(3)},
    "bad": ("192.0.2.99", f"BadExit {FLAGS}", "9999999"),
    "middle": ("192.0.2.98", "Fast Running Valid", "9999999"),
    "down": ("192.0.2.97", "Exit Valid", "9999999"),
}
COUNTRIES = {
    address: "aa" if address.startswith("192") else "bb" for address, *_ in RELAYS.values()
}


def tor() -> ScriptedTor:
    return ScriptedTor(RELAYS, COUNTRIES)


@implementer(IStreamClientEndpoint)
class Play:
    """A backend, and the SocksPort of its tor: ``codes`` has the reply of each exit; None: none.

    ``asked``: host, name of the exit and port of each stream; ``tokens`` and ``transports`` in the
    same order.
    ``takes_others``: a stream without a choice is granted, too.
    """

    def __init__(self, control: Any = None, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.control = control or tor()
        self.codes: dict[str, int | None] = {}
        self.takes_others = False
        self.asked: list[tuple[str, str, int]] = []
        self.tokens: list[str] = []
        self.transports: list[FakeTransport] = []
        self.provider = FixedTorProvider(self)  # type: ignore[arg-type]
        self.provider._port = SocksPort(self, True)  # type: ignore[arg-type]
        self.provider.control = self.control
        self.provider.start()
        self.backend = TorBackend(self.clock, self.provider)

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Be tor's SocksPort: take the connection, and answer in the next turn."""
        connected: Deferred[Any] = Deferred(lambda _: None)
        protocol: Any = factory.buildProtocol(None)  # type: ignore[arg-type]
        self.clock.callLater(0, self._serve, protocol, connected)
        return connected

    def _serve(self, protocol: Any, connected: Deferred[Any]) -> None:
        if connected.called:
            return
        transport = FakeTransport()
        transport.connect(protocol)
        connected.callback(protocol)
        said = transport.take()
        match = _ALIAS.search(said)
        if match is None and self.takes_others:
            self.reply(transport, 0)
            return
        assert match is not None, "a name that is no alias has come to tor"
        host, _, key = self.control.mapped[match[0].decode()].removesuffix(".exit").rpartition(".")
        (name,) = [each for each in self.control.relays if fingerprint(each) == key]
        self.asked.append((host, name, int.from_bytes(said[-2:], "big")))
        self.transports.append(transport)
        login = said.partition(b"<torS0X>0")[2]
        self.tokens.append(login[1 : 1 + login[0]].decode())
        code = self.codes.get(name, 0)
        if code is not None:
            self.clock.callLater(0, self.reply, transport, code)

    def reply(self, transport: FakeTransport, code: int) -> None:
        if "abortConnection" not in transport.asked:
            transport.protocol.dataReceived(b"\1\0\5" + bytes([code]) + b"\0\1" + bytes(6))

    def lose(self, control: Any = None) -> None:
        """Lose the control connection, and get this one in its place."""
        self.control.lost = True
        self.provider.control = control
        if control is not None:
            self.control = control

    def open(
        self,
        choice: ExitChoice | None = None,
        host: str = "web.test",
        *,
        command: Command = Command.CONNECT,
        key: bytes = b"key",
        tries: Tries = FREE,
    ) -> tuple[Any, Receiver]:
        """Open a stream through the choice (``aa``), and let it come as far as it can at once."""
        receiver = Receiver()
        request = Request(Version.SOCKS5, command, Address.of(host, 80))
        exits = choice_of("aa") if choice is None else choice
        isolation = Isolation(Credentials(b"<torS0X>0", key), exits=exits, tries=tries)
        stream = self.backend.open(request, isolation, receiver)
        assert receiver.heard == [], "nothing is called from inside open"
        self.turn()
        return stream, receiver

    def outcome(self, *arguments: Any, **more: Any) -> Any:
        """Open a stream; return "opened", the class of its refusal, or None while it waits."""
        try:
            heard = self.open(*arguments, **more)[1].heard
        except SOCKSError as reason:
            heard = [reason]
        return (kinds(heard) or [None])[0]

    def turn(self, seconds: float = 0.0) -> None:
        """Let so much time pass, and everything happen that needs no more."""
        self.clock.advance(seconds)
        for _ in range(40):
            self.clock.advance(0)


def waiting() -> tuple[Play, Receiver]:
    """Return a play whose exits do not answer, and the receiver of a stream that waits for one."""
    play = Play()
    play.codes = dict.fromkeys(play.control.relays)
    return play, play.open()[1]
