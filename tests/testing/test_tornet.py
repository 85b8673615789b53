"""The private Tor network, used as its documentation says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.utils import getProcessOutputAndValue

from tests.support.clients import IPV6, client
from tests.support.processes import DEADLINE, is_alive, start_program
from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.daemon import DaemonState, TorNotFound
from torsocks_tx.testing.tornet import client as client_module
from torsocks_tx.testing.tornet.network import PrivateNetwork
from torsocks_tx.testing.tornet.node import NetworkError
from torsocks_tx.testing.tornet.servers import CHECK_NAME, Asked

pytestmark = [pytest.mark.network, pytest.mark.clients("curl", "tor-resolve")]

CANNOT_CONNECT = 7
PROXY_FAILED = 97
TIMED_OUT = 28


async def run(program: str, *arguments: str) -> tuple[int, str]:
    """Run an unmodified client; return its exit status and output."""
    out, _, status = await getProcessOutputAndValue(client(program), arguments, env=None)
    return status, out.decode()


async def curl(network: PrivateNetwork, url: str, *options: str) -> tuple[int, str]:
    host, port = network.client.socks_tcp
    return await run("curl", "-qsS", "-m", "110", *options, "-x", f"socks5h://{host}:{port}", url)


async def resolve(network: PrivateNetwork, *arguments: str) -> tuple[int, str]:
    host, port = network.client.socks_tcp
    status, out = await run("tor-resolve", *arguments, f"{host}:{port}")
    return status, out.strip()


@pytest.mark.parametrize(
    ("host", "family"),
    [
        ("web.test", "IPv4"),
        pytest.param("web6.test", "IPv6", marks=pytest.mark.clients(IPV6)),
        ("both.test", "IPv4"),
        ("203.0.113.9", "IPv4"),
        pytest.param("[2001:db8::9]", "IPv6", marks=pytest.mark.clients(IPV6)),
        ("127.0.0.1", "IPv4"),
        pytest.param("[::1]", "IPv6", marks=pytest.mark.clients(IPV6)),
    ],
)
async def test_web_server_is_reached_by_name_and_by_address(
    private_network: PrivateNetwork, host: str, family: str
) -> None:
    before = len(private_network.web.peers)
    status, page = await curl(private_network, f"http://{host}:{private_network.web.port}/")
    assert status == 0
    assert f"This is the {family} origin" in page
    assert len(private_network.web.peers) > before


async def test_every_socks_port_of_a_client_works(private_network: PrivateNetwork) -> None:
    client = private_network.client
    url = f"http://web.test:{private_network.web.port}/bytes/3"
    for proxy in (
        f"socks5h://localhost{client.socks_unix}",
        "socks5h://{}:{}".format(*client.socks_tcp),
        "socks5h://{}:{}".format(*client.socks_extended),
        "socks4a://{}:{}".format(*client.socks_tcp),
    ):
        assert await run("curl", "-qsS", "-m", "110", "-x", proxy, url) == (0, "xxx"), proxy
    control = await client.node.control()
    flags = await control.command("GETCONF SocksPort")
    assert [line.endswith("ExtendedErrors") for line in flags.splitlines()] == [False, False, True]


async def test_client_is_ready_when_it_has_reached_each_exit(
    private_network: PrivateNetwork, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, checks = private_network.clients[-1], private_network._check.peers
    assert client.name == other
    exits = len(private_network.exits)
    assert len(checks) > exits, "each of the first client's, and one of this one's"
    control = await client.node.control()
    assert await control.get_info("address-mappings/control") == ""
    assert CHECK_NAME not in {asked.name for asked in private_network.names.asked}
    stopped = {"exit2": private_network.exits["exit2"].fingerprint}
    monkeypatch.setattr(client_module, "REACH_DEADLINE", 2.0)
    private_network.daemons["exit2"].suspend()
    try:
        with pytest.raises(NetworkError, match=f"{other} does not reach every exit"):
            await client.reach_exits(stopped, CHECK_NAME, private_network._check.port)
    finally:
        private_network.daemons["exit2"].resume()
    monkeypatch.undo()
    before = len(checks)
    await client.reach_exits(stopped, CHECK_NAME, private_network._check.port)
    assert len(checks) > before


@pytest.mark.parametrize(
    ("arguments", "answer", "asked"),
    [
        (["web.test"], "127.0.0.1", Asked("web.test", "A")),
        (["web6.test"], "::1", Asked("web6.test", "AAAA")),
        (["doc.test"], "203.0.113.9", Asked("doc.test", "A")),
        (["doc6.test"], "2001:db8::9", Asked("doc6.test", "AAAA")),
        (["-x", "203.0.113.9"], "doc.test", Asked("9.113.0.203.in-addr.arpa", "PTR")),
        (["no.test"], None, Asked("no.test", "A")),
    ],
)
async def test_names_are_looked_up_by_the_exits(
    private_network: PrivateNetwork, arguments: list[str], answer: str | None, asked: Asked
) -> None:
    assert await resolve(private_network, *arguments) == (answer is None, answer or "")
    assert asked in private_network.names.asked, "now or, while the exits remember it, before"


async def test_the_exits_reach_nothing_but_loopback(private_network: PrivateNetwork) -> None:
    before = len(private_network.web.peers)
    status, _ = await curl(private_network, f"http://doc.test:{private_network.web.port}/")
    assert status == PROXY_FAILED
    assert Asked("doc.test", "A") in private_network.names.asked
    assert len(private_network.web.peers) == before


async def test_onion_service_is_reached_until_it_is_removed(
    private_network: PrivateNetwork,
) -> None:
    service = await private_network.add_onion_service(private_network.web.port, 8080)
    assert len(service.address) == 62
    status, page = await curl(private_network, f"http://{service.address}:8080/")
    assert status == 0
    assert "This is the IPv4 origin" in page
    await service.remove()
    with pytest.raises(ControlError):
        await service.remove()


async def test_streams_are_listed_with_their_circuits(private_network: PrivateNetwork) -> None:
    tor = private_network.client
    watch = await tor.watch_streams()
    target = f"web.test:{private_network.web.port}"
    host, port = tor.socks_tcp
    proxy = ["-x", f"socks5h://{host}:{port}", f"http://{target}/bytes/{2**30}"]
    curls = [
        start_program(
            [client("curl"), "-qsS", "--limit-rate", "20k", "-o", "/dev/null", "-U", user, *proxy]
        )
        for user in ("alice:one", "alice:two")
    ]
    succeeded = await watch.wait_for("SUCCEEDED", target, count=2)
    live = {
        stream.stream_id: stream
        for stream in await tor.stream_circuits()
        if stream.status == "SUCCEEDED"
    }
    for program in curls:
        program.transport.signalProcess("KILL")
        await program.end()
    await watch.wait_for("CLOSED", target, count=2)
    await watch.close()
    first, second = succeeded
    assert {first.socks_password, second.socks_password} == {"one", "two"}
    assert first.circuit_id != second.circuit_id
    assert watch.circuits(target) == [first.circuit_id, second.circuit_id]
    for event in succeeded:
        stream = live[event.stream_id]
        assert stream.circuit_id == event.circuit_id
        assert stream.target.endswith(f":{private_network.web.port}")
        assert stream.purpose == "GENERAL"
        assert len(stream.path) == 3
        assert set(stream.path) <= set(private_network.daemons)
        assert stream.path[-1].startswith("exit")
    # Those of other tests may not have ended yet.
    left = {stream.stream_id for stream in await tor.stream_circuits()}
    assert left.isdisjoint(stream.stream_id for stream in succeeded)


async def test_a_client_that_is_up_knows_each_relay(private_network: PrivateNetwork) -> None:
    control = await private_network.client.node.control()
    relays = await control.get_info("ns/all")
    described = await control.get_info("md/all")
    names = [line.split()[1] for line in relays.splitlines() if line.startswith("r ")]
    assert len(names) >= 8
    assert described.count("ntor-onion-key ") == len(names)


async def test_a_suspended_client_is_silent_and_comes_back(private_network: PrivateNetwork) -> None:
    url = f"http://web.test:{private_network.web.port}/bytes/3"
    node = private_network.daemons["client0"]
    node.suspend()
    try:
        assert node.state is DaemonState.SUSPENDED
        status, _ = await curl(private_network, url, "-m", "0.5")
        assert status == TIMED_OUT
    finally:
        node.resume()
    assert await curl(private_network, url) == (0, "xxx")


@pytest_twisted.async_yield_fixture
async def other(private_network: PrivateNetwork) -> AsyncIterator[str]:
    """The name of one more client, for tests that kill or suspend it."""
    client = await private_network.add_client(["ClientRejectInternalAddresses 1"])
    yield client.name
    await client.node.stop()
    private_network.clients.remove(client)
    del private_network.daemons[client.name]


async def test_a_killed_client_is_restarted_on_the_same_ports(
    private_network: PrivateNetwork, other: str
) -> None:
    client = private_network.clients[-1]
    assert client.name == other
    control = await client.node.control()
    assert await control.command("GETCONF ClientRejectInternalAddresses") == (
        "ClientRejectInternalAddresses=1"
    )
    assert await client.node.control() is control
    first = client.node.pid
    lost = control.when_lost()
    client.node.kill()
    assert await client.node.when_exited() == "SIGKILL"
    await lost
    proxy = "socks5h://{}:{}".format(*client.socks_tcp)
    url = f"http://web.test:{private_network.web.port}/bytes/3"
    assert (await run("curl", "-qsS", "-x", proxy, url))[0] == CANNOT_CONNECT
    await private_network.restart(other)
    assert client.node.pid != first
    assert await client.node.control() is not control
    assert await run("curl", "-qsS", "-m", "110", "-x", proxy, url) == (0, "xxx")


async def test_a_client_that_cannot_start_says_why(private_network: PrivateNetwork) -> None:
    names = list(private_network.daemons)
    count = len(private_network.clients)
    complaint = rf"client{count} ended while it started: .*Nonsense"
    with pytest.raises(NetworkError, match=complaint):
        await private_network.add_client(["Nonsense 1"])
    assert list(private_network.daemons) == names
    assert len(private_network.clients) == count


@pytest.mark.parametrize("countries", [{}, {"aa": 1, "bb": 1}])
async def test_cancelled_start_leaves_no_process_no_file_and_no_port(
    tmp_path: Path, countries: dict[str, int]
) -> None:
    readers = set(reactor.getReaders())
    network = PrivateNetwork(reactor, tmp_path / "net", countries=countries)
    up: Deferred[None] = Deferred()
    seen: list[str] = []

    def progress(text: str) -> None:
        seen.append(text)
        if text == "authorities and exits up":
            reactor.callLater(0, up.callback, None)  # not from within what is to be cancelled

    starting = Deferred.fromCoroutine(network.start(progress))
    await up.addTimeout(DEADLINE, reactor)
    network.add_origin(Factory.forProtocol(Protocol))
    pids = [node.pid for node in network.daemons.values()]
    assert len(pids) == 4 + len(network.exits)
    assert all(map(is_alive, pids))
    assert (tmp_path / "net").stat().st_mode & 0o777 == 0o700
    starting.cancel()
    with pytest.raises(CancelledError):
        await starting
    assert not any(map(is_alive, pids))
    assert not (tmp_path / "net").exists()
    assert set(reactor.getReaders()) <= readers
    assert seen[0] == "keys of the authorities made"
    await network.stop()


async def test_a_directory_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(NetworkError, match=r"File exists.*give a new path"):
        await PrivateNetwork(reactor, tmp_path).start()
    assert (tmp_path / "precious").read_text() == "x"


async def test_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="too long for sockets"):
        await PrivateNetwork(reactor, tmp_path / ("x" * 60)).start()
    assert not list(tmp_path.iterdir())


def test_a_long_tmpdir_is_left_for_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/var/" + "x" * 60)
    assert PrivateNetwork(reactor).directory.parent == Path("/tmp")


async def test_missing_tor_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torsocks_tx.backends.tor.daemon._search_path", lambda: str(tmp_path))
    network = PrivateNetwork(reactor, tmp_path / "net")
    with pytest.raises(TorNotFound, match="tor is not installed"):
        await network.start()
    assert not (tmp_path / "net").exists()
