"""The private Tor network with exits in countries: what each one reaches, and how it is seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory

from tests.network.asking import Asker, ask, hang_up, request
from torsocks_tx.errors import GeneralFailure
from torsocks_tx.socks.constants import Command
from torsocks_tx.testing.tornet import EXIT_NAME, Asked, PrivateNetwork
from torsocks_tx.testing.tornet.servers import EchoProtocol

pytestmark = pytest.mark.network


@asynccontextmanager
async def by_each_exit(net: PrivateNetwork, host: str) -> AsyncIterator[dict[str, str]]:
    """Give, for each exit, a name by which tor reaches ``host`` through it."""
    control = await net.client.node.control()
    aliases = {name: f"{name}.countries.invalid" for name in net.exits}
    for name, alias in aliases.items():
        await control.command(f"MAPADDRESS {alias}={host}.{net.exits[name].fingerprint}.exit")
    yield aliases
    for alias in aliases.values():
        await control.command(f"MAPADDRESS {alias}={alias}")


async def through(
    net: PrivateNetwork, alias: str, port: int, command: Command = Command.CONNECT
) -> Asker:
    """Ask for an alias by the client's SocksPort."""
    what = request(alias, port, command=command)
    return await ask("{}:{}".format(*net.client.socks_tcp), what)


async def test_each_exit_is_reached_and_seen_by_its_own_address(
    country_network: PrivateNetwork,
) -> None:
    net = country_network
    origin = net.add_origin(Factory.forProtocol(EchoProtocol))
    async with by_each_exit(net, f"1.{EXIT_NAME}") as aliases:
        for alias in aliases.values():
            await hang_up(await through(net, alias, origin.port))
    await origin.stop()
    assert origin.exits == list(net.exits)
    assert {Asked(f"1.{EXIT_NAME}", "A", name) for name in net.exits} <= set(net.names.asked)


async def test_each_exit_resolves_the_name_to_its_own_address(
    country_network: PrivateNetwork,
) -> None:
    net = country_network
    async with by_each_exit(net, EXIT_NAME) as aliases:
        for name, alias in aliases.items():
            answer = await (await through(net, alias, 0, Command.RESOLVE)).outcome
            assert answer.reply.address.host == net.exits[name].address, name


async def test_tor_knows_the_country_and_address_of_each_exit(
    country_network: PrivateNetwork,
) -> None:
    net = country_network
    assert [exit.country for exit in net.exits.values()] == ["aa"] * 3 + ["bb"] * 3
    control = await net.client.node.control()
    assert await control.get_info("ip-to-country/ipv4-available") == "1"
    for exit in net.exits.values():
        assert await control.get_info(f"ip-to-country/{exit.address}") == exit.country
        status = await control.get_info(f"ns/id/{exit.fingerprint}")
        assert f" {exit.address} " in status.splitlines()[0]
        assert status.split()[1] == exit.name
    assert await control.get_info("ip-to-country/127.0.0.1") == "??"


@pytest.mark.parametrize(
    ("server", "refusing"), [("banner", {"exit0", "exit1", "exit3", "exit4"}), ("echo", set())]
)
async def test_a_port_that_an_exit_refuses_is_refused_at_once(
    country_network: PrivateNetwork, server: str, refusing: set[str]
) -> None:
    net, refused = country_network, set()
    port = net.facts()["origins"][server]
    async with by_each_exit(net, EXIT_NAME) as aliases:
        for name, alias in aliases.items():
            try:
                await hang_up(await through(net, alias, port))
            except GeneralFailure:
                refused.add(name)
    assert refused == refusing


async def test_an_address_that_an_exit_refuses_is_known_to_that_exit_only(
    country_network: PrivateNetwork,
) -> None:
    net = country_network
    port: Any = reactor.listenTCP(0, Factory.forProtocol(EchoProtocol), interface="127.0.0.2")
    watch = await net.client.watch_streams()
    async with by_each_exit(net, "refused.test") as aliases:
        for name, alias in aliases.items():
            if name != "exit1":
                await hang_up(await through(net, alias, port.getHost().port))
        asking = Deferred.fromCoroutine(through(net, aliases["exit1"], port.getHost().port))
        await watch.wait_for("DETACHED", f"{aliases['exit1']}:{port.getHost().port}")
        asking.cancel()
        with pytest.raises(CancelledError):
            await asking
    await watch.close()
    await port.stopListening()


async def test_a_killed_exit_comes_back_as_the_same_exit(country_network: PrivateNetwork) -> None:
    net, node = country_network, country_network.daemons["exit3"]
    async with by_each_exit(net, EXIT_NAME) as aliases:
        asker = await through(net, aliases["exit3"], net.web.port)
        paths = [each.path for each in await net.client.stream_circuits()]
        await hang_up(asker)
        relay = net.daemons[next(path for path in paths if path[-1:] == ("exit3",))[1]]
        relay.suspend()  # it hears late that the exit is gone
        node.kill()
        await node.when_exited()
        await net.restart("exit3")
        watch = await net.client.watch_streams()
        asking = Deferred.fromCoroutine(through(net, aliases["exit3"], net.web.port))
        await watch.wait_for("SENTCONNECT", f"{aliases['exit3']}:{net.web.port}")
        relay.resume()
        await hang_up(await asking)
    await watch.close()
    assert net.web.exits[-1] == "exit3"
