"""A pool of real tors, one of which is killed and comes back."""

from __future__ import annotations

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString

from tests.network.asking import Asker, ask, hang_up, request, serving
from tests.support.peers import until
from torsocks_tx import ProviderState, RunningTorProvider, TorBackend, TorPool
from torsocks_tx.testing.tornet import Client, PrivateNetwork, StreamWatch

pytestmark = pytest.mark.network

USERS = [b"user %d" % number for number in range(12)]


class Streams:
    """Streams of all users through a pool, as its tors see them."""

    def __init__(self, server: str, port: int) -> None:
        self.open: list[Asker] = []
        self.watches: dict[Client, StreamWatch] = {}
        self._server = server
        self._port = port

    async def begin(self) -> dict[Client, set[str | None]]:
        """Open one for each user; return the isolation tokens that each tor has then seen."""
        before = {client: len(watch.events) for client, watch in self.watches.items()}
        for user in USERS:
            self.open.append(await ask(self._server, request("web.test", self._port, user=user)))
        found = {}
        for client, watch in self.watches.items():
            await client.stream_circuits()  # its answer comes behind the events
            # Tor has streams of its own too, for its directory.
            found[client] = {
                event.socks_password
                for event in watch.events[before[client] :]
                if event.status == "NEW" and event.requested == f"web.test:{self._port}"
            }
        return found

    async def watch(self, client: Client) -> None:
        """Have this tor tell of its streams."""
        self.watches[client] = await client.watch_streams()


async def test_only_keys_of_a_tor_that_was_killed_move_and_they_return(
    private_network: PrivateNetwork,
) -> None:
    network = private_network
    clients = [network.client, await network.add_client(), await network.add_client()]
    async with serving(network.client) as server:
        tors = {network.client.name: server.backend}
        for client in clients[1:]:
            control = clientFromString(reactor, client.control_endpoint)
            provider = RunningTorProvider(reactor, control, delays=lambda _: 0.5)
            tors[client.name] = TorBackend(reactor, provider)
            await provider.start()
            await provider.when_ready()
        server.backend = TorPool(reactor, tors)  # type: ignore[assignment]
        streams = Streams(server.listen(), network.echo.port)
        for client in clients:
            await streams.watch(client)
        before = await streams.begin()
        everything = set().union(*before.values())
        assert len(everything) == len(USERS) == sum(map(len, before.values()))
        # Whichever has keys; the one that other tests use is left alone.
        victim = max(clients[1:], key=lambda client: len(before[client]))
        tor = tors[victim.name].provider
        opened = streams.open[:]

        victim.node.kill()
        await until(lambda: tor.state is ProviderState.DOWN, 0.05)
        del streams.watches[victim]
        moved = await streams.begin()
        assert set().union(*moved.values()) == everything
        for client, tokens in moved.items():
            assert tokens >= before[client], "a key moved whose tor was there"
        for stream in opened:
            if not stream.lost.called:
                stream.transport.write(b"still here")

        await network.restart(victim.name)
        await until(lambda: tor.state is ProviderState.READY, 0.05)
        await streams.watch(victim)
        assert await streams.begin() == before
        assert sum(stream.lost.called for stream in opened) == len(before[victim])
        alive = [stream for stream in opened if not stream.lost.called]
        for stream in alive:
            assert bytes(stream.received) == b"still here"
        for stream in [*alive, *streams.open[len(opened) :]]:
            await hang_up(stream)
        for client in clients[1:]:
            await tors[client.name].stop()
