"""Chosen exits and fresh circuits on real tor: what the origin sees, and what stays in tor."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater

from tests.network.asking import Asker, Serving, ask, becomes_true, hang_up, request, serving
from tests.support.peers import until
from tests.support.running import Twistd
from torsocks_tx import TorBackend
from torsocks_tx.backends.tor.exits import session
from torsocks_tx.errors import CommandNotSupported, GeneralFailure, NotAllowed, SOCKSError
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.testing.tornet import PrivateNetwork
from torsocks_tx.testing.tornet.client import Client
from torsocks_tx.testing.tornet.node import all_of
from torsocks_tx.testing.tornet.servers import EchoProtocol

pytestmark = pytest.mark.network
PAGE = re.compile(rb"You came by (\w+), in the country (\w+)")


@pytest.fixture(autouse=True)
def short_lived_mappings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "UNUSED_SECONDS", 0.5)


@pytest_twisted.async_yield_fixture
async def server(country_network: PrivateNetwork) -> AsyncIterator[Serving]:
    async with serving(country_network.client) as server:
        yield server


@pytest.fixture(scope="module")
def other_tor(country_network: PrivateNetwork) -> Client:
    """A tor for tests that kill it, or have it delay a NEWNYM: that would come in a later test."""
    tor: Client = pytest_twisted.blockon(Deferred.fromCoroutine(country_network.add_client()))
    return tor


async def fetch(place: str, what: Any) -> tuple[str, str]:
    """Fetch the page that says by which exit and country it was fetched."""
    asker = await ask(place, what)
    asker.transport.write(b"GET / HTTP/1.0\r\n\r\n")
    await asker.lost.addTimeout(120, reactor)
    said = PAGE.search(asker.received)
    assert said is not None
    return said[1].decode(), said[2].decode()


async def mapped(tor: Client) -> str:
    return await (await tor.node.control()).get_info("address-mappings/control")


async def has_no_mapping(tor: Client) -> bool:
    return await mapped(tor) == ""


class Visitor:
    """A client that wants one country: each of its ten requests must leave by it."""

    def __init__(self, network: PrivateNetwork, place: str, number: int) -> None:
        self.network = network
        self.place = place
        self.country = ("aa", "bb")[number % 2]
        self.user = f"u{number}-country-{self.country}-session-s{number % 5}".encode()
        self.addresses = {each.address: each.country for each in network.exits.values()}

    def request(self, host: str, port: int, **fields: Any) -> Any:
        return request(host, port, user=self.user, **fields)

    async def visit(self) -> None:
        network, country = self.network, self.country
        first = await fetch(self.place, self.request("exit.test", network.web.port))
        assert first[1] == country
        by_name = self.request("0.exit.test", network.web.port, version=Version.SOCKS4)
        other_version = await fetch(self.place, by_name)
        assert other_version[1] == country
        for _ in range(4):
            page = await fetch(self.place, self.request("exit.test", network.web.port))
            assert page == first, "a session keeps its exit"
        for _ in range(2):
            what = self.request("exit.test", 0, command=Command.RESOLVE)
            answer = (await ask(self.place, what)).outcome
            assert self.addresses[(await answer).reply.address.host] == country
        by_ip = await ask(self.place, self.request("127.0.0.1", network.echo.port))
        refused_by_most = await ask(self.place, self.request("exit.test", network.banner.port))
        for asker in (by_ip, refused_by_most):
            await hang_up(asker)
        if country == "aa":
            with pytest.raises(NotAllowed):
                await ask(self.place, self.request("web.test", 25))


async def check_ip_streams(tor: Client, events: list[Any]) -> int:
    """Check that streams to an IP address ended at the exit in their target; return how many."""
    shown = await (await tor.node.control()).get_info("circuit-status")
    circuits = {line.split(" ")[0]: line for line in shown.splitlines()}
    count = 0
    for event in events:
        found = re.match(r"127\.0\.0\.1\.([0-9A-F]{40})\.exit:", event.target)
        if found and event.status == "SUCCEEDED" and str(event.circuit_id) in circuits:
            path = circuits[str(event.circuit_id)].split(" ")[2]
            assert path.split(",")[-1].startswith(f"${found[1]}"), "another exit than was asked for"
            count += 1
    return count


async def test_two_hundred_streams_of_twenty_clients_leave_by_what_each_has_chosen(
    country_network: PrivateNetwork, other_tor: Client
) -> None:
    """By two servers on one tor, with a NEWNYM every second."""
    network, tor = country_network, other_tor
    web, banner = len(network.web.exits), len(network.banner.exits)
    watch = await tor.watch_streams()
    control = await tor.node.control()
    signals: Any = LoopingCall(lambda: Deferred.fromCoroutine(control.command("SIGNAL NEWNYM")))
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(tor)) for _ in range(2)]
        places = [server.listen("ClientParameters", "FreshRate=100") for server in servers]
        visitors = [Visitor(network, places[n // 10], n) for n in range(20)]
        newnyms = signals.start(1)
        try:
            await all_of(visitor.visit() for visitor in visitors)
        finally:
            signals.stop()
            await newnyms
        await becomes_true(lambda: has_no_mapping(tor))
    assert await check_ip_streams(tor, watch.events) > 0
    await watch.close()
    assert {network.exits[name].country for name in network.web.exits[web:]} == {"aa", "bb"}
    assert sorted(set(network.banner.exits[banner:])) == ["exit2", "exit5"]
    assert len(network.web.exits) - web == 120, "of 210 streams; the others carried no page"


async def ten_more(seen: list[tuple[str, str]]) -> None:
    """Wait until ten more countries have been seen."""
    before = len(seen)
    await until(lambda: len(seen) >= before + 10, 0.05)


async def test_no_stream_leaves_elsewhere_while_tor_dies_and_comes_back(
    country_network: PrivateNetwork, other_tor: Client
) -> None:
    """Twenty clients of two countries: pages, look-ups, IP addresses, a port that most refuse."""
    network, tor = country_network, other_tor
    banner = len(network.banner.exits)
    seen: list[tuple[str, str]] = []
    is_over = False

    async def visit(visitor: Visitor) -> None:
        place, country = visitor.place, visitor.country
        while not is_over:
            try:
                _, by = await fetch(place, visitor.request("exit.test", network.web.port))
                seen.append((country, by))
                what = visitor.request("exit.test", 0, command=Command.RESOLVE)
                found = (await ask(place, what)).outcome
                seen.append((country, visitor.addresses[(await found).reply.address.host]))
                for host, origin in (("127.0.0.1", network.echo), ("exit.test", network.banner)):
                    asked = visitor.request(host, origin.port)
                    await hang_up(await ask(place, asked))
            except (SOCKSError, AssertionError):
                await deferLater(reactor, 0.05)  # tor is gone, or has cut the page

    async with serving(tor) as server:
        place = server.listen("ClientParameters", "FreshRate=1000")
        visitors = [Visitor(network, place, number) for number in range(20)]
        visiting = [Deferred.fromCoroutine(visit(each)) for each in visitors]
        await ten_more(seen)
        tor.node.kill()
        await network.restart(tor.name)
        watch = await tor.watch_streams()
        await ten_more(seen)
        is_over = True
        for each in visiting:
            await each.addTimeout(120, reactor)
        await check_ip_streams(tor, watch.events)
        await watch.close()
        await becomes_true(lambda: has_no_mapping(tor))
    assert set(seen) == {("aa", "aa"), ("bb", "bb")}
    assert set(network.banner.exits[banner:]) <= {"exit2", "exit5"}


async def circuit_of(network: PrivateNetwork, place: str, user: bytes) -> tuple[Asker, int]:
    watch = await network.client.watch_streams()
    asker = await ask(place, request("web.test", network.echo.port, user=user))
    target = f"web.test:{network.echo.port}"
    (event,) = await watch.wait_for("SUCCEEDED", target)
    await watch.close()
    return asker, event.circuit_id


async def echoes(asker: Asker) -> bool:
    before = len(asker.received)
    asker.transport.write(b"still here")
    await until(lambda: len(asker.received) > before, 0.01)
    return True


async def test_a_key_moves_to_a_fresh_circuit_and_its_open_streams_stay(
    country_network: PrivateNetwork, server: Serving
) -> None:
    place, other = server.listen("RotateEvery=1"), server.listen()
    asker, before = await circuit_of(country_network, place, b"a")
    kept, circuit = await circuit_of(country_network, other, b"a")

    async def has_moved() -> bool:
        again, after = await circuit_of(country_network, place, b"a")
        await hang_up(again)
        return after != before

    await becomes_true(has_moved)
    assert await echoes(asker)
    for epoch in (False, True):
        same, now = await circuit_of(country_network, other, b"a")
        assert (now == circuit) is not epoch
        await hang_up(same)
        server.backend.new_identity()
    assert await echoes(kept)
    for each in (asker, kept):
        await hang_up(each)


async def is_followed_right(backend: TorBackend) -> bool:
    """Whether the circuits that are followed are those of tor's own list."""
    followed = [(each.number, each.purpose) for each in await backend.circuits()]
    listed = [(each.number, each.purpose) for each in await backend.exits.session.circuits.ask()]
    return sorted(followed) == sorted(listed)


async def test_a_hundred_fresh_circuits_and_not_one_more(
    country_network: PrivateNetwork, server: Serving
) -> None:
    place = server.listen("RotateAfter=1", "FreshRate=100")
    what = request("web.test", country_network.echo.port)
    watch = await country_network.client.watch_streams()
    askers: list[Asker] = []
    assert sum(circuit.streams for circuit in await server.backend.circuits()) == 0

    async def open_one() -> None:
        askers.append(await ask(place, what))

    for count in range(5):
        await all_of(open_one() for _ in range(20))
        shown = await server.backend.circuits()
        assert sum(circuit.streams for circuit in shown) == 20 * (count + 1)
    with pytest.raises(GeneralFailure) as refused:
        await ask(place, what)
    assert refused.value.reply == 1
    target = f"web.test:{country_network.echo.port}"
    assert len(set(watch.circuits(target))) == 100
    await watch.close()
    shown = await server.backend.circuits()
    assert sum(circuit.streams for circuit in shown) == 100
    assert {circuit.streams for circuit in shown} == {0, 1}
    known = {each.fingerprint: each.country for each in country_network.exits.values()}
    for circuit in shown:
        for hop in circuit.path:
            assert hop.country == known.get(hop.fingerprint, "??")
    for asker in askers:
        await hang_up(asker)
    await becomes_true(lambda: is_followed_right(server.backend))


async def test_a_client_by_http_hears_its_exit(
    country_network: PrivateNetwork, server: Serving
) -> None:
    place = server.listen("ExitCountry=aa,bb", "ClientParameters")
    exit4 = country_network.exits["exit4"]
    for user in (b"a-country-bb", b"a-exit-" + exit4.fingerprint.lower().encode()):
        what = request("exit.test", country_network.web.port, version=Version.HTTP, user=user)
        asker = await ask(place, what)
        said = re.search(rb"\r\nTorsocks-Exit: ([0-9A-F]{40}) bb\r\n", asker.heard)
        assert said is not None
        by_key = {each.fingerprint: each.country for each in country_network.exits.values()}
        assert by_key[said[1].decode()] == "bb"
        await hang_up(asker)
    assert said[1].decode() == exit4.fingerprint


async def test_names_keep_their_exit_where_tor_makes_up_addresses_for_look_ups(
    country_network: PrivateNetwork, server: Serving
) -> None:
    """AutomapHostsOnResolve stands in the torrc of every transparent proxy."""
    network = country_network
    control = await network.client.node.control()
    place = server.listen("ClientParameters")
    await control.command("SETCONF AutomapHostsOnResolve=1")
    try:
        for country in ("aa", "bb"):
            user = f"a-country-{country}".encode()
            page = await fetch(place, request("exit.test", network.web.port, user=user))
            assert page[1] == country
            with pytest.raises(CommandNotSupported):
                await ask(place, request("exit.test", 0, user=user, command=Command.RESOLVE))
        asker = await ask(place, request("exit.test", 0, command=Command.RESOLVE))
        answer = await asker.outcome
        assert answer.reply.address.host in {each.address for each in network.exits.values()}
    finally:
        await control.command("RESETCONF AutomapHostsOnResolve")


async def test_a_dead_exit_is_left_for_another_of_the_choice(
    country_network: PrivateNetwork, server: Serving
) -> None:
    network = country_network
    dead, other = network.exits["exit3"], network.exits["exit4"]
    place = server.listen(f"ExitNode={dead.fingerprint},{other.fingerprint}")
    relays = await network.client.node.wait_for_relays(4 + len(network.exits))
    rest = ",".join(key for name, key in relays.items() if name not in network.exits)
    control = await network.client.node.control()
    # It is dead as an exit only: of so few relays, it would be in most of the other paths.
    await control.command(f"SETCONF EntryNodes={rest} MiddleNodes={rest}")
    network.daemons["exit3"].suspend()
    try:
        users = [
            request("exit.test", network.web.port, user=b"u%d" % number) for number in range(3)
        ]
        pages = [Deferred.fromCoroutine(fetch(place, what)) for what in users]
        assert await gatherResults(pages) == [("exit4", "bb")] * 3
    finally:
        network.daemons["exit3"].resume()
        await control.command("RESETCONF EntryNodes MiddleNodes")


async def test_an_exit_that_refuses_what_its_policy_allows_is_left_for_another(
    country_network: PrivateNetwork, server: Serving
) -> None:
    network = country_network
    port: Any = reactor.listenTCP(0, Factory.forProtocol(EchoProtocol), interface="127.0.0.2")
    place = server.listen("ClientParameters")
    one, two = (network.exits[name].fingerprint for name in ("exit1", "exit2"))

    async def ask_by(user: str) -> None:
        what = request("refused.test", port.getHost().port, user=user.encode())
        await hang_up(await ask(place, what))

    with pytest.raises(NotAllowed):
        await ask_by(f"a-exit-{one}")
    for name in "abc":
        await ask_by(f"{name}-exit-{one},{two}")
    await port.stopListening()


async def test_a_server_that_stops_leaves_no_mapping_in_a_tor_that_runs(
    country_network: PrivateNetwork, tmp_path: Path
) -> None:
    network, tor = country_network, country_network.client
    listener = "tcp:0:interface=127.0.0.1 ClientParameters"
    twistd = Twistd("--listen", listener, "--tor", tor.control_endpoint, directory=tmp_path)
    try:
        await twistd.up()
        await twistd.said("tor is ready")
        (place,) = twistd.addresses
        what = request("exit.test", network.web.port, user=b"u-country-bb")
        assert (await fetch(place, what))[1] == "bb"
        assert "exit.test" in await mapped(tor)
        watch, echo = await tor.watch_streams(), request("web.test", network.echo.port)
        await hang_up(await ask(place, echo))
        os.kill(twistd.pid, signal.SIGUSR2)
        await twistd.said("SIGUSR2: every new stream gets a fresh circuit")
        await hang_up(await ask(place, echo))
        events = await watch.wait_for("SUCCEEDED", f"web.test:{network.echo.port}", 2)
        assert len({event.circuit_id for event in events}) == 2
        await watch.close()
    finally:
        assert await twistd.stop() == -15
    assert await mapped(tor) == ""
    assert "Traceback" not in twistd.output
    assert "exit.test" not in twistd.output
