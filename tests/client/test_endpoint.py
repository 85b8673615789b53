"""The client in memory: what it says, what it hears, and every way in which it ends."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IHalfCloseableProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.backends.ends import FakeEndpoint
from tests.support.names import ONION
from tests.support.peers import GRANTED, named, refused
from tests.support.rows import rows
from tests.support.tables import octets
from tests.support.transports import App, BareTransport, FakeTransport, HalfApp
from torsocks_tx.client.endpoint import SOCKSClientEndpoint, resolve, resolve_ptr
from torsocks_tx.client.failures import destination_failed
from torsocks_tx.errors import (
    ArgumentsRefused,
    ConnectionRefused,
    DescriptorNotFound,
    GeneralFailure,
    Internal,
    LoginRefused,
    LoginRequired,
    NotAllowed,
    NotIsolated,
    OnionNotFound,
    OnionNotReachable,
    ProxyBroken,
    ProxyUnreachable,
    SOCKSError,
    Temporary,
    TimedOut,
)
from torsocks_tx.socks import extended
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.socks.constants import CodeSet, Role
from torsocks_tx.socks.messages import Credentials, KeyValues

ASK = named("example.com", 80)


class AppFactory(Factory):
    noisy = False

    def __init__(self, app: App | None) -> None:
        self.app = app
        self.addresses: list[Any] = []

    def buildProtocol(self, addr: Any) -> App | None:
        self.addresses.append(addr)
        return self.app


class Scene:
    """A client that was told to connect; ``come`` brings the connection to the SOCKS server."""

    def __init__(
        self,
        options: ClientOptions | None = None,
        host: str | bytes = "example.com",
        app: App | None = None,
    ) -> None:
        self.clock = Clock()
        self.proxy = FakeEndpoint()
        self.app = app or App()
        self.factory = AppFactory(self.app)
        self.transport = FakeTransport()
        self.results: list[Any] = []
        endpoint = SOCKSClientEndpoint(self.clock, self.proxy, host, 80, options or ClientOptions())
        self.done = endpoint.connect(self.factory)
        self.done.addBoth(self._finished)

    def _finished(self, result: Any) -> None:
        self.results.append(result.value if isinstance(result, Failure) else result)
        self.app.heard.append("fired")

    def come(self) -> bytes:
        self.transport.connect(self.proxy.protocol)
        return self.transport.take()

    def hear(self, data: bytes) -> bytes:
        self.proxy.protocol.dataReceived(data)
        return self.transport.take()

    def play(self, *answers: bytes) -> Scene:
        """Bring the connection, and hear these."""
        self.come()
        for answer in answers:
            self.hear(answer)
        return self

    @property
    def error(self) -> SOCKSError:
        [error] = self.results
        assert isinstance(error, SOCKSError)
        return error


def answered(status: int = 0, **pairs: bytes) -> bytes:
    return extended.build_response(status, KeyValues.of(pairs))


def said(**pairs: bytes) -> bytes:
    return extended.build_request(KeyValues.of(pairs))


def test_an_endpoint_provides_its_interface() -> None:
    endpoint = SOCKSClientEndpoint(Clock(), FakeEndpoint(), "a", 1)
    assert verifyObject(IStreamClientEndpoint, endpoint)


class TestHandshake:
    @rows("P-26", "S-16")
    def test_a_connection_by_no_authentication(self) -> None:
        scene = Scene()
        assert scene.come() == octets("05 02 97 00")
        assert scene.hear(octets("05 00")) == ASK
        assert scene.results == []
        scene.hear(GRANTED)
        assert scene.results == [scene.app]
        assert scene.app.transport is scene.transport
        assert scene.clock.getDelayedCalls() == []

    @rows("S-17")
    def test_a_connection_by_user_name_and_password(self) -> None:
        scene = Scene(ClientOptions(credentials=Credentials(b"me", b"you"), extended=False))
        assert scene.come() == octets("05 01 02")
        assert scene.hear(octets("05 02")) == octets('01 02 "me" 03 "you"')
        assert scene.hear(octets("01 00")) == ASK

    @rows("P-04", "P-06", "P-10", "P-11", "P-18")
    def test_a_connection_by_extended_authentication(self) -> None:
        scene = Scene(ClientOptions(isolation=b"x" * 60000))
        assert scene.come() == octets("05 02 97 02")
        sent = scene.hear(octets("05 97"))
        assert sent == said(ISOLATION=b"x" * 60000, REQUIRE=b"ISOLATION")
        answer = answered(ACCEPTED=b"ISOLATION,REQUIRE", REPLY_CODES=b"prop229")
        for place in range(len(answer) - 1):
            assert scene.hear(answer[place : place + 1]) == b""
        assert scene.hear(answer[-1:]) == ASK
        scene.hear(GRANTED)
        assert scene.results == [scene.app]

    @rows("S-04", "S-05")
    def test_a_connection_by_socks4a(self) -> None:
        scene = Scene(ClientOptions(version=4, credentials=Credentials(b"me")))
        assert scene.come() == b"\4\1\0\x50\0\0\0\1me\0example.com\0"
        scene.hear(octets("00 5A 0000 00000000"))
        assert scene.results == [scene.app]

    @rows("P-04")
    @pytest.mark.parametrize(("optimistic", "reply"), [(False, GRANTED), (True, b"")])
    def test_the_pairs_that_the_server_said_come_with_the_protocol(
        self, optimistic: bool, reply: bytes
    ) -> None:
        proxy, app, transport = FakeEndpoint(), App(), FakeTransport()
        options = ClientOptions(optimistic=optimistic)
        endpoint = SOCKSClientEndpoint(Clock(), proxy, "example.com", 80, options)
        heard: list[Any] = []
        endpoint.connect_with_answer(AppFactory(app)).addCallback(heard.append)
        transport.connect(proxy.protocol)
        pairs = KeyValues.of({"X-a.b": b"7", "REPLY_CODES": b"something else"})
        proxy.protocol.dataReceived(octets("05 97") + extended.build_response(0, pairs) + reply)
        assert heard == [(app, pairs)]

    @pytest.mark.parametrize(
        ("host", "address"),
        [
            ("example.com", HostnameAddress(b"example.com", 80)),
            (b"example.com", HostnameAddress(b"example.com", 80)),
            ("192.0.2.1", IPv4Address("TCP", "192.0.2.1", 80)),
            (b"192.0.2.1", IPv4Address("TCP", "192.0.2.1", 80)),
            ("2001:db8::1", IPv6Address("TCP", "2001:db8::1", 80)),
        ],
    )
    def test_the_factory_hears_where_it_goes(self, host: str | bytes, address: Any) -> None:
        assert Scene(host=host).factory.addresses == [address]

    def test_the_factory_is_started_and_stopped(self) -> None:
        class Counted(AppFactory):
            def startFactory(self) -> None:
                self.addresses.append("start")

            def stopFactory(self) -> None:
                self.addresses.append("stop")

        proxy, factory = FakeEndpoint(), Counted(None)
        SOCKSClientEndpoint(Clock(), proxy, "a", 1).connect(factory)
        assert proxy.protocol is None, "no protocol, no connection"
        proxy.factory.doStart()
        proxy.factory.doStop()
        assert factory.addresses[1:] == ["start", "stop"]


# What the server answers, and what it means.
REFUSALS = [
    ("05 FF", {}, LoginRequired, None, None),
    ("05 FF", {"credentials": Credentials(b"a", b"b")}, LoginRefused, None, None),
    ("05 02 01 01", {"isolation": b"x"}, LoginRequired, None, 1),
    ("05 FF", {"isolation": b"x"}, NotIsolated, None, None),
    ("05 FF", {"pairs": KeyValues.of({"A": b""})}, ArgumentsRefused, None, None),
    ("05 00", {"isolation": b"x"}, ProxyBroken, None, None),
    ("05 02", {}, ProxyBroken, None, None),
    ("05 02 01 01", {"credentials": Credentials(b"a", b"b")}, LoginRefused, None, 1),
    ("05 97 01 01 0000", {}, LoginRequired, None, 1),
    ("05 97 01 02 0000", {}, ArgumentsRefused, None, 2),
    ("05 97 01 03 0000", {}, ArgumentsRefused, None, 3),
    ("05 97 01 FF 0001 0001 41 0001 42", {}, ArgumentsRefused, None, 255),
    ("05 97 00 00 0000", {}, ProxyBroken, None, None),
    ("05 97 02 00 0000", {}, ProxyBroken, None, None),
    ("05 97 01 00 0001 0000", {}, ProxyBroken, None, None),
    ("05 97 01 00 FFFF", {}, ProxyBroken, None, None),
    ("05 97 01 00 0001 0001 C3", {}, ProxyBroken, None, None),
    ("05 97 01 00 0000", {"isolation": b"x"}, NotIsolated, None, None),
    ("05 97 01 00 0000", {"require": ("A",)}, ArgumentsRefused, None, None),
    ("05 00 05 01 00 01 00000000 0000", {}, GeneralFailure, 1, None),
    ("05 00 05 02 00 01 00000000 0000", {}, NotAllowed, 2, None),
    ("05 00 05 E0 00 01 00000000 0000", {}, OnionNotFound, 0xE0, None),
    ("05 00 05 E1 00 01 00000000 0000", {}, OnionNotReachable, 0xE1, None),
    ("05 00 05 F0 00 01 00000000 0000", {"role": Role.PT}, Temporary, 0xF0, None),
    ("05 00 05 F2 00 01 00000000 0000", {"role": Role.PT, "extended": False}, Internal, 0xF2, None),
    ("00 5B 0000 00000000", {"version": 4}, GeneralFailure, 0x5B, None),
    ("48 54 54 50", {}, ProxyBroken, None, None),
]


@rows("P-09", "P-14", "P-15", "P-19", "P-20", "P-22", "P-34", "R-34")
@pytest.mark.parametrize(("server", "wishes", "kind", "code", "status"), REFUSALS)
def test_every_refusal_of_a_server_has_its_error(
    server: str,
    wishes: dict[str, Any],
    kind: type[SOCKSError],
    code: int | None,
    status: int | None,
) -> None:
    for size in (1, 1000):
        scene = Scene(ClientOptions(**wishes))
        scene.come()
        data = octets(server)
        for place in range(0, len(data), size):
            scene.hear(data[place : place + size])
        assert (type(scene.error), scene.error.reply, scene.error.status) == (kind, code, status)
        assert scene.transport.asked[-1] == "abortConnection"
        scene.transport.finish()
        assert scene.app.heard == ["fired"]
        assert scene.clock.getDelayedCalls() == []
        assert type(destination_failed(Failure(scene.error))) is kind


@rows("S-43")
def test_f0_of_an_onion_service_may_be_said_of_a_stream_that_works() -> None:
    """C Tor says so of some that work, and closes those that fail."""
    scene = Scene(host=ONION).play(octets("05 00"), refused(0xF0))
    assert scene.results == []
    scene.transport.lose()
    assert (type(scene.error), scene.error.reply) == (DescriptorNotFound, 0xF0)
    assert scene.clock.getDelayedCalls() == []
    for host in ("example.com", "192.0.2.1", "onion"):
        assert Scene(host=host).play(octets("05 00") + refused(0xF0)).error.reply == 0xF0


@rows("P-34", "P-26")
@pytest.mark.parametrize(
    ("codes", "code", "kind"),
    [
        (b"prop304", 0xF0, DescriptorNotFound),
        (b"prop229", 0xF0, Temporary),
        (b"prop229", 0xE0, OnionNotFound),
        (b"prop999", 0xF0, DescriptorNotFound),
    ],
)
def test_the_announced_set_of_codes_decides_what_a_code_means(
    codes: bytes, code: int, kind: type[SOCKSError]
) -> None:
    scene = Scene(ClientOptions(reply_codes=CodeSet.PROP229), ONION)
    scene.come()
    assert scene.hear(octets("05 97")) == said(REPLY_CODES=b"prop229")
    scene.hear(answered(ACCEPTED=b"REPLY_CODES", REPLY_CODES=codes) + refused(code))
    assert type(scene.error) is kind
    assert scene.error.pairs.get("REPLY_CODES") == codes


@rows("P-20", "P-21")
def test_an_unsupported_key_is_named() -> None:
    scene = Scene(ClientOptions(require=("A", "B")))
    scene.play(octets("05 97") + answered(2, UNSUPPORTED=b"B"))
    assert type(scene.error) is ArgumentsRefused
    assert (scene.error.status, scene.error.pairs.get("UNSUPPORTED")) == (2, b"B")


@rows("P-20")
@pytest.mark.parametrize(
    ("server", "kind", "status"),
    [("01 01 0001", LoginRequired, 1), ("01 02 0001", ArgumentsRefused, 2)],
)
def test_a_status_whose_pairs_never_come_is_told_in_the_end(
    server: str, kind: type[SOCKSError], status: int
) -> None:
    for is_closed in (True, False):
        scene = Scene(ClientOptions(timeout=1)).play(octets("05 97" + server))
        assert scene.results == []
        if is_closed:
            scene.transport.lose()
        else:
            scene.clock.advance(2)
        assert (type(scene.error), scene.error.status) == (kind, status)


class TestEnds:
    def test_a_proxy_that_cannot_be_reached_is_to_blame(self) -> None:
        scene = Scene()
        scene.proxy._outcome.errback(ConnectionRefusedError())
        assert type(scene.error) is ProxyUnreachable
        assert isinstance(scene.error.__cause__, ConnectionRefusedError)
        assert scene.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("server", ["", "05", "05 00", "05 97 01", "05 00 05 00 00"])
    def test_a_server_that_closes_without_an_answer_broke_the_protocol(self, server: str) -> None:
        for app in (App(), HalfApp()):
            scene = Scene(app=app).play(octets(server))
            if isinstance(app, HalfApp):
                scene.proxy.protocol.readConnectionLost()
            scene.transport.lose()
            assert type(scene.error) is ProxyBroken
            assert app.heard == ["fired"]

    def test_cancelling_before_the_connection_gives_it_up(self) -> None:
        scene = Scene()
        scene.done.cancel()
        assert scene.proxy.cancelled == 1
        assert [type(result) for result in scene.results] == [CancelledError]
        scene.come()
        assert scene.transport.asked == ["abortConnection"]
        assert scene.clock.getDelayedCalls() == []

    def test_cancelling_in_the_handshake_resets_the_connection(self) -> None:
        scene = Scene().play()
        scene.done.cancel()
        assert scene.transport.asked[-1] == "abortConnection"
        assert [type(result) for result in scene.results] == [CancelledError]
        scene.transport.finish()
        assert scene.app.heard == ["fired"]
        assert scene.clock.getDelayedCalls() == []

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [(None, ProxyUnreachable), ("", ProxyUnreachable), ("05 00", TimedOut)],
        ids=["no connection", "no answer", "no reply"],
    )
    def test_the_deadline_covers_everything(
        self, answer: str | None, kind: type[SOCKSError]
    ) -> None:
        scene = Scene(ClientOptions(timeout=10))
        scene.clock.advance(5)
        connected = answer is not None
        if answer is not None:
            scene.play(octets(answer))
        scene.clock.advance(4.9)
        assert scene.results == []
        scene.clock.advance(0.2)
        assert type(scene.error) is kind
        assert (scene.proxy.cancelled, "abortConnection" in scene.transport.asked) == (
            not connected,
            connected,
        )

    def test_there_need_be_no_deadline(self) -> None:
        assert Scene(ClientOptions(timeout=None)).play().clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("refuse", ConnectionRefused),
        ("wait", TimedOut),
        ("cancel", CancelledError),
        ("refuse an optimistic one", ConnectionRefused),
    ],
)
def test_a_transport_without_abort_is_closed(what: str, kind: type[Exception]) -> None:
    """A transport need not have ``abortConnection``: the pipes to a process have none."""
    optimistic = "optimistic" in what
    scene = Scene(ClientOptions(timeout=1, optimistic=optimistic))
    scene.transport.protocol = scene.proxy.protocol
    scene.proxy.protocol.makeConnection(BareTransport(scene.transport))
    scene.hear(octets("05 00"))
    if what == "wait":
        scene.clock.advance(2)
    elif what == "cancel":
        scene.done.cancel()
    else:
        scene.hear(refused(5))
    assert scene.transport.asked == ["loseConnection"]
    scene.transport.finish()
    assert type(scene.app.heard[-1] if optimistic else scene.results[0]) is kind


class Stubborn(FakeTransport):
    """Fails at whatever is asked of it."""

    def abortConnection(self) -> None:
        raise RuntimeError("stubborn")


def test_nobody_waits_for_a_transport_that_fails() -> None:
    scene = Scene()
    scene.transport = Stubborn()
    scene.come()
    with pytest.raises(RuntimeError, match="stubborn"):
        scene.hear(octets("05 FF"))
    assert type(scene.error) is LoginRequired


@pytest.mark.parametrize("optimistic", [False, True])
def test_cancelled_as_the_application_is_connected(optimistic: bool) -> None:
    scene = Scene(ClientOptions(optimistic=optimistic))
    scene.app.on_made = scene.done.cancel
    scene.play(octets("05 00") + GRANTED + b"hello")
    assert [type(result) for result in scene.results] == [CancelledError]
    assert scene.transport.asked[-1] == "abortConnection"
    scene.transport.finish()
    made, fired, end = scene.app.heard
    assert (made, fired, type(end)) == ("made", "fired", ConnectionAborted)
    assert scene.clock.getDelayedCalls() == []


class TestBehindTheReply:
    @rows("R-32")
    def test_nothing_that_comes_with_it_is_lost(self) -> None:
        scene = Scene().play(octets("05 00") + GRANTED + b"hello", b"again")
        assert scene.app.heard == ["made", "fired", b"hello", b"again"]

    def test_an_application_that_closes_at_once_hears_no_more(self) -> None:
        scene = Scene()
        scene.transport.disconnecting = False  # type: ignore[attr-defined]

        def close() -> None:
            scene.transport.disconnecting = True  # type: ignore[attr-defined]

        scene.app.on_made = close
        scene.play(octets("05 00") + GRANTED + b"hello")
        assert scene.app.heard == ["made", "fired"]

    @rows("R-32")
    @pytest.mark.parametrize("early", [True, False], ids=["when made", "in the callback"])
    def test_a_protocol_that_was_put_in_place_of_the_first_gets_what_comes_with_the_reply(
        self, early: bool
    ) -> None:
        scene, other = Scene(), App()

        def switch(result: Any = None) -> Any:
            scene.transport.protocol = other
            return result

        if early:
            scene.app.on_made = switch
        else:
            scene.done.addCallback(switch)
        scene.play(octets("05 00") + GRANTED + b"hello")
        assert (scene.app.heard, other.heard) == (["made", "fired"], [b"hello"])

    def test_the_end_of_the_connection_is_passed_on(self) -> None:
        scene = Scene().play(octets("05 00") + GRANTED)
        scene.transport.lose()
        assert [type(heard) for heard in scene.app.heard[2:]] == [ConnectionDone]

    @rows("S-03")
    def test_half_closes_are_passed_on_to_whoever_wants_them(self) -> None:
        scene = Scene(app=HalfApp()).play(octets("05 00") + GRANTED)
        assert IHalfCloseableProtocol.providedBy(scene.proxy.protocol)
        scene.proxy.protocol.readConnectionLost()
        scene.proxy.protocol.writeConnectionLost()
        assert scene.app.heard == ["made", "fired", "eof", "shut"]
        assert not IHalfCloseableProtocol.providedBy(Scene().proxy.protocol)


class TestOptimistic:
    """The application has the connection before the server has answered."""

    def scene(self, app: App | None = None, **more: Any) -> Scene:
        scene = Scene(ClientOptions(optimistic=True, **more), app=app)
        scene.app.on_made = lambda: scene.app.transport.write(b"early")
        return scene

    @rows("S-37", "S-38")
    def test_data_goes_right_behind_the_request(self) -> None:
        scene = self.scene()
        assert scene.come() == octets("05 02 97 00")
        assert scene.hear(octets("05 00")) == ASK + b"early"
        assert scene.app.heard == ["made", "fired"]
        scene.hear(GRANTED + b"hello")
        assert scene.app.heard == ["made", "fired", b"hello"]
        assert scene.clock.getDelayedCalls() == []

    def test_by_socks4_data_goes_right_behind_the_request(self) -> None:
        assert self.scene(version=4).come().endswith(b"example.com\0early")

    @rows("S-40")
    @pytest.mark.parametrize(
        ("end", "kind"),
        [
            ("refused", ConnectionRefused),
            ("timed out", TimedOut),
            ("lost", ProxyBroken),
            ("shut", ProxyBroken),
            ("left", ConnectionDone),
        ],
    )
    def test_a_failure_is_the_reason_of_the_connections_end(
        self, end: str, kind: type[Exception]
    ) -> None:
        scene = self.scene(app=HalfApp() if end == "shut" else None, timeout=1)
        scene.play(octets("05 00"))
        if end == "refused":
            scene.hear(refused(5))
            assert scene.transport.asked[-1] == "abortConnection"
        elif end == "timed out":
            scene.clock.advance(2)
        elif end == "shut":
            scene.proxy.protocol.readConnectionLost()
        elif end == "left":  # the application, first
            scene.transport.disconnecting = True  # type: ignore[attr-defined]
        scene.transport.finish()
        [reason] = scene.app.heard[2:]
        assert type(reason) is kind

    def test_an_application_may_shut_its_side_before_the_answer(self) -> None:
        scene = self.scene(app=HalfApp()).play(octets("05 00"))
        scene.proxy.protocol.writeConnectionLost()
        scene.hear(GRANTED + b"hello")
        assert scene.app.heard == ["made", "fired", "shut", b"hello"]


class TestLookUps:
    def ask(self, kind: Any, text: str, **wishes: Any) -> tuple[FakeTransport, Any, list[Any]]:
        proxy, transport, heard = FakeEndpoint(), FakeTransport(), []
        done: Deferred[Any] = kind(Clock(), proxy, text, ClientOptions(**wishes))
        done.addBoth(heard.append)
        transport.connect(proxy.protocol)
        return transport, proxy.protocol, heard

    @rows("S-24", "S-27", "S-29", "S-30")
    @pytest.mark.parametrize(
        ("kind", "text", "asked", "answer", "found"),
        [
            (resolve, "example.com", named("example.com", 0, 0xF0),
             "04 20010DB8000000000000000000000001 0000", "2001:db8::1"),
            (resolve, "a", named("a", 0, 0xF0), '03 09 "192.0.2.1" 0000', "192.0.2.1"),
            (resolve_ptr, "8.8.8.8", octets("05 F1 00 01 08080808 0000"),
             '03 0A "dns.google" 0000 "more"', "dns.google"),
        ],
    )  # fmt: skip
    def test_a_look_up_is_answered(
        self, kind: Any, text: str, asked: bytes, answer: str, found: str
    ) -> None:
        for optimistic in (False, True):
            transport, protocol, heard = self.ask(kind, text, optimistic=optimistic)
            protocol.dataReceived(octets("05 00"))
            assert transport.take().endswith(asked)
            protocol.dataReceived(octets("05 00 00" + answer))
            assert heard == [found]
            assert transport.asked[-1] == "loseConnection"
            transport.finish()

    def test_a_name_is_looked_up_by_socks4(self) -> None:
        transport, protocol, heard = self.ask(resolve, "a", version=4)
        assert transport.take() == octets("04 F0 0000 00000001 00 61 00")
        protocol.dataReceived(octets("00 5A 0000 C0000201"))
        assert heard == ["192.0.2.1"]

    @rows("S-27", "S-30")
    @pytest.mark.parametrize(
        ("kind", "text", "answer"),
        [
            (resolve, "a", '03 07 "example"'),
            (resolve, "a", "03 00"),
            (resolve, "a", "03 04 FF00613B"),
            (resolve_ptr, "192.0.2.1", "01 C0000201"),
            (resolve_ptr, "192.0.2.1", '03 09 "192.0.2.1"'),
            (resolve_ptr, "192.0.2.1", "03 00"),
            (resolve_ptr, "192.0.2.1", "03 06 61002F2E2E2F"),
            (resolve_ptr, "192.0.2.1", "03 06 6576696C0A61"),
        ],
    )
    def test_an_answer_of_the_wrong_kind_broke_the_protocol(
        self, kind: Any, text: str, answer: str
    ) -> None:
        _, protocol, heard = self.ask(kind, text)
        protocol.dataReceived(octets("05 00") + octets("05 00 00" + answer + "0000"))
        assert type(heard[0].value) is ProxyBroken

    @rows("S-26")
    def test_a_look_up_that_fails_has_the_code_of_the_reply(self) -> None:
        _, protocol, heard = self.ask(resolve, "example.com")
        protocol.dataReceived(octets("05 00") + refused(4))
        assert heard[0].value.reply == 4

    @pytest.mark.parametrize(
        ("kind", "host"),
        [
            *((resolve, host) for host in ("", b"", "b\u00fccher.example", "a" * 256)),
            (resolve, "b\u00fccher.example".encode()),
            (resolve_ptr, "example.com"),
        ],
    )
    def test_what_cannot_be_said_is_not_asked(self, kind: Any, host: str | bytes) -> None:
        heard: list[Any] = []
        kind(Clock(), FakeEndpoint(), host).addErrback(heard.append)
        assert heard[0].check(ValueError)

    def test_cancelling_frees_the_connection(self) -> None:
        proxy, transport = FakeEndpoint(), FakeTransport()
        done = resolve(Clock(), proxy, "a")
        transport.connect(proxy.protocol)
        done.addErrback(lambda failure: failure.trap(CancelledError))
        done.cancel()
        assert transport.asked[-1] == "abortConnection"


@pytest.mark.parametrize(
    ("host", "port"),
    [
        *(("a", port) for port in (0, 65536)),
        *((host, 80) for host in ("", "b\u00fccher.example", b"b\xfccher.example", "a" * 256)),
        *((f"a{sign}b", 80) for sign in "\0\n \x7f"),
    ],
)
def test_destinations_that_cannot_be(host: str | bytes, port: int) -> None:
    for version in (4, 5):
        with pytest.raises(ValueError, match=r"port|host|255|NUL"):
            SOCKSClientEndpoint(Clock(), FakeEndpoint(), host, port, ClientOptions(version=version))


@pytest.mark.parametrize(
    ("change", "error", "wanted"),
    [
        (
            {"proxy": "127.0.0.1:9050"},
            TypeError,
            "proxy must be a client endpoint, such as .*, not str",
        ),
        ({"options": {}}, TypeError, "options must be of the class ClientOptions, not dict"),
        ({"host": None}, TypeError, "a host must be text or bytes, not NoneType"),
        ({"port": "80"}, ValueError, "a whole number from 1 to 65535, not '80'"),
        ({"port": 0}, ValueError, "a whole number from 1 to 65535, not 0"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(
    change: dict[str, Any], error: type[Exception], wanted: str
) -> None:
    right = {"reactor": Clock(), "proxy": FakeEndpoint(), "host": "example.com", "port": 80}
    with pytest.raises(error, match=wanted):
        SOCKSClientEndpoint(**{**right, **change})


def test_look_ups_refuse_what_is_no_endpoint() -> None:
    with pytest.raises(TypeError, match="proxy must be a client endpoint"):
        resolve(Clock(), "127.0.0.1:9050", "example.com")  # type: ignore[arg-type]
