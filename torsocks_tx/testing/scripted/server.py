"""The scripted SOCKS server: it answers as the name of the destination says.

``names`` has the grammar of the names and ``backend`` the streams. Here are the methods that the
server takes, the bytes of its replies, and the record of the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamServerEndpoint

from torsocks_tx.backends.tor.waiting import Waiters
from torsocks_tx.http.answers import build
from torsocks_tx.limits import Limits, check_arguments
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.relay.timeouts import Deadline
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.server.protocol import SOCKSProtocol, State
from torsocks_tx.server.request import Client, RequestHandler
from torsocks_tx.socks.constants import AddressType, Command, Method, Version
from torsocks_tx.socks.messages import Address, Credentials, Request
from torsocks_tx.socks.server import HandshakeOptions
from torsocks_tx.socks.wire import build_address
from torsocks_tx.testing.scripted.backend import ScriptedBackend
from torsocks_tx.testing.scripted.names import Act, Script, script_of

LIMITS = Limits(connect_timeout=3600.0, onion_timeout=3600.0)
"""Long deadlines: the action silent ends by a deadline of the test only."""

ANY_PORT = "tcp:0:interface=127.0.0.1"
METHODS = (Method.USERNAME_PASSWORD, Method.NO_AUTH)


@dataclass(frozen=True, slots=True)
class ScriptedRequest:
    """One request as the client made it.

    ``handshake``: every byte that it had sent by then, early data included. ``mistake``: why the
    destination means nothing to a scripted server; empty if it does.
    """

    version: Version
    command: Command
    address: Address
    credentials: Credentials | None
    handshake: bytes = field(repr=False)
    mistake: str


def to_json(request: ScriptedRequest) -> dict[str, Any]:
    """Return a request as JSON values: bytes are hexadecimal, absent credentials are null."""
    credentials = request.credentials
    return {
        "version": int(request.version),
        "command": request.command.name,
        "address_type": request.address.type.name,
        "host": request.address.host,
        "port": request.address.port,
        "username": None if credentials is None else credentials.username.hex(),
        "password": None if credentials is None else credentials.password.hex(),
        "handshake": request.handshake.hex(),
        "mistake": request.mistake,
    }


def from_json(fields: dict[str, Any]) -> ScriptedRequest:
    """Return the request that ``to_json`` wrote."""
    credentials = None
    if fields["username"] is not None:
        username, password = (bytes.fromhex(fields[name]) for name in ("username", "password"))
        credentials = Credentials(username, password)
    return ScriptedRequest(
        Version(fields["version"]),
        Command[fields["command"]],
        Address(AddressType[fields["address_type"]], fields["host"], fields["port"]),
        credentials,
        bytes.fromhex(fields["handshake"]),
        fields["mistake"],
    )


class ScriptedRequestHandler(RequestHandler):
    """Handles one request: sends the reply that its script describes."""

    def __init__(self, client: Client, request: Request, **options: Any) -> None:
        super().__init__(client, request, **options)
        self._script = script_of(request)
        self._next_byte = Deadline(options["clock"])

    def send_reply(self, reply: bytes, *, final: bool) -> None:
        """Write the scripted reply in place of the true one, as the script says."""
        script = self._script
        if script.act is Act.RESET:
            self._client.reset()
            return
        shaped = shape(reply, script, self._request)
        if script.cut is not None:
            shaped, final = shaped[: script.cut], True
        if script.pause is None or not shaped:
            super().send_reply(shaped, final=final)
            return
        if self.relay.outbound is not None:
            self.relay.outbound.pauseProducing()
        self._send_byte(shaped, final, script.pause)

    def _send_byte(self, left: bytes, final: bool, pause: float) -> None:
        if len(left) > 1:
            self._client.transport.write(left[:1])
            self._next_byte.start(pause, partial(self._send_byte, left[1:], final, pause))
            return
        super().send_reply(left, final=final)
        if self.relay.outbound is not None:
            self.relay.outbound.resumeProducing()

    def client_lost(self, clean: bool) -> None:
        """Stop: the connection of the client has ended."""
        self._next_byte.stop()
        super().client_lost(clean)


def shape(reply: bytes, script: Script, request: Request) -> bytes:
    """Return the bytes of the scripted reply, given those of the true one."""
    if script.act is Act.CLOSE:
        return b""
    if script.raw is not None:
        return script.raw
    if request.version is Version.HTTP:
        return reply if script.status is None else _answer(script.status)
    if script.act is not Act.SILENT and not script.opens(request.version):
        # The code is the second byte, in both versions.
        reply = reply[:1] + bytes([script.code_for(request.version)]) + reply[2:]
    connects = request.version is Version.SOCKS5 and request.command is Command.CONNECT
    if script.bound is not None and connects:
        reply = reply[:3] + build_address(script.bound)
    return reply


def _answer(status: int) -> bytes:
    headers = [("Via", "1.1 scripted")]
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        headers.append(("Proxy-Authenticate", 'Basic realm="scripted"'))
    has_body = status >= HTTPStatus.MULTIPLE_CHOICES and status != HTTPStatus.NOT_MODIFIED
    return build(status, headers, "As the name of the host says." if has_body else None)


class ScriptedProtocol(SOCKSProtocol):
    """A server connection that records what the client sends up to its request."""

    def __init__(self) -> None:
        super().__init__()
        self.handshake = b""

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self.state in (State.HANDSHAKE, State.AUTHENTICATING):
            self.handshake += data
        super().dataReceived(data)


@dataclass(frozen=True, slots=True)
class ScriptedOptions(HandshakeOptions):
    """Selects the first of ``methods`` that the client offers."""

    methods: tuple[Method, ...] = METHODS

    def select(self, offered: bytes) -> Method:
        """See ``HandshakeOptions``."""
        return next((m for m in self.methods if m in offered), Method.NONE_ACCEPTABLE)


class ScriptedFactory(SOCKSFactory):
    """The factory of a scripted server; ``requests`` lists the requests so far."""

    protocol = ScriptedProtocol
    handler = ScriptedRequestHandler

    def __init__(
        self,
        clock: IReactorTime,
        *,
        methods: Sequence[int] = METHODS,
        users: Mapping[bytes, bytes] | None = None,
        on_request: Callable[[ScriptedRequest], None] | None = None,
    ) -> None:
        if not set(methods) <= set(METHODS):
            raise ValueError("methods: a scripted server speaks 2 and 0 only")
        super().__init__(
            ScriptedBackend(clock),
            policy=ListenerPolicy(extended_errors=True),
            limits=LIMITS,
            authenticator=None if users is None else partial(_check, dict(users)),
            clock=clock,
        )
        self.requests: list[ScriptedRequest] = []
        self._methods = tuple(map(Method, methods))
        self._must_authenticate = users is not None
        self._on_request = on_request
        self._news: Waiters[None] = Waiters()

    @cached_property
    def handshake_options(self) -> HandshakeOptions:
        """See ``SOCKSFactory``."""
        return ScriptedOptions(require_auth=self._must_authenticate, methods=self._methods)

    def request_handler(self, client: Client, request: Request) -> RequestHandler:
        """Record a request, and return its handler."""
        assert isinstance(client, ScriptedProtocol)
        asked = request.version, request.command, request.address, request.credentials
        mistake = script_of(request).mistake
        self.requests.append(ScriptedRequest(*asked, client.handshake, mistake))
        if self._on_request is not None:
            self._on_request(self.requests[-1])
        self._news.fire(None)
        return super().request_handler(client, request)

    async def when_requested(self, number: int) -> ScriptedRequest:
        """Return the request of this number, counted from 0, once it is there."""
        while number >= len(self.requests):
            await self._news.wait()
        return self.requests[number]


def _check(users: Mapping[bytes, bytes], credentials: Credentials) -> Deferred[bytes | None]:
    known = users.get(credentials.username) == credentials.password
    return succeed(b"known" if known else None)  # a user's name may be empty here


class ScriptedServer:
    """A listening scripted server.

    Args:
        reactor: the running reactor.
        endpoint: where it listens, as Twisted's endpoint or its string.
        methods: the SOCKS5 methods that it takes, first choice first: 2 (user name and password)
            and 0 (none) by default. Without any, every client is answered 05 FF.
        users: the passwords by user name; other credentials are answered 01 01. None: all
            credentials are taken.

    Attributes:
        address: where it listens, once started: ``address.host`` and ``address.port``.
    """

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamServerEndpoint | str = ANY_PORT,
        *,
        methods: Sequence[int] = METHODS,
        users: Mapping[bytes, bytes] | None = None,
        on_request: Callable[[ScriptedRequest], None] | None = None,
    ) -> None:
        check_arguments(IReactorTime, reactor=reactor)
        check_arguments(str, IStreamServerEndpoint, endpoint=endpoint)
        check_arguments(Iterable, methods=methods)
        check_arguments(Mapping, None, users=users)
        check_arguments(Callable, None, on_request=on_request)
        self.address: Any = None
        self._endpoint = (
            serverFromString(reactor, endpoint) if isinstance(endpoint, str) else endpoint
        )
        self._factory = ScriptedFactory(
            reactor, methods=methods, users=users, on_request=on_request
        )
        self._port: Any = None

    @property
    def requests(self) -> list[ScriptedRequest]:
        """The requests so far, oldest first."""
        return self._factory.requests

    def when_requested(self, number: int = 0) -> Deferred[ScriptedRequest]:
        """Fires with the request of this number, counted from 0, once it is there."""
        return Deferred.fromCoroutine(self._factory.when_requested(number))

    async def _start(self) -> IAddress:
        self._port = await self._endpoint.listen(self._factory)
        address: IAddress = self._port.getHost()
        self.address = address
        return address

    def start(self) -> Deferred[IAddress]:
        """Listen; fires with the address."""
        return Deferred.fromCoroutine(self._start())

    def stop(self) -> Deferred[None]:
        """Stop listening and reset every client; fires when all sockets are closed."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        self._factory.abort_all()
        await self._factory.when_empty()


def start_scripted(case: Any, reactor: Any, **options: Any) -> Deferred[ScriptedServer]:
    """Start a server for one test of ``twisted.trial``; it is stopped when the test is over.

    ``case`` is the test case, and the options are those of ``ScriptedServer``.
    """
    server = ScriptedServer(reactor, **options)
    case.addCleanup(server.stop)
    return server.start().addCallback(lambda _: server)
