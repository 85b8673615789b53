"""Our client in front of our server, over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import clientFromString, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.tls import TLSMemoryBIOFactory

from tests.loopback.conftest import extended_before_streams
from tests.support.certificates import certificate
from tests.support.fakes import grant, hold, plain, refuse, tor_like
from tests.support.ground import Ground
from tests.support.names import ONION
from tests.support.peers import DEADLINE, GRANTED, Peer, PeerFactory
from tests.support.rows import rows
from tests.support.tables import cuts, octets
from torsocks_tx.backends.endpoint import EndpointBackend
from torsocks_tx.backends.memory import MemoryBackend, MemoryOutbound
from torsocks_tx.client.endpoint import SOCKSClientEndpoint, resolve
from torsocks_tx.errors import (
    ConnectionRefused,
    DescriptorNotFound,
    IntroductionFailed,
    InvalidBridge,
    LoginRefused,
    LoginRequired,
    NotIsolated,
    OnionNotFound,
    OnionNotReachable,
    Refused,
    SOCKSError,
    Temporary,
)
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.server.auth import CredAuthenticator
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.socks import extended
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.socks.constants import CodeSet, Role
from torsocks_tx.socks.extended import take_any
from torsocks_tx.socks.messages import Credentials, KeyValues

pytestmark = extended_before_streams

ANSWER = b"0123456789abcdef" * 65536


async def connected(
    ground: Ground, proxy: Any, options: ClientOptions | None = None, host: str = "example.com"
) -> Peer:
    """Connect a peer through the SOCKS server at this endpoint."""
    endpoint = SOCKSClientEndpoint(reactor, proxy, host, 80, options or ClientOptions())
    return await ground.connect(endpoint)


WISHES = [
    ClientOptions(),
    ClientOptions(extended=False),
    ClientOptions(version=4),
    ClientOptions(isolation=b"x"),
    ClientOptions(isolation=b"x" * 60000),
    ClientOptions(isolation=b"x", extended=False),
    ClientOptions(isolation=b"x", version=4),
    ClientOptions(credentials=Credentials(b"me", b"you")),
    ClientOptions(credentials=Credentials(b"me", b"you"), extended=False),
    ClientOptions(optimistic=True),
    ClientOptions(protocol="http"),
    ClientOptions(protocol="http", credentials=Credentials(b"tor-iso", b"x")),
    ClientOptions(protocol="http", optimistic=True),
]


@rows("P-01", "P-03", "P-35", "S-04", "S-05", "S-06")
@pytest.mark.parametrize("options", WISHES)
async def test_every_way_to_ask(ground: Ground, options: ClientOptions) -> None:
    server, origin = await plain(ground)
    client = await connected(ground, await ground.listen(server), options)
    client.send(b"question")
    far = await origin.peer()
    assert await far.take(8) == b"question"
    client.shut()  # with optimistic data, a client that does so before the reply is gone
    assert await far.take_rest() == b""
    far.send(ANSWER)
    far.close()
    assert await client.take_rest() == ANSWER
    assert await client.ended_well()


# Twisted itself is behind the newest pyOpenSSL.
@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@pytest.mark.parametrize("optimistic", [False, True])
async def test_tls_goes_on_top(ground: Ground, optimistic: bool) -> None:
    own, trust = certificate()
    origin = PeerFactory()
    endpoint = await ground.listen(TLSMemoryBIOFactory(own.options(), False, origin))
    server = SOCKSFactory(EndpointBackend(reactor, lambda *_: endpoint))
    proxy = await ground.listen(server)
    socks = SOCKSClientEndpoint(
        reactor, proxy, "example.com", 443, ClientOptions(optimistic=optimistic)
    )
    client = await ground.connect(wrapClientTLS(optionsForClientTLS("example.com", trust), socks))
    client.send(b"secret")
    far = await origin.peer()
    assert await far.take(6) == b"secret"
    far.send(ANSWER)
    assert await client.take(len(ANSWER)) == ANSWER
    client.close()
    await far.ended_well()


@rows("R-32", "R-27")
async def test_whatever_the_segments_nothing_behind_the_reply_is_lost(ground: Ground) -> None:
    """A server that answers in two segments, cut at every place, or byte by byte."""
    pairs = extended.build_response(0, KeyValues.of({"ACCEPTED": b"ISOLATION"}))
    for answer in cuts(octets("05 97") + pairs + GRANTED + b"hello"):
        servers = PeerFactory()
        proxy = await ground.listen(servers)
        endpoint = SOCKSClientEndpoint(
            reactor, proxy, "example.com", 80, ClientOptions(isolation=b"x")
        )
        coming = endpoint.connect(PeerFactory())
        server = await servers.peer()
        for part in answer:
            server.send(part)
            await server.flushed()
        client: Any = await coming.addTimeout(DEADLINE, reactor)
        assert await client.take(5) == b"hello"
        client.close()
        await server.until(lambda server=server: server.over)
        server.close()


@rows("P-09")
async def test_cancelling_closes_the_connection(ground: Ground) -> None:
    server, upstream = await tor_like(ground, hold)
    proxy = await ground.listen(server)
    endpoint = SOCKSClientEndpoint(reactor, proxy, "example.com", 80)
    coming = endpoint.connect(PeerFactory())
    leg = await upstream.asked()
    coming.addErrback(lambda failure: failure.trap(CancelledError))
    coming.cancel()
    await server.emptied()
    await leg.until(lambda: leg.over)


async def error_of(ground: Ground, proxy: Any, options: ClientOptions, host: str) -> SOCKSError:
    with pytest.raises(SOCKSError) as caught:
        await connected(ground, proxy, options, host)
    return caught.value


FLAGGED = ListenerPolicy(extended_errors=True)
PT = ListenerPolicy(role=Role.PT)
BY_229 = ClientOptions(reply_codes=CodeSet.PROP229)
REFUSALS: list[tuple[ListenerPolicy, ClientOptions, str, type[Refused], type[Refused], Any]] = [
    (ListenerPolicy(), ClientOptions(), ONION, DescriptorNotFound, OnionNotFound, 0xE0),
    (ListenerPolicy(), ClientOptions(), ONION, IntroductionFailed, OnionNotReachable, 0xE1),
    (FLAGGED, ClientOptions(), ONION, DescriptorNotFound, DescriptorNotFound, 0xF0),
    (FLAGGED, BY_229, ONION, DescriptorNotFound, OnionNotFound, 0xE0),
    (PT, ClientOptions(), "192.0.2.1", Temporary, Temporary, 0xF0),
    (PT, ClientOptions(), "192.0.2.1", InvalidBridge, InvalidBridge, 0xF1),
    (PT, ClientOptions(extended=False), "192.0.2.1", InvalidBridge, ConnectionRefused, 5),
    (
        ListenerPolicy(),
        ClientOptions(protocol="http"),
        ONION,
        DescriptorNotFound,
        DescriptorNotFound,
        None,
    ),
]


@rows("P-02", "P-26", "P-27", "P-28", "P-29", "P-31", "P-34")
@pytest.mark.parametrize(("policy", "options", "host", "reason", "heard", "code"), REFUSALS)
async def test_refusals(
    ground: Ground,
    policy: ListenerPolicy,
    options: ClientOptions,
    host: str,
    reason: type[Refused],
    heard: type[Refused],
    code: int | None,
) -> None:
    def script(outbound: MemoryOutbound) -> None:
        reactor.callLater(0, outbound.receiver.refused, reason("x"))

    server = SOCKSFactory(MemoryBackend(script), policy=policy)
    error = await error_of(ground, await ground.listen(server), options, host)
    assert (type(error), error.reply) == (heard, code)


@rows("P-05", "P-21")
async def test_logins(ground: Ground) -> None:
    from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse as Database

    users = CredAuthenticator([Database(me=b"you")])
    server, origin = await plain(ground, authenticator=users)
    proxy = await ground.listen(server)
    known = Credentials(b"me", b"you")
    for number, good in enumerate(
        (
            ClientOptions(credentials=known, isolation=b"x"),
            ClientOptions(credentials=known, protocol="http"),
        )
    ):
        client = await connected(ground, proxy, good)
        client.send(b"hello")
        far = await origin.peer(number)
        assert await far.take(5) == b"hello"
        client.close()
        await far.ended_well()
    for wrong in (
        ClientOptions(credentials=Credentials(b"me", b"me"), isolation=b"x"),
        ClientOptions(credentials=Credentials(b"me", b"me"), extended=False),
        ClientOptions(),
        ClientOptions(credentials=Credentials(b"me", b"me"), protocol="http"),
        ClientOptions(protocol="http"),
    ):
        error = await error_of(ground, proxy, wrong, "example.com")
        assert type(error) is (LoginRefused if wrong.credentials else LoginRequired)
    assert len(origin.peers) == 2


@rows("P-20", "P-21")
async def test_an_unknown_key_is_refused_by_its_name(ground: Ground) -> None:
    server, origin = await plain(ground)
    proxy = await ground.listen(server)
    options = ClientOptions(require=("FAMILY", "ISOLATION"), isolation=b"x")
    error = await error_of(ground, proxy, options, "example.com")
    assert (error.status, error.pairs.get("UNSUPPORTED")) == (2, b"FAMILY")
    assert origin.peers == []


@rows("P-04")
async def test_keys_of_an_application(ground: Ground) -> None:
    def price(pairs: KeyValues) -> KeyValues:
        return KeyValues.of({"X-paint.price": b"7"})

    server, origin = await plain(ground, keys={"X-paint.colour": price, "X-other.": take_any})
    proxy = await ground.listen(server)
    pairs = KeyValues.of({"X-paint.colour": b"red", "X-other.a": b""})
    options = ClientOptions(pairs=pairs, require=("X-paint.colour",))
    endpoint = SOCKSClientEndpoint(reactor, proxy, "example.com", 80, options)
    client, answer = await endpoint.connect_with_answer(PeerFactory())
    assert answer.get("X-paint.price") == b"7"
    assert answer.get("ACCEPTED") == b"REQUIRE,X-paint.colour,X-other.a"
    client.close()  # type: ignore[attr-defined]
    await (await origin.peer()).ended_well()


@rows("S-23", "H-20")
async def test_a_listener_that_does_not_isolate_is_refused(ground: Ground) -> None:
    from torsocks_tx.policy.isolation import IsolationFlags

    policy = ListenerPolicy(isolation=IsolationFlags(socks_auth=False))
    server, origin = await plain(ground, policy=policy)
    proxy = await ground.listen(server)
    for options in (
        ClientOptions(isolation=b"x"),
        ClientOptions(isolation=b"x", protocol="http"),
        ClientOptions(isolation=b"x", protocol="http", optimistic=True),
    ):
        error = await error_of(ground, proxy, options, "example.com")
        assert type(error) is NotIsolated
    assert origin.peers == []


@rows("S-17", "S-23", "P-23", "H-08", "H-20")
async def test_isolation_reaches_tor(ground: Ground) -> None:
    server, upstream = await tor_like(ground, grant)
    proxy = await ground.listen(server)
    tokens = []
    wishes = [
        ClientOptions(isolation=b"x"),
        ClientOptions(isolation=b"x"),
        ClientOptions(isolation=b"y"),
        ClientOptions(isolation=b"x", extended=False),
        ClientOptions(),
        ClientOptions(isolation=b"x", protocol="http"),
        ClientOptions(isolation=b"y", protocol="http"),
    ]
    for number, options in enumerate(wishes):
        await connected(ground, proxy, options)
        leg = await upstream.asked(number)
        tokens.append(leg.credentials)
    assert tokens[0] == tokens[1]
    assert len(set(tokens)) == 6


@rows("P-26", "S-22")
async def test_a_code_of_an_upstream_never_passes_as_it_is(ground: Ground) -> None:
    server, _ = await tor_like(ground, refuse(0xF1))
    proxy = await ground.listen(server)
    for options, code in ((ClientOptions(), 0xE0), (ClientOptions(extended=False), 4)):
        error = await error_of(ground, proxy, options, ONION)
        assert error.reply == code
        error = await error_of(ground, proxy, options, "example.com")
        assert error.reply == 4


async def test_a_chain_of_two_servers(ground: Ground) -> None:
    """The second server's reason is what the first one's client hears."""
    last, _ = await tor_like(ground, refuse(5))
    second = await ground.listen(last)

    def through(request: Any, isolation: Any) -> SOCKSClientEndpoint:
        return SOCKSClientEndpoint(reactor, second, request.address.host, request.address.port)

    first = await ground.listen(SOCKSFactory(EndpointBackend(reactor, through)))
    error = await error_of(ground, first, ClientOptions(), "example.com")
    assert error.reply == 5


@rows("S-24", "S-27")
async def test_look_ups(ground: Ground) -> None:
    server, _ = await tor_like(ground, lambda leg: leg.send(octets("05 00 00 01 C0000201 0000")))
    proxy = await ground.listen(server)
    for options in (ClientOptions(), ClientOptions(isolation=b"x"), ClientOptions(version=4)):
        assert await resolve(reactor, proxy, "example.com", options) == "192.0.2.1"


async def test_by_string(ground: Ground) -> None:
    server, origin = await plain(ground)
    where = ground.address(await ground.listen(server))
    place = f"socksPath={where}" if isinstance(where, str) else f"socksPort={where[1]}"
    client = await ground.connect(
        clientFromString(reactor, f"socks:example.com:80:{place}:isolation=alice")
    )
    far = await origin.peer()
    far.send(b"hello")
    assert await client.take(5) == b"hello"
    client.close()
    await far.ended_well()


@rows("S-40")
async def test_optimistic_data_and_a_refusal(ground: Ground) -> None:
    server, _ = await tor_like(ground, refuse(5))
    proxy = await ground.listen(server)
    client = await connected(ground, proxy, ClientOptions(optimistic=True))
    client.send(b"x" * 10000)
    await client.until(lambda: client.lost is not None)
    assert client.lost is not None
    assert isinstance(client.lost.value, SOCKSError)
    assert client.lost.value.reply == 5
    assert client.received == b""


class Leaving(Peer):
    """Leaves as soon as it is connected."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.reset()


@rows("R-32")
async def test_who_leaves_when_connected_gets_nothing_that_comes_with_the_reply(
    ground: Ground,
) -> None:
    scripted, clients = PeerFactory(), PeerFactory(Leaving)
    proxy = await ground.listen(scripted)
    done = SOCKSClientEndpoint(reactor, proxy, "example.com", 80).connect(clients)
    server = await scripted.peer()
    await server.take(4)
    server.send(b"\5\0")
    await server.take(18)
    server.send(GRANTED + b"hello")
    client = await done
    await server.until(lambda: server.over)
    assert client.received == b""
