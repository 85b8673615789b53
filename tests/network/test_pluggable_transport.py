"""Real tor as the parent of a pluggable transport: managed and unmanaged, as a bridge's client."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import NoRouteError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory

from tests.network.asking import DEADLINE, ask, hang_up, request
from tests.project.test_snippets import Snippet, execute, snippets
from tests.pt.bridge import EXAMPLE, Bridge, load_example
from tests.support.peers import until
from tests.support.processes import ROOT, descendants, is_alive, process_ended
from tests.support.rows import rows
from tests.support.tables import table
from torsocks_tx.backends.direct import DirectBackend
from torsocks_tx.errors import TimedOut
from torsocks_tx.policy.isolation import Isolation
from torsocks_tx.pt import Internal, InvalidBridge, Target, Temporary, TransportFactory
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.socks.constants import Version
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Request
from torsocks_tx.testing.tornet import PrivateNetwork
from torsocks_tx.testing.tornet.client import Client
from torsocks_tx.testing.tornet.servers import PortReservations

pytestmark = pytest.mark.network

SECRET = b"swordfish"
SECRET_ARGUMENT = "secret=swordfish"
EXPECTED_WARNINGS = (
    "You have used DirAuthority",
    "TestingTorNetwork is set",
    "Your log may contain sensitive information",
    "You are running Tor as root",
)
KINDS = ("far", "bridge")
EXEC = f"exec /usr/bin/env PYTHONPATH={ROOT} {sys.executable} -X dev -W error {EXAMPLE}"


@dataclass
class Place:
    """A bridge of the private network: a relay, and the server of the transport in front of it."""

    network: PrivateNetwork
    bridge: Bridge
    port: int
    fingerprint: str
    directory: Path
    served: list[tuple[Any, Factory]] = field(default_factory=list)

    @property
    def log(self) -> str:
        """The log of the parent, at the level info."""
        return (self.directory / "parent.log").read_text("utf-8")

    @property
    def warnings(self) -> list[str]:
        """Its warnings, without those that every daemon of the network has."""
        lines = re.findall(r"\[(?:warn|err)\] (.*)", self.log)
        return [line for line in lines if not line.startswith(EXPECTED_WARNINGS)]

    async def client(self, plugin: str, *lines: str, arguments: str = SECRET_ARGUMENT) -> Client:
        """Start a tor that connects through the transport only, and wait until it has circuits."""
        transport = f"ClientTransportPlugin veil {plugin}"
        bridge = f"Bridge veil 127.0.0.1:{self.port} {self.fingerprint} {arguments}"
        return await self.start(transport, bridge, *lines)

    async def start(self, *lines: str) -> Client:
        """Start a tor with bridges only, and wait until it has circuits."""
        client = await self.network.add_client(
            ["UseBridges 1", f"Log info file {self.directory / 'parent.log'}", *lines]
        )
        assert client.node.bootstrapped == 100
        return client

    async def listen(self, factory: Factory) -> str:
        """Listen until the end of the test; return ``host:port``."""
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.served.append((port, factory))
        return f"127.0.0.1:{port.getHost().port}"

    async def stop(self) -> None:
        """Stop all listeners, and close the connections of our servers."""
        for port, factory in self.served:
            await port.stopListening()
            if isinstance(factory, SOCKSFactory):
                factory.abort_all()
                await factory.when_empty()

    async def visit(self, client: Client) -> bytes:
        """Fetch a page through a client."""
        host, port = client.socks_tcp
        asker = await ask(f"{host}:{port}", request("web.test", self.network.web.port))
        asker.transport.write(b"GET / HTTP/1.0\r\n\r\n")
        await asker.lost.addTimeout(DEADLINE, reactor)
        return asker.received


@pytest_twisted.async_yield_fixture
async def place(private_network: PrivateNetwork, tmp_path: Path) -> AsyncIterator[Place]:
    """Serve the transport in front of a relay; stop the clients of the test afterwards."""
    known = len(private_network.clients)
    control = await private_network.daemons["exit0"].control()
    fingerprint = await control.get_info("fingerprint")
    host, _, port = (await control.get_info("net/listeners/or")).strip('"').partition(":")
    bridge = Bridge(TCP4ClientEndpoint(reactor, host, int(port)), SECRET)
    place = Place(private_network, bridge, 0, fingerprint, tmp_path)
    place.port = int((await place.listen(bridge)).rpartition(":")[2])
    yield place
    for client in private_network.clients[known:]:
        await client.node.stop()
    await place.stop()


@rows("P-02")
async def test_tor_starts_the_example_and_connects_through_it(place: Place) -> None:
    client = await place.client(EXEC)
    assert b"This is the IPv4 origin." in await place.visit(client)
    assert place.bridge.streams > 0
    assert place.warnings == []
    assert "Managed proxy" in place.log
    (transport,) = [pid for pid in descendants(client.node.pid) if is_alive(pid)]
    await client.node.stop()
    await process_ended(transport)


async def test_both_sides_of_the_document_make_a_bridge(
    private_network: PrivateNetwork, tmp_path: Path
) -> None:
    pieces = snippets("pluggable-transports.md")
    [far], [code] = ([piece.code for piece in pieces if piece.kind == kind] for kind in KINDS)
    codec = next(piece.code for piece in pieces if "class Invert" in piece.code)
    (tmp_path / "far.py").write_text(far)
    (tmp_path / "near.py").write_text(
        f"{codec}\nfrom torsocks_tx.pt import run\nrun(dict(invert=invert))"
    )
    ports = PortReservations()
    code = code.replace("4000", str(ports.take())).replace("/usr/local/lib", str(tmp_path))
    python = f"/usr/bin/env PYTHONPATH={ROOT} {sys.executable}"
    names: dict[str, Any] = {"net": private_network}
    known = len(private_network.clients)
    try:
        await execute([Snippet("", "", code.replace("/usr/bin/python3", python))], names)
        asker = await ask(
            "{}:{}".format(*names["client"].socks_tcp),
            request("web.test", private_network.web.port),
        )
        await hang_up(asker)
    finally:
        for client in private_network.clients[known:]:
            await client.node.stop()
        ports.release()


async def test_tor_logs_which_argument_a_bridge_line_lacks(place: Place) -> None:
    starting = Deferred.fromCoroutine(place.client(EXEC, arguments=""))
    words, log = "the bridge line has no argument secret", place.directory / "parent.log"
    await until(lambda: log.exists() and words in place.log, 0.1)
    assert all(words in line for line in place.warnings if "Managed proxy" in line)
    starting.cancel()
    with pytest.raises(CancelledError):
        await starting


NEWS = """
import sys
sys.path.insert(0, {root!r})
from twisted.logger import Logger
from torsocks_tx.pt import run

def plain(target):
    log = Logger()
    log.info('a "quoted" \\\\ word,\\nanother line, \N{EURO SIGN}')
    log.warn("mind the gap")
    print("by accident")
    target.setting.report({{"CONNECT": "Success", "HOW": 'very "well"'}})
    return target.endpoint

run({{"plain": plain}})
"""


async def test_log_and_status_lines_are_understood(place: Place, tmp_path: Path) -> None:
    program = tmp_path / "plain.py"
    program.write_text(NEWS.format(root=str(ROOT)), "utf-8")
    relay = place.bridge.endpoint
    assert isinstance(relay, TCP4ClientEndpoint)
    client = await place.start(
        f"ClientTransportPlugin plain exec {sys.executable} {program}",
        f"Bridge plain 127.0.0.1:{relay._port} {place.fingerprint}",
    )
    for words in ('a "quoted" \\ word', "mind the gap", "by accident"):
        assert f": {words}" in place.log or words in place.log
    assert {line.rpartition(": ")[2] for line in place.warnings} == {"mind the gap"}
    assert "Got a line from managed proxy" in place.log
    for refusal in ("Unknown", "invalid", "Invalid", "is malformed"):
        assert f"{refusal} line" not in place.log
    await client.node.stop()


class Proxy(SOCKSFactory):
    """A proxy on loopback, by SOCKS and by HTTP; ``requests`` lists its requests."""

    def __init__(self) -> None:
        super().__init__(DirectBackend(reactor, allow_internal=True))
        self.requests: list[Request] = []

    def admit(self, request: Request, peer: Any) -> Isolation:
        self.requests.append(request)
        return super().admit(request, peer)


@pytest.mark.parametrize(
    ("version", "lines", "credentials"),
    table(
        ("SOCKS5", Version.SOCKS5, ["Socks5Proxy"], None),
        (
            "SOCKS5 with a password",
            Version.SOCKS5,
            ["Socks5Proxy", "Socks5ProxyUsername me", "Socks5ProxyPassword a@b:c"],
            Credentials(b"me", b"a@b:c"),
        ),
        ("SOCKS4", Version.SOCKS4, ["Socks4Proxy"], Credentials(b"")),
        ("HTTP", Version.HTTP, ["HTTPSProxy"], None),
        (
            "HTTP with a password",
            Version.HTTP,
            ["HTTPSProxy", "HTTPSProxyAuthenticator me:a@b:c"],
            Credentials(b"me", b"a@b:c"),
        ),
    ),
)
async def test_transport_connects_through_the_proxy_of_tor(
    place: Place, version: Version, lines: list[str], credentials: Credentials | None
) -> None:
    proxy = Proxy()
    kind, *login = lines
    client = await place.client(EXEC, f"{kind} {await place.listen(proxy)}", *login)
    assert b"This is the IPv4 origin." in await place.visit(client)
    assert place.bridge.streams == len(proxy.requests) > 0
    for asked in proxy.requests:
        assert (asked.version, asked.credentials) == (version, credentials)
        assert asked.address == Address.of("127.0.0.1", place.port)
    assert place.warnings == []


class Unmanaged:
    """The example's transport, served by this process."""

    def __init__(self) -> None:
        self.targets: list[Target] = []
        self.factory: TransportFactory = TransportFactory(reactor, self._transport)
        self.failures: list[Exception] = []

    def _transport(self, target: Target) -> IStreamClientEndpoint:
        self.targets.append(target)
        if self.failures:
            raise self.failures.pop()
        endpoint: IStreamClientEndpoint = load_example().veil(target)
        return endpoint


def filled(length: int) -> bytes:
    """Arguments whose text has this length, the secret among them."""
    start = b"secret=swordfish;fill="
    return start + b"x" * (length - len(start))


# Words of torrc, and the arguments of the transport. Each has the secret, or no stream opens.
ARGUMENTS = table(
    (
        "escapes, and a key twice",
        [
            SECRET_ARGUMENT,
            r"back=a\b",
            "semi=a;b",
            "equal=a=b==",
            r"all=\;=\\;",
            "empty=",
            "k=2",
            "k=1",
        ],
        (
            ("secret", SECRET),
            ("back", rb"a\b"),
            ("semi", b"a;b"),
            ("equal", b"a=b=="),
            ("all", rb"\;=\\;"),
            ("empty", b""),
            ("k", b"2"),
            ("k", b"1"),
        ),
    ),
    *(
        (
            f"{length} bytes",
            filled(length).decode().split(";"),
            (("secret", SECRET), ("fill", b"x" * (length - len(filled(22))))),
        )
        for length in (255, 256, 510)
    ),
    (
        "an escape across the cut",
        ["secret=swordfish", "fill=" + "x" * 232 + r"\;\;"],
        (("secret", SECRET), ("fill", b"x" * 232 + rb"\;\;")),
    ),
)


def by_version() -> Iterator[Any]:
    """All rows of ``ARGUMENTS`` by SOCKS5, and those with escapes or 510 bytes by SOCKS4."""
    for row in ARGUMENTS:
        yield pytest.param("socks5", *row.values, id=f"socks5, {row.id}")
        if row.id in ("escapes, and a key twice", "510 bytes"):
            yield pytest.param("socks4", *row.values, id=f"socks4, {row.id}")


@rows("P-02")
@pytest.mark.parametrize(("version", "words", "arguments"), list(by_version()))
async def test_arguments_arrive_intact(
    place: Place, version: str, words: Sequence[str], arguments: tuple[tuple[str, bytes], ...]
) -> None:
    transport = Unmanaged()
    where = f"{version} {await place.listen(transport.factory)}"
    client = await place.client(where, arguments=" ".join(words))
    assert {target.arguments for target in transport.targets} == {KeyValues(arguments)}
    assert {target.address.port for target in transport.targets} == {place.port}
    assert b"This is the IPv4 origin." in await place.visit(client)
    assert place.warnings == []


@rows("P-26", "P-29", "P-31", "P-33")
@pytest.mark.parametrize(
    "failures",
    [
        # tor tries again by itself, after ever longer times: few for each.
        {
            Temporary("busy"): "general SOCKS server failure",
            NoRouteError(): "Network unreachable",
            TimedOut("late"): "TTL expired",
        },
        {InvalidBridge("no"): "Connection refused", Internal("oh"): "general SOCKS server failure"},
    ],
)
async def test_tor_understands_the_failures_of_a_transport(
    place: Place, failures: dict[Exception, str]
) -> None:
    """tor does not offer method 0x97, so it gets plain codes."""
    transport = Unmanaged()
    transport.failures = list(failures)
    await place.client(f"socks5 {await place.listen(transport.factory)}")
    assert not transport.failures
    for words in failures.values():
        assert words in place.log
    assert "Unknown error" not in place.log
