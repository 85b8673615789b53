"""Name look-ups without Tor: by files, then by a name server, here on loopback."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from select import select
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.names import dns
from twisted.names.common import ResolverBase
from twisted.names.error import DomainError
from twisted.names.server import DNSServerFactory
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.support.peers import DEADLINE, Watcher, turn
from torsocks_tx.backends import names
from torsocks_tx.backends.names import NameResolver, parse_hosts, parse_resolv_conf
from torsocks_tx.errors import Busy, HostUnreachable, Refused
from torsocks_tx.relay.timeouts import WORK

HOST, HOST_6 = "93.184.216.34", "2606:2800:220:1::1"
MANY = [f"93.184.216.{number}" for number in range(60)]
A: dict[str, list[str]] = {
    "www.example": [HOST, HOST_6, HOST],
    "_dmarc.a_b.example": [HOST],
    "six.example": [HOST_6],
    "many.example": MANY,
}
PTR = {
    "8.8.8.8.in-addr.arpa": "dns.google",
    "4.4.8.8.in-addr.arpa": "bad name",
    "1.1.1.1.in-addr.arpa": "10.0.0.1",
}


class Zone(ResolverBase, Watcher):
    """The records of the name server; ``asked`` lists its queries."""

    def __init__(self) -> None:
        super().__init__()
        Watcher.__init__(self)
        self.asked: list[tuple[str, int]] = []

    def _lookup(self, name: bytes, cls: int, type: int, timeout: object) -> Deferred[Any]:
        host = name.decode("ascii")
        self.asked.append((host, type))
        self.notice()
        if host.endswith("silent.example") or (host == "half.example" and type == dns.AAAA):
            return Deferred()
        if host == "alias.example":
            records: list[Any] = [dns.Record_CNAME(b"half.example"), dns.Record_A(HOST)]
        elif host == "half.example":
            records = [dns.Record_A(HOST)]
        elif type == dns.PTR:
            records = [dns.Record_PTR(PTR[host].encode())] if host in PTR else []
        else:
            kind = dns.Record_AAAA if type == dns.AAAA else dns.Record_A
            records = [kind(ip) for ip in A.get(host, []) if (":" in ip) is (type == dns.AAAA)]
        if not records and host not in A:
            return fail(DomainError(name))
        return succeed(([dns.RRHeader(name, r.TYPE, cls, 60, r) for r in records], [], []))


def one_number() -> tuple[socket.socket, socket.socket]:
    """Return sockets of UDP and TCP whose ports have one number; the second listens."""
    while True:
        udp = socket.socket(type=socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        try:
            tcp = socket.create_server(udp.getsockname())
        except OSError:  # another program has the TCP port of this number
            udp.close()
        else:
            tcp.setblocking(False)
            return udp, tcp


class NameServer:
    """A name server on loopback, by UDP and TCP."""

    def __init__(self) -> None:
        self.zone = Zone()
        factory = DNSServerFactory(clients=[self.zone])
        factory.noisy = False
        protocol = dns.DNSDatagramProtocol(factory)
        udp, tcp = one_number()
        self.at = udp.getsockname()
        with udp, tcp:
            self.udp = reactor.adoptDatagramPort(udp.fileno(), udp.family, protocol)
            self.tcp = reactor.adoptStreamPort(tcp.fileno(), tcp.family, factory)

    async def stop(self) -> None:
        await self.udp.stopListening()
        await self.tcp.stopListening()


@pytest_twisted.async_yield_fixture
async def server() -> Any:
    server = NameServer()
    yield server
    await server.stop()
    await turn()
    # A look-up leaves no timer.
    assert [call for call in reactor.getDelayedCalls() if "names" in repr(call)] == []


@pytest.fixture
def resolver(server: NameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NameResolver:
    """Ask the name server once, but for the one name in its hosts file."""
    monkeypatch.setattr(names, "TIMEOUTS", (DEADLINE,))
    (tmp_path / "hosts").write_text("10.0.0.1 box")
    return NameResolver(reactor, servers=[server.at], hosts=str(tmp_path / "hosts"))


def outcome(look_up: Deferred[Any]) -> Any:
    """Return a list that holds the result or the exception, once there is one."""
    heard: list[Any] = []
    look_up.addCallbacks(heard.append, lambda failure: heard.append(failure.value))
    return heard


class TestFiles:
    @pytest.mark.parametrize(
        ("text", "addresses", "name"),
        [
            ("192.0.2.1 a b", {"a": ["192.0.2.1"], "b": ["192.0.2.1"]}, "a"),
            ("192.0.2.1\tA # b", {"a": ["192.0.2.1"]}, "A"),
            ("192.0.2.1 a\n2001:DB8::1 a", {"a": ["192.0.2.1", "2001:db8::1"]}, "a"),
            ("192.0.2.1\n#192.0.2.1 a\nx a\n\n", {}, None),
        ],
    )
    def test_hosts_file_is_parsed(
        self, text: str, addresses: dict[str, list[str]], name: str | None
    ) -> None:
        found = parse_hosts(text)
        assert found[0] == addresses
        assert found[1].get("192.0.2.1") == name

    @pytest.mark.parametrize(
        ("text", "servers"),
        [
            ("", ["127.0.0.1"]),
            ("search example\n# nameserver 192.0.2.9\nnameserver\nnameserver x", ["127.0.0.1"]),
            ("nameserver 192.0.2.1\nnameserver 2001:DB8::1", ["192.0.2.1", "2001:db8::1"]),
            ("nameserver fe80::1%lo # ours", ["fe80::1%lo"]),
            ("nameserver 192.0.2.1\n" * 4, ["192.0.2.1"] * 3),
        ],
    )
    def test_resolv_conf_is_parsed(self, text: str, servers: list[str]) -> None:
        assert parse_resolv_conf(text) == [(server, 53) for server in servers]

    def test_a_file_is_read_again_when_it_has_changed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        file = names._ParsedFile(str(path), str.split)
        assert file.read() == []
        path.write_text("a")
        assert file.read() is file.read()
        path.write_text("a b")
        assert file.read() == ["a", "b"]

        def broken(*_: object, **__: object) -> None:
            raise OSError("no descriptor")

        path.unlink()
        with monkeypatch.context() as patched:
            patched.setattr(names.os, "stat", broken)
            assert file.read() == ["a", "b"], "what cannot be read counts as unchanged"
        assert file.read() == []


class TestAnswers:
    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("www.example", [HOST, HOST_6]),
            ("WWW.Example.", [HOST, HOST_6]),
            ("six.example", [HOST_6]),
            ("_dmarc.a_b.example", [HOST]),
            ("alias.example", [HOST]),
            # The answer does not fit a datagram.
            ("many.example", MANY[: names.MAX_ADDRESSES]),
            ("box", ["10.0.0.1"]),
            ("BOX.", ["10.0.0.1"]),
        ],
    )
    async def test_addresses_of_a_name_are_found(
        self, server: NameServer, resolver: NameResolver, name: str, found: list[str]
    ) -> None:
        assert await resolver.addresses(name) == found
        asked = {host for host, _ in server.zone.asked}
        assert asked == set() if found == ["10.0.0.1"] else asked == {name.lower().rstrip(".")}

    @pytest.mark.parametrize(
        "name", ["nowhere.example", "a" * 64 + ".example", "a..example", "ü.example"]
    )
    async def test_name_without_an_address_is_not_found(
        self, resolver: NameResolver, name: str
    ) -> None:
        with pytest.raises(HostUnreachable):
            await resolver.addresses(name)

    @pytest.mark.parametrize(
        ("ip", "name"),
        [
            ("8.8.8.8", "dns.google"),
            ("10.0.0.1", "box"),
            # Invalid host names and addresses are not passed on.
            ("8.8.4.4", None),
            ("1.1.1.1", None),
            ("2001:db8::1", None),
        ],
    )
    async def test_name_of_an_address_is_found(
        self, resolver: NameResolver, ip: str, name: str | None
    ) -> None:
        heard = outcome(resolver.name_of(ip))
        while not heard:
            await turn()
        assert isinstance(heard[0], HostUnreachable) if name is None else heard == [name]

    @pytest.mark.parametrize("first", ["closed", "no such family"])
    async def test_next_server_is_asked_where_one_cannot_be(
        self, server: NameServer, tmp_path: Path, first: str
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
            unused.bind(("127.0.0.1", 0))
            other = ("127.0.0.1", unused.getsockname()[1])
        if first != "closed":
            other = ("fe80::1%none", 53)
        resolver = NameResolver(reactor, servers=[other, server.at], hosts=str(tmp_path / "none"))
        assert await resolver.addresses("www.example") == [HOST, HOST_6]


class TestSharing:
    async def test_all_who_ask_for_a_name_share_one_look_up(
        self, server: NameServer, resolver: NameResolver
    ) -> None:
        heard = [outcome(resolver.addresses(name)) for name in ("www.example", "WWW.example")]
        gone = resolver.addresses("www.example")
        left = outcome(gone)
        gone.cancel()
        assert len(left) == 1
        while not all(heard):
            await turn()
        assert heard == [[[HOST, HOST_6]]] * 2
        assert len(server.zone.asked) == 2

    async def test_a_look_up_that_nobody_waits_for_leaves_nothing(
        self, server: NameServer, resolver: NameResolver
    ) -> None:
        before = (reactor.getReaders(), reactor.getDelayedCalls())
        waiting = [resolver.addresses("silent.example") for _ in range(2)]
        await server.zone.until(lambda: len(server.zone.asked) == 2)
        for look_up in waiting:
            outcome(look_up)
            look_up.cancel()
        assert (set(reactor.getReaders()), reactor.getDelayedCalls()) == (set(before[0]), before[1])
        assert resolver._look_ups == {}

    async def test_silent_names_delay_no_other(
        self, resolver: NameResolver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(names, "MAX_LOOK_UPS", 20)
        silent = [resolver.addresses(f"{number}.silent.example") for number in range(30)]
        heard = [outcome(look_up) for look_up in silent]
        assert await resolver.addresses("www.example") == [HOST, HOST_6]
        # The oldest look-ups were ended.
        assert [len(answers) for answers in heard] == [1] * 11 + [0] * 19
        assert all(isinstance(answer, Busy) for answers in heard for answer in answers)
        for look_up in silent:
            look_up.cancel()


class Silent:
    """A name server whose answers and clock the test controls."""

    def __init__(self, tmp_path: Path) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.clock: Any = MemoryReactorClock()
        where = self.socket.getsockname()
        self.names = NameResolver(self.clock, servers=[where], hosts=str(tmp_path / "hosts"))
        self.peer: Any = None

    def questions(self, count: int = 2) -> list[dns.Message]:
        """Return the queries since the last call, once there are so many."""
        found: list[dns.Message] = []
        while select([self.socket], [], [], DEADLINE * (len(found) < count))[0]:
            data, self.peer = self.socket.recvfrom(512)
            message = dns.Message()
            message.fromStr(data)
            found.append(message)
        return found

    def answer(self, question: dns.Message, *hosts: str, **changes: Any) -> None:
        """Answer one question."""
        message = dns.Message(question.id, answer=1)
        message.queries = question.queries
        for host in hosts:
            record = dns.Record_A(host)
            message.answers.append(dns.RRHeader(b"x", dns.A, dns.IN, 60, record))
        for name, value in changes.items():
            setattr(message, name, value)
        self.send(message.toStr())

    def send(self, data: bytes) -> None:
        """Send to where the last question came from."""
        self.socket.sendto(data, self.peer)
        for reader in select(self.clock.getReaders(), [], [], DEADLINE)[0]:
            reader.doRead()


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Silent]:
    silent = Silent(tmp_path)
    yield silent
    assert silent.clock.getReaders() == []
    assert silent.clock.getDelayedCalls() == []
    silent.socket.close()


class TestServerThatTheTestAnswersFor:
    def test_silent_server_is_asked_three_times(self, silent: Silent) -> None:
        heard = outcome(silent.names.addresses("x.example"))
        for seconds in names.TIMEOUTS:
            assert len(silent.questions()) == 2
            silent.clock.advance(seconds - 0.1)
            assert (silent.questions(0), heard) == ([], [])
            silent.clock.advance(0.1)
        assert silent.questions(0) == []
        assert isinstance(heard[0], HostUnreachable)

    def test_many_who_ask_for_one_name_are_told_in_several_turns(self, silent: Silent) -> None:
        told: list[object] = []

        def tell(result: object) -> None:
            told.append(result)
            silent.clock.rightNow += WORK / 10

        waiting = [silent.names.addresses("x.example") for _ in range(100)]
        for waiter in waiting:
            waiter.addCallbacks(tell, lambda failure: None)
        for question in silent.questions():
            silent.answer(question, HOST)
        assert len(told) <= 11
        next(waiter for waiter in waiting if not waiter.called).cancel()
        silent.clock.advance(0)
        assert told == [[HOST]] * 99

    def test_a_server_that_fails_is_asked_again_at_once(self, silent: Silent) -> None:
        heard = outcome(silent.names.addresses("x.example"))
        for _ in names.TIMEOUTS:
            for question in silent.questions():
                silent.answer(question, rCode=dns.ESERVER)
        assert isinstance(heard[0], HostUnreachable)

    def test_one_kind_of_answer_suffices_where_the_other_does_not_come(
        self, silent: Silent
    ) -> None:
        heard = outcome(silent.names.addresses("x.example"))
        silent.answer(silent.questions()[0], HOST)
        assert heard == []
        silent.clock.advance(names.TIMEOUTS[0])
        assert heard == [[HOST]]

    def test_invalid_answer_is_ignored(self, silent: Silent) -> None:
        heard = outcome(silent.names.addresses("x.example"))
        first, second = silent.questions()
        silent.send(b"")
        silent.send(b"\xff" * 40)
        silent.answer(first, "192.0.2.1", id=first.id ^ 1)
        silent.answer(first, "192.0.2.1", answer=0)
        silent.answer(first, "192.0.2.1", queries=[])
        silent.answer(first, "192.0.2.1", queries=[dns.Query(b"y.example", dns.A, dns.IN)])
        silent.answer(first, HOST)
        silent.answer(first, "192.0.2.1")
        assert heard == []
        silent.answer(second)
        assert heard == [[HOST]]

    def test_events_of_a_former_descriptor_are_ignored(self, silent: Silent) -> None:
        heard = outcome(silent.names.addresses("x.example"))
        [asked] = silent.clock.getReaders()
        verifyObject(IReadWriteDescriptor, asked)
        assert asked.logPrefix() == "DNS"
        asked.doRead()
        asked.doWrite()
        silent.clock.removeReader(asked)
        asked.connectionLost(Failure(ConnectionLost()))
        for question in silent.questions():
            silent.answer(question, HOST)
        assert heard == [[HOST]]
        asked.connectionLost(Failure(ConnectionLost()))


class Reply(Protocol):
    """Answers by TCP with these bytes, then closes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(self.data)
        self.transport.loseConnection()


@pytest.mark.parametrize("by_tcp", [None, b"", struct.pack("!H", 3) + b"abc"])
async def test_a_server_that_fails_by_tcp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_tcp: bytes | None
) -> None:
    monkeypatch.setattr(names, "TIMEOUTS", (5.0,))
    factory = Factory.forProtocol(lambda: Reply(by_tcp or b""))
    factory.noisy = False
    udp, tcp = one_number()
    udp.setblocking(True)
    where = udp.getsockname()
    with tcp:
        port = reactor.adoptStreamPort(tcp.fileno(), tcp.family, factory)
    if by_tcp is None:
        await port.stopListening()
    heard = outcome(NameResolver(reactor, servers=[where]).addresses("x.example"))
    for _ in range(2):
        data, peer = udp.recvfrom(512)
        message = dns.Message()
        message.fromStr(data)
        message.answer, message.trunc = 1, 1
        udp.sendto(message.toStr(), peer)
    while not heard:
        await turn()
    assert isinstance(heard[0], Refused)
    udp.close()
    if by_tcp is not None:
        await port.stopListening()


@pytest.mark.parametrize(
    ("ip", "name"),
    [
        ("192.0.2.1", "1.2.0.192.in-addr"),
        ("::ffff:192.0.2.1", "1.0.2.0.0.0.0.c.f.f.f.f" + ".0" * 20 + ".ip6"),
        ("2001:db8::1", "1" + ".0" * 23 + ".8.b.d.0.1.0.0.2.ip6"),
    ],
)
def test_the_pointer_of_an_address_is_the_same_on_every_python(ip: str, name: str) -> None:
    assert names._pointer(ipaddress.ip_address(ip)) == f"{name}.arpa"
