"""Every way in which an onion service fails, and some in which it only seems to, on real tor.

Each scenario is provoked on the private network and says which code a client gets. The tests and
``make onion-table`` run the same ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.onion.craft import Flaw, Relay, Service, post, relays, time_period
from torsocks_tx.backends.tor.control import Control
from torsocks_tx.backends.tor.onion.events import parse_circuit
from torsocks_tx.testing.tornet import PrivateNetwork
from torsocks_tx.testing.tornet.client import Client
from torsocks_tx.testing.tornet.onion import ClientKey, publish, service_id
from torsocks_tx.testing.tornet.servers import PortReservations

SERVICE = "service0"
DEADLINE = 120.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Target:
    """What to connect to."""

    host: str
    port: int = 80


@dataclass
class Stage:
    """What a scenario runs on: the network, and the client whose tor will be asked."""

    network: PrivateNetwork
    client: Client
    _relays: list[Relay] = field(default_factory=list)

    async def relays(self) -> list[Relay]:
        """Every relay of the network."""
        if not self._relays:
            self._relays = await relays(await self.network.daemons["auth0"].control())
        return self._relays

    async def relay(self, name: str) -> Relay:
        """The relay of this name."""
        return next(relay for relay in await self.relays() if relay.name == name)

    async def host(self) -> Control:
        """The control port of the daemon that hosts the services."""
        return await self.network.daemons[SERVICE].control()

    async def in_one_period(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask, and once more if a time period has ended meanwhile; return what was heard.

        With the next period tor takes another descriptor, and says 01 to streams that wait.
        """
        while True:
            period = await self._period()
            heard = await ask()
            if await self._period() == period:
                return heard

    async def _period(self) -> int:
        """The time period of onion services that the client's tor is in, by its consensus."""
        control = await self.client.node.control()
        begun = datetime.fromisoformat(await control.get_info("consensus/valid-after"))
        return time_period(begun.replace(tzinfo=UTC).timestamp())


Provoke = Callable[[Stage], AbstractAsyncContextManager[Target]]


@dataclass(frozen=True)
class Scenario:
    """One way to fail: ``code`` with ExtendedErrors, ``plain`` without; equal if it is no failure
    of an onion service."""

    name: str
    code: int
    plain: int
    provoke: Provoke


@asynccontextmanager
async def never_published(stage: Stage) -> AsyncIterator[Target]:
    """A valid address that nobody has used."""
    yield Target(Service().address)


def bad_descriptor(flaw: Flaw) -> Provoke:
    """Every directory has a descriptor, properly signed, with this flaw."""

    @asynccontextmanager
    async def provoke(stage: Stage) -> AsyncIterator[Target]:
        service, everywhere = Service(), await stage.relays()
        descriptors = service.descriptors(everywhere[:1], flaw)
        await post(await stage.host(), service.address, descriptors, everywhere)
        yield Target(service.address)

    return provoke


def crafted(points: int) -> Provoke:
    """A good descriptor that names so many live relays, none of which knows the service."""

    @asynccontextmanager
    async def provoke(stage: Stage) -> AsyncIterator[Target]:
        service, everywhere = Service(), await stage.relays()
        descriptors = service.descriptors(everywhere[len(everywhere) - points :])
        await post(await stage.host(), service.address, descriptors, everywhere)
        yield Target(service.address)

    return provoke


@asynccontextmanager
async def pointless(stage: Stage) -> AsyncIterator[Target]:
    """A descriptor without introduction points, and a tor that has forgotten all about others.

    Else nobody could tell whether tor shuns the points in it, unless he had watched for long.
    """
    control = await stage.client.node.control()
    forgotten: Deferred[None] = Deferred()

    def note(text: str) -> None:
        if text.startswith("NEWNYM") and not forgotten.called:
            forgotten.callback(None)

    await control.listen("SIGNAL", note)
    async with crafted(0)(stage) as target:
        await control.command("SIGNAL NEWNYM")  # tor may take its time: one in 10 s
        await forgotten.addTimeout(DEADLINE, reactor)
        await control.unlisten("SIGNAL", note)
        yield target


@asynccontextmanager
async def removed(stage: Stage) -> AsyncIterator[Target]:
    """A service that was taken down; its introduction points notice it one by one."""
    service = await stage.network.add_onion_service(stage.network.web.port)
    await service.remove()
    yield Target(service.address)


@asynccontextmanager
async def killed(stage: Stage) -> AsyncIterator[Target]:
    """A service whose tor was killed; its introduction points notice it one by one."""
    network = stage.network
    host = await network.add_onion_host()
    service = await network.add_onion_service(network.web.port, host=host)
    node = network.daemons[host]
    node.kill()
    await node.when_exited()
    yield Target(service.address)


def client_authorization(right: bool | None) -> Provoke:
    """A service for authorized clients; tor has the right key, a wrong one (False) or none."""

    @asynccontextmanager
    async def provoke(stage: Stage) -> AsyncIterator[Target]:
        key = ClientKey.generate()
        service = await stage.network.add_onion_service(stage.network.web.port, client_auth_key=key)
        if right is not None:
            await stage.client.authorize(service, key if right else ClientKey.generate())
        yield Target(service.address)

    return provoke


@asynccontextmanager
async def introduction_relay_stopped(stage: Stage) -> AsyncIterator[Target]:
    """The only introduction point stops as soon as it was sent the introduction."""
    service, everywhere = Service(), await stage.relays()
    name = "exit4"
    node = stage.network.daemons[name]
    descriptors = service.descriptors([await stage.relay(name)])
    await post(await stage.host(), service.address, descriptors, everywhere)
    control = await stage.client.node.control()
    stopped: list[bool] = []

    def note(text: str) -> None:
        event = parse_circuit(text)
        mine = event is not None and event.address == service.address[:56]
        if mine and "HS_CLIENT_INTRO" in text and " BUILT " in text and not stopped:
            stopped.append(True)
            node.suspend()

    await control.listen("CIRC", note)
    try:
        yield Target(service.address)
    finally:
        if stopped:
            node.resume()
        await control.unlisten("CIRC", note)


@asynccontextmanager
async def service_stopped(stage: Stage) -> AsyncIterator[Target]:
    """The service's tor is suspended, and its introduction points do not know that."""
    service = await stage.network.add_onion_service(stage.network.web.port)
    node = stage.network.daemons[SERVICE]
    node.suspend()
    try:
        yield Target(service.address)
    finally:
        node.resume()


@asynccontextmanager
async def some_directories(stage: Stage) -> AsyncIterator[Target]:
    """A service that is up; of the directories that clients ask, some have its descriptor."""
    host = await stage.host()
    without = (await stage.relays())[:4]
    names = ",".join(f"${relay.fingerprint}" for relay in without)
    await host.command(f"SETCONF ExcludeNodes={names} StrictNodes=1")
    try:
        command = f"ADD_ONION NEW:ED25519-V3 Port=80,127.0.0.1:{stage.network.web.port}"
        fingerprints = {relay.fingerprint for relay in without}
        name = service_id(await publish(reactor, host, command, fingerprints))
        yield Target(f"{name}.onion")
        await host.command(f"DEL_ONION {name}")
    finally:
        await host.command("RESETCONF ExcludeNodes StrictNodes")


def up(port: int) -> Provoke:
    """A service that works, and offers port 80, asked for this port."""

    @asynccontextmanager
    async def provoke(stage: Stage) -> AsyncIterator[Target]:
        service = await stage.network.add_onion_service(stage.network.web.port)
        yield Target(service.address, port)

    return provoke


@asynccontextmanager
async def server_refuses(stage: Stage) -> AsyncIterator[Target]:
    """A service that is up, whose own server cannot be reached."""
    ports = PortReservations()
    service = await stage.network.add_onion_service(ports.take())
    yield Target(service.address)
    ports.release()


@asynccontextmanager
async def returned(stage: Stage) -> AsyncIterator[Target]:
    """A service that was taken down and is back with the same key, at new introduction points."""
    host, port = await stage.host(), stage.network.web.port
    answer = await publish(reactor, host, f"ADD_ONION NEW:ED25519-V3 Port=80,127.0.0.1:{port}")
    name, key = service_id(answer), answer.partition("PrivateKey=")[2].split()[0]
    await host.command(f"DEL_ONION {name}")
    await publish(reactor, host, f"ADD_ONION {key} Port=80,127.0.0.1:{port}")
    yield Target(f"{name}.onion")
    await host.command(f"DEL_ONION {name}")


def local(host: str) -> Provoke:
    """An address that is not valid."""

    @asynccontextmanager
    async def provoke(stage: Stage) -> AsyncIterator[Target]:
        yield Target(host)

    return provoke


VERSION_4 = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswvadqe.onion"
CHECKSUM = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzazad.onion"

QUICK = (
    Scenario("the address has a wrong checksum", 0xF6, 0x01, local(CHECKSUM)),
    Scenario("the address has an unknown version", 0xF6, 0x01, local(VERSION_4)),
    Scenario("the address is empty", 0xF6, 0x01, local(".onion")),
    Scenario("never published", 0xF0, 0x04, never_published),
    *(Scenario(f"bad descriptor: {flaw.value}", 0xF1, 0x04, bad_descriptor(flaw))
      for flaw in Flaw if flaw is not Flaw.NONE),
    Scenario("no client authorization key", 0xF4, 0x01, client_authorization(None)),
    Scenario("a wrong client authorization key", 0xF5, 0x01, client_authorization(False)),
    Scenario("the right client authorization key", 0x00, 0x00, client_authorization(True)),
    Scenario("gone from its introduction points", 0xF2, 0x04, crafted(3)),
    Scenario("a descriptor without introduction points", 0xF2, 0x04, pointless),
    Scenario("a port that it does not offer", 0x05, 0x05, up(81)),
    Scenario("its own server refuses", 0x01, 0x01, server_refuses),
    Scenario("port 0", 0x01, 0x01, up(0)),
    Scenario("up", 0x00, 0x00, up(80)),
    Scenario("taken down, and back with the same key", 0x00, 0x00, returned),
    Scenario("its descriptor at some directories only", 0x00, 0x00, some_directories),
)  # fmt: skip
SLOW = (
    Scenario("its introduction point is silent", 0xF7, 0x04, introduction_relay_stopped),
    Scenario("stopped: nobody comes to the rendezvous", 0xF3, 0x06, service_stopped),
)
