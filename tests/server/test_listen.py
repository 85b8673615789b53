"""Where a server may listen, how ``--listen`` is read, and the ports: ours and inherited ones."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from stat import S_IMODE
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.support.certificates import key_and_certificate
from tests.support.clients import IPV6
from tests.support.peers import Peer, PeerFactory, named, until
from tests.support.processes import start_python
from tests.support.rows import rows
from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.relay.poller import CLIENTS, poller_of
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.server.listen import (
    ListenError,
    bind,
    bound_privately,
    check_listeners,
    check_reach,
    describe,
    parse_listener,
)
from torsocks_tx.server.ports import adopt
from torsocks_tx.status.site import BoundedSite

REQUEST = b"\5\1\0" + named("example.com", 80)
BY_IPV6 = pytest.mark.clients(IPV6)
RACER = """
import sys
from twisted.internet import reactor
from twisted.internet.protocol import Factory
from torsocks_tx.server.listen import ListenError, bind, check_reach, parse_listener
try:
    bind(reactor, parse_listener(f"unix:{sys.argv[1]}"), Factory(), authenticated=False)
    print("bound", flush=True)
except ListenError:
    print("refused", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:/run/x", "unix:/run/x"),
        ("systemd:domain=INET:index=0", "systemd:domain=INET:index=0"),
        ("'unix:/run/a b' ExtendedErrors", "unix:/run/a b"),
        ("unix:x", "unix:/base/x"),
        ("unix:address=x:mode=660", "unix:/base/x:mode=660"),
        (r"unix:a\:b\=c", r"unix:/base/a\:b\=c"),
    ],
)
def test_the_paths_of_sockets_are_made_absolute(text: str, endpoint: str) -> None:
    assert parse_listener(text, "/base").endpoint == endpoint


def test_flags_follow_the_endpoint() -> None:
    listener = parse_listener("tcp:0:interface=127.0.0.1 ExtendedErrors CacheDNS")
    assert listener.policy.extended_errors
    assert len(listener.notes) == 1


@pytest.mark.parametrize("text", ["", "  ", "1080", "127.0.0.1:1080", "'unclosed", "tcp:1 Bogus"])
def test_mistakes_name_the_value(text: str) -> None:
    with pytest.raises(ListenError) as caught:
        parse_listener(text)
    assert str(caught.value).startswith(f"{text!r}: ")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tcp:1 ProxyProtocol", "say which balancers are trusted"),
        ("tcp6:1 ProxyProtocol=", "say which balancers are trusted"),
        ("systemd:domain=INET:index=0 ProxyProtocol", "say which balancers are trusted"),
        ("ssl:1 ProxyProtocol=192.0.2.1", "is for tcp, tcp6, unix and systemd"),
        ("haproxy:tcp:1", "in place of haproxy: write the flag ProxyProtocol"),
    ],
)
def test_where_proxy_headers_cannot_be_believed(text: str, complaint: str) -> None:
    with pytest.raises(ListenError, match=complaint):
        parse_listener(text)


def test_two_listeners_have_different_names() -> None:
    one, other, unnamed = (parse_listener(f"unix:/x {flag}") for flag in ("Name=a", "Name=b", ""))
    check_listeners([one, other, unnamed, unnamed], authenticated=False)
    with pytest.raises(ListenError, match="Name=a is the name of several listeners: give each"):
        check_listeners([one, other, one], authenticated=False)


@pytest.mark.parametrize("place", ["unix:/x", "systemd:domain=UNIX:index=0"])
def test_proxy_headers_by_unix_sockets_need_no_list_of_senders(place: str) -> None:
    assert parse_listener(f"{place} ProxyProtocol").policy.proxy_protocol == ()


PRIVATE = [
    "tcp:1080:interface=127.0.0.1",
    "tcp:1080:interface=127.9.9.9",
    "tcp:port=1080:interface=localhost",
    r"tcp6:1080:interface=\:\:1",
    "unix:/run/x",
    "systemd:domain=UNIX:index=0",
]
PUBLIC = [
    "tcp:1080",
    "tcp:1080:interface=",
    "tcp:1080:interface=0.0.0.0",
    "tcp:1080:interface=192.0.2.1",
    "tcp6:1080",
    r"tcp6:1080:interface=\:\:",
    r"tcp6:1080:interface=\:\:0.0.0.0",
    "tcp:1080:50",
    "tcp:1080:127.0.0.1",
    "tcp:port=1080",
    "tcp:1080:interface=127.0.0.1:interface=0.0.0.0",
    *(f"tcp:1080:interface={host}" for host in ("0", "*", "0x0", "127.1", "2130706433")),
    *(f"tcp:1080:interface={host}" for host in ("127.0.0.1.", "localhost.", "127.0.0.1%lo")),
    r"tcp:1080:interface=\:\:ffff\:0.0.0.0",
]
UNKNOWN = ["ssl:1080:interface=127.0.0.1", "onion:80"]


@rows("R-33")
@pytest.mark.parametrize("text", PRIVATE)
def test_private_listeners_need_nothing(text: str) -> None:
    check_reach(parse_listener(text), authenticated=False)


@rows("R-33", "P-38")
@pytest.mark.parametrize("text", PUBLIC)
def test_public_listeners_need_passwords_or_a_word(text: str) -> None:
    with pytest.raises(
        ListenError, match=r"others could reach this proxy.*--auth.*authenticator=.*AllowPublic"
    ):
        check_reach(parse_listener(text), authenticated=False)
    check_reach(parse_listener(text), authenticated=True)
    check_reach(parse_listener(f"{text} AllowPublic"), authenticated=False)


def test_an_address_in_the_place_of_the_port_is_not_repeated_in_the_advice() -> None:
    with pytest.raises(ListenError, match=r"Write tcp:1080:interface=127\.0\.0\.1 to serve"):
        check_reach(parse_listener("tcp:127.0.0.1:1080"), authenticated=False)


@pytest.mark.parametrize("text", UNKNOWN)
def test_kinds_whose_reach_is_not_known_need_the_word(text: str) -> None:
    for authenticated in (False, True):
        with pytest.raises(ListenError, match="AllowPublic"):
            check_reach(parse_listener(text), authenticated=authenticated)
    check_reach(parse_listener(f"{text} AllowPublic"), authenticated=False)


@pytest.mark.parametrize(
    ("address", "private", "text"),
    [
        (IPv4Address("TCP", "127.0.0.1", 1), True, "127.0.0.1:1"),
        (IPv4Address("TCP", "0.0.0.0", 1), False, "0.0.0.0:1"),
        (IPv6Address("TCP", "::1", 1), True, "[::1]:1"),
        (IPv6Address("TCP", "::", 1), False, "[::]:1"),
        (UNIXAddress("/run/x"), True, "unix:/run/x"),
    ],
)
def test_bound_addresses(address: object, private: bool, text: str) -> None:
    assert bound_privately(address) is private
    assert describe(address) == text


@pytest.mark.parametrize(
    ("flags", "served"), [("", "HTTP CONNECT, SOCKS4, SOCKS4a and SOCKS5"),
                          ("NoHTTPConnect", "SOCKS4, SOCKS4a and SOCKS5")]
)  # fmt: skip
async def test_the_log_names_what_a_listener_serves_and_where(
    log_lines: list[str], flags: str, served: str
) -> None:
    listener = parse_listener(f"tcp:0:interface=127.0.0.1 {flags}")
    port = bind(reactor, listener, SOCKSFactory(MemoryBackend()), authenticated=False)
    assert log_lines == [f"info: {served} at 127.0.0.1:{port.getHost().port}"]
    await port.stopListening()


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@pytest.mark.parametrize(
    "form",
    [
        "tcp:0:interface=127.0.0.1",
        "tcp:port=0:interface=127.0.0.1:backlog=300",
        pytest.param(r"tcp6:0:interface=\:\:1", marks=BY_IPV6),
        "unix:{}",
        "ssl:0:interface=127.0.0.1:privateKey={}.pem",
    ],
)
async def test_burst_of_clients_is_accepted_in_portions(form: str, tmp_path: Path) -> None:
    accepted: list[IAddress] = []

    class TurnAway(Factory):
        def buildProtocol(self, addr: IAddress) -> None:
            accepted.append(addr)

    (tmp_path / "socks.pem").write_bytes(b"".join(key_and_certificate()))
    listener = parse_listener(form.format(tmp_path / "socks"))
    port: Any = bind(reactor, listener, TurnAway(), authenticated=False)
    with contextlib.ExitStack() as clients:
        for _ in range(60):
            client = clients.enter_context(socket.socket(port.socket.family))
            client.connect(port.socket.getsockname())
        for most in (16, 32, 48, 60, 60):
            port.doRead()
            assert len(accepted) == most
    await port.stopListening()


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@pytest.mark.parametrize(
    ("form", "backlog"),
    [
        ("tcp:0:interface=127.0.0.1", 1024),
        ("tcp:0:interface=127.0.0.1:backlog=7", 7),
        ("tcp:0:127.0.0.1:8 AllowPublic", 8),
        pytest.param(r"TCP6:0:interface=\:\:1", 1024, marks=BY_IPV6),
        ("ssl:0:interface=127.0.0.1:privateKey={} AllowPublic", 1024),
        ("ssl:0:interface=127.0.0.1:privateKey={}:backlog=7 AllowPublic", 7),
    ],
)
async def test_as_many_clients_may_wait_as_the_endpoint_says_or_a_burst_brings(
    form: str, backlog: int, tmp_path: Path
) -> None:
    (tmp_path / "pem").write_bytes(b"".join(key_and_certificate()))
    listener = parse_listener(form.format(tmp_path / "pem"))
    port: Any = bind(reactor, listener, Factory(), authenticated=False)
    state = port.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert int.from_bytes(state[28:], sys.byteorder) == min(backlog, most)  # tcpi_sacked
    await port.stopListening()


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@pytest.mark.parametrize("offered", [None, [b"h2", b"http/1.1"]])
async def test_clients_by_tls_are_served_by_the_poller_like_others(
    tmp_path: Path, offered: list[bytes] | None
) -> None:
    (tmp_path / "tls.pem").write_bytes(b"".join(key_and_certificate()))
    listener = parse_listener(f"ssl:0:interface=127.0.0.1:privateKey={tmp_path / 'tls.pem'}")
    granting = MemoryBackend(lambda outbound: reactor.callLater(0, outbound.receiver.opened))
    factory = SOCKSFactory(granting)
    port: Any = bind(reactor, listener, factory, authenticated=False)
    place = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    options = CertificateOptions(verify=False, acceptableProtocols=offered)
    client: Peer = await wrapClientTLS(options, place).connect(PeerFactory())
    client.send(REQUEST)
    assert await client.take(12) == b"\5\0\5\0\0\1" + bytes(6)
    (served,) = factory.connections
    assert served.transport.transport.reactor is poller_of(reactor, CLIENTS)
    client.close()
    await port.stopListening()


@pytest.mark.parametrize("factory", [SOCKSFactory(MemoryBackend()), BoundedSite(Site(Resource()))])
def test_browsers_that_offer_alpn_by_tls_are_answered_that_http_is_spoken(factory: Factory) -> None:
    assert IProtocolNegotiationFactory(factory).acceptableProtocols() == [b"http/1.1"]


BOUND = [
    ("tcp:0:interface=127.0.0.1", "127.0.0.1"),
    ("tcp:port=0:interface=localhost", "127.0.0.1"),
    ("tcp:0:interface=0.0.0.0:interface=127.0.0.1", "127.0.0.1"),
    pytest.param(r"tcp6:0:interface=\:\:1", "::1", marks=BY_IPV6),
    ("tcp6:0:interface=127.0.0.1", "127.0.0.1"),
    ("tcp:0:127.0.0.1 AllowPublic", "127.0.0.1"),
    ("tcp:127.0.0.1:port=0 AllowPublic", None),
]


@pytest.mark.parametrize(("text", "host"), BOUND)
async def test_listener_is_bound_to_its_interface_alone(text: str, host: str | None) -> None:
    listener = parse_listener(text)
    check_reach(listener, authenticated=False)
    if host is None:
        with pytest.raises(ListenError):
            bind(reactor, listener, Factory(), authenticated=False)
        return
    port = bind(reactor, listener, Factory(), authenticated=False)
    assert port.getHost().host == host
    await port.stopListening()


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("tcp:0:interface=192.0.2.1", "Cannot assign requested address; choose an address of this"),
        ("tcp:99999:interface=127.0.0.1", "port must be 0-65535; choose another"),
        ("tcp:0:mode=600", "a part is missing, unknown or wrong; write it as tcp:"),
        ("tcp:x", "a part is missing, unknown or wrong; write it as tcp:"),
        ("unix:/x:mode=9", "a part is missing, unknown or wrong; write it as tcp:"),
        ("systemd:domain=UNIX:index=9", "there is no such inherited socket; write it as tcp:"),
        ("bogus:1", "Unknown endpoint type: 'bogus'; write it as tcp:"),
    ],
)
def test_place_that_cannot_be_had_is_told_with_the_fix(endpoint: str, words: str) -> None:
    with pytest.raises(ListenError, match=words):
        bind(reactor, parse_listener(f"{endpoint} AllowPublic"), Factory(), authenticated=False)


async def test_a_socket_that_others_can_reach_by_surprise_is_closed() -> None:
    factory = Factory()
    with pytest.raises(ListenError, match="where others could reach it; ask for passwords"):
        bind(reactor, parse_listener("tcp:0:interface=0.0.0.0"), factory, authenticated=False)
    await until(lambda: factory.numPorts == 0)


class TestSocketFile:
    """A unix socket of our own: whose it is, and what becomes of its file."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "socks"

    def bind(self, path: Path, form: str = "unix:{}") -> IListeningPort:
        listener = parse_listener(form.format(path))
        return bind(reactor, listener, Factory(), authenticated=False)

    @pytest.mark.parametrize(
        ("form", "mode"),
        [
            ("unix:{}", 0o600),
            ("unix:{} ProxyProtocol", 0o600),
            ("unix:address={}", 0o600),
            ("unix:{}:mode=660", 0o660),
            ("unix:{}:660:7", 0o660),
        ],
    )
    async def test_file_is_for_its_owner_and_goes_with_the_port(
        self, path: Path, form: str, mode: int
    ) -> None:
        port = self.bind(path, form)
        assert S_IMODE(path.stat().st_mode) == mode
        await port.stopListening()
        assert os.listdir(path.parent) == []

    async def test_file_at_which_nobody_listens_is_replaced(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        # What Twisted leaves behind where it is killed as process 1.
        os.symlink("1", f"{path}.lock")
        port = self.bind(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        await port.stopListening()
        assert not path.exists()

    @pytest.mark.parametrize("backlog", [0, 128])
    def test_socket_at_which_another_listens_is_left_alone(self, path: Path, backlog: int) -> None:
        with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
            other.bind(str(path))
            other.listen(backlog)
            # With backlog 0 this fills the queue.
            waiting.connect(str(path))
            before = path.stat()[:7]
            for _ in range(2):
                with pytest.raises(ListenError, match="in use; end the program that has it"):
                    self.bind(path)
            # But for its times: asking who listens there is a use of it.
            assert path.stat()[:7] == before
        assert os.listdir(path.parent) == ["socks"]

    def test_other_files_are_left_alone(self, path: Path) -> None:
        path.write_text("precious")
        with pytest.raises(ListenError, match="that is no socket is there; choose another place"):
            self.bind(path)
        assert path.read_text() == "precious"

    @pytest.mark.parametrize("form", ["unix:{}:mode=777777777777", "unix:{}:backlog=9999999999"])
    def test_number_that_is_too_large_leaves_no_file(self, path: Path, form: str) -> None:
        with pytest.raises(ListenError, match="choose another place"):
            self.bind(path, form)
        assert os.listdir(path.parent) == []

    def test_missing_directory_is_told(self, path: Path) -> None:
        with pytest.raises(ListenError, match="its directory is missing: make it"):
            self.bind(path / "socks")

    async def test_file_of_a_successor_is_left_alone(self, path: Path) -> None:
        port = self.bind(path)
        path.unlink()
        successor = self.bind(path)
        await port.stopListening()
        assert path.is_socket()
        await successor.stopListening()

    async def test_of_many_that_start_at_once_one_has_it(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        programs = [start_python("-c", RACER, str(path)) for _ in range(3)]
        said = [await program.line() for program in programs]
        assert sorted(said) == ["bound", "refused", "refused"]
        for program in programs:
            program.transport.closeStdin()
            await program.end()


class TestInherited:
    """A listening socket that another process has made."""

    async def test_unix_socket_keeps_its_mode_its_file_and_its_queue(self, tmp_path: Path) -> None:
        path = str(tmp_path / "socks")
        with socket.socket(socket.AF_UNIX) as maker:
            maker.bind(path)
            os.chmod(path, 0o660)
            maker.listen(128)
            port = adopt(reactor, os.dup(maker.fileno()), PeerFactory())
            assert S_IMODE(os.stat(path).st_mode) == 0o660
            client: Peer = await UNIXClientEndpoint(reactor, path).connect(PeerFactory())
            served = await port.factory.peer()
            served.send(b"hello")
            assert await client.take(5) == b"hello"
            served.reset()
            client.reset()
            await port.stopListening()
            # It still listens, for the next server.
            with socket.socket(socket.AF_UNIX) as waiting:
                waiting.connect(path)

    @pytest.mark.parametrize(
        ("family", "host"),
        [("AF_INET", "127.0.0.1"), pytest.param("AF_INET6", "::1", marks=BY_IPV6)],
    )
    async def test_tcp_socket_goes_on_listening(self, family: str, host: str) -> None:
        with socket.socket(getattr(socket, family)) as maker:
            maker.bind((host, 0))
            maker.listen()
            port = adopt(reactor, os.dup(maker.fileno()), PeerFactory())
            assert (port.getHost().host, port.getHost().port) == maker.getsockname()[:2]
            with socket.create_connection(maker.getsockname()[:2]):
                (await port.factory.peer()).reset()
            await port.stopListening()
            socket.create_connection(maker.getsockname()[:2]).close()

    def test_socket_that_does_not_listen_is_refused(self) -> None:
        with socket.socket() as sock, pytest.raises(ValueError, match="does not listen"):
            adopt(reactor, os.dup(sock.fileno()), Factory())
