"""The scenarios, and the bars of their results."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from operator import truediv

from bench.measure import GB, Bench, carried, opened
from bench.processes import HOST, Helper, Load, Server, cpu_of
from bench.servers import BEFORE, haproxy, torsocks_tx, twistd
from bench.socks import HTTP

OURS, WORKERS, NOTHING = "torsocks_tx", "torsocks_tx, 2 workers", "no proxy"
BY_SOCKS4, BY_HTTP = "torsocks_tx, by SOCKS4", "torsocks_tx, by HTTP"
PLAIN, SOCKS4, MICROSOCKS = "plain Twisted relay", "Twisted's SOCKS4", "microsocks"
TOR, HAPROXY = "tor's SocksPort", "HAProxy"
ADDED = "added to tor"
BULK = [NOTHING, OURS, PLAIN, MICROSOCKS]

RATE, CPU, CONNECTIONS = "MB/s", "CPU s/GB", "connections/s"
CPU_SET_UP = "CPU s per 1,000 connections"
FIRST = "first byte, ms"


def bulk_one(bench: Bench) -> None:
    """Download by one stream."""
    name = "bulk, 1 stream"
    with bench.running([*BULK, BEFORE] if bench.before else BULK) as servers:
        arguments = {"count": bench.plan.bulk, "streams": 1, "chunk": 256 * 1024}
        bench.turns(name, servers, "bulk", carried, **arguments)
    share = bench.share(name, RATE, OURS, BEFORE)
    bench.bar(f"bulk, one stream: share of commit {bench.before}", share, 0.95)
    share = bench.share(name, CPU, OURS, PLAIN)
    bench.bar("CPU per GB: share of plain write+producers", share, 0.30, most=True)


def bulk_eight(bench: Bench) -> None:
    """Download by eight streams at one time."""
    name = "bulk, 8 streams"
    with bench.running([*BULK, BEFORE] if bench.before else BULK) as servers:
        arguments = {"count": bench.plan.bulk, "streams": 8, "chunk": 256 * 1024}
        bench.turns(name, servers, "bulk", carried, **arguments)
    share = bench.share(name, RATE, OURS, BEFORE)
    bench.bar(f"bulk, 8 streams: share of commit {bench.before}", share, 0.95)


def beside_bulk(bench: Bench) -> None:
    """Echo a byte over a stream beside 8 streams that download, by another load and origin."""
    name = "interactive beside 8 bulk streams"
    other = Load()
    try:
        with bench.running([NOTHING, OURS, PLAIN]) as servers:
            for _ in range(bench.plan.rounds):
                for each, server in servers.items():
                    bench.load.begin(server, "race", streams=8, seconds=bench.plan.race)
                    answer = other.do(server, "echoes", count=round(60 * bench.plan.race))
                    bench.load.answer()
                    bench.add(name, "median, ms", each, answer["p50"] * 1000)
                    bench.add(name, "9 of 10, ms", each, answer["p90"] * 1000)
    finally:
        other.stop()
    wait = statistics.median(bench.samples[name]["median, ms"][OURS])
    bench.bar("beside 8 bulk streams an interactive one waits, ms", wait, 5, most=True)


def many_streams(bench: Bench) -> None:
    """Download by 300 streams at one time."""
    name, share = "300 bulk streams", "slowest of the fastest's bytes"
    with bench.running([NOTHING, OURS, PLAIN]) as servers:
        arguments = {"streams": 300, "seconds": bench.plan.race}
        bench.turns(
            name,
            servers,
            "race",
            lambda answer: {
                share: answer["fairness"],
                RATE: answer["bytes"] / 1e6 / answer["seconds"],
            },
            **arguments,
        )
    fairness = statistics.median(bench.samples[name][share][OURS])
    bench.bar("of 300 bulk streams the slowest gets, of the fastest's bytes", fairness, 0.5)


def small_chunks(bench: Bench) -> None:
    """Download in writes of 1,200 bytes."""
    name = "1,200 byte chunks"
    with bench.running(BULK) as servers:
        arguments = {"count": bench.plan.small, "streams": 1, "chunk": 1200}
        bench.turns(name, servers, "bulk", carried, **arguments)
    share = bench.share(name, RATE, OURS, PLAIN)
    bench.bar("small chunks (1,200 B): times plain write+producers", share, 1.0)
    share = bench.share(name, CPU, OURS, PLAIN)
    bench.bar("small chunks: CPU per GB, share of plain", share, 1.0, most=True)


def set_up(bench: Bench) -> None:
    """Open and close connections, 50 at a time; then also echo one byte over each."""
    for scenario, echo in (("set-up", False), ("set-up and one byte both ways", True)):
        with bench.running([NOTHING, OURS, WORKERS, SOCKS4, MICROSOCKS]) as servers:
            # As Twisted's, which has a round trip less than SOCKS5.
            servers[BY_SOCKS4] = servers[OURS].by_version(4)
            servers[BY_HTTP] = servers[OURS].by_version(HTTP)
            arguments = {"count": bench.plan.connections, "echo": echo}
            bench.turns(scenario, servers, "rate", opened, **arguments)
        share = bench.share(scenario, CONNECTIONS, OURS, SOCKS4)
        bench.bar(f"{scenario}, one process: times Twisted's own SOCKS4 server", share, 1.0)
        share = bench.share(scenario, CONNECTIONS, BY_SOCKS4, SOCKS4)
        bench.bar(f"{scenario}, one process, by SOCKS4: times Twisted's own", share, 1.0)
        share = bench.share(scenario, CPU_SET_UP, BY_HTTP, OURS)
        bench.bar(f"{scenario}, by HTTP CONNECT: CPU, times SOCKS5's", share, 1.3, most=True)
        share = bench.share(scenario, CONNECTIONS, OURS, MICROSOCKS)
        bench.bar(f"{scenario}, one process: share of microsocks", share, 0.55)
        share = bench.share(scenario, CONNECTIONS, WORKERS, MICROSOCKS)
        bench.bar(f"{scenario}, 2 workers: share of microsocks", share, 0.8)


def memory(bench: Bench) -> None:
    """Measure the memory of idle connections, in a new process."""
    each = "KiB per idle connection"
    for name in (OURS, MICROSOCKS):
        with bench.running([name]) as servers:
            for server in servers.values():
                bench.do(server, "rate", count=100)
                before = server.rss()
                answer = bench.do(server, "hold", count=bench.plan.idle)
                used = (server.rss() - before) / 1024 / max(answer["open"], 1)
                bench.add("memory", each, name, used)
                bench.add("memory", "refused", name, answer["refused"])
                bench.do(server, "use")
    value = bench.samples["memory"][each][OURS][0]
    bench.bar("memory per idle proxied connection, KiB", value, 3, most=True)


def held_connections(bench: Bench) -> None:
    """Hold many connections, then use all of them."""
    with torsocks_tx() as server:
        held = bench.do(server, "hold", count=bench.plan.held)
        used = bench.do(server, "use")
    bench.add("held connections", "refused", OURS, held["refused"])
    bench.add("held connections", "lost", OURS, held["open"] - used["used"])
    lost = bench.plan.held - used["used"]
    what = f"{bench.plan.held} connections held, then all used: lost or refused"
    bench.bar(what, lost, 0, most=True)


def milliseconds(answer: dict[str, float]) -> dict[str, float]:
    """The measure of an exchange."""
    return {FIRST: answer["p50"] * 1000}


def through_tor(bench: Bench) -> None:
    """The private Tor network: tor's own SocksPort, and ours in front of it."""
    name = "through tor"
    with Helper("bench.tornet") as network:
        place = network.told()
        with twistd("--tor", place["control"]) as ours:
            servers = {OURS: ours, TOR: Server.at(place["socks"])}
            for server in servers.values():
                bench.do(server, "exchanges", host="web.test", count=3)
            arguments = {"host": "web.test", "count": bench.plan.exchanges}
            bench.turns(name, servers, "exchanges", milliseconds, **arguments)
            arguments = {"host": "web.test", "count": bench.plan.through_tor}
            bench.turns(name, servers, "bulk", carried, **arguments, streams=1, chunk=65536)
    times = bench.samples[name][FIRST]
    more = statistics.median(times[OURS]) - statistics.median(times[TOR])
    share = bench.share(name, FIRST, OURS, TOR) or 0.0
    if share <= 1.05:
        bench.bar("through tor: p50 time to first byte, times straight", share, 1.05, most=True)
    else:
        bench.bar("through tor: p50 time to first byte, ms more", more, 1, most=True)
    share = bench.share(name, RATE, OURS, TOR) or 0.0
    bench.bar("through tor: bulk throughput, share of straight", share, 0.97)


BEFORE_TOR, OF_TOR = "CPU s per {}: before tor", "CPU s per {}: tor's client"
THOUSAND, GIGABYTE = "1,000 connections", "GB"


def added_to_tor(bench: Bench) -> None:
    """Measure the CPU time of a server in front of tor's SocksPort, beside that of tor."""
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(Helper("bench.tornet")).told()
        servers = {TOR: Server.at(place["socks"])}
        servers[OURS] = stack.enter_context(twistd("--tor", place["control"]))
        try:
            servers[HAPROXY] = stack.enter_context(haproxy(place["socks"]))
        except FileNotFoundError as error:
            bench.missing[HAPROXY] = str(error)
        for server in servers.values():
            bench.do(server, "exchanges", host="web.test", count=3)
        for _ in range(min(bench.plan.rounds, 5)):
            for name, server in servers.items():
                cost(bench, name, server, place["pid"])
    for unit, most in ((THOUSAND, 2.2), (GIGABYTE, 0.20)):
        ours = bench.samples[ADDED][BEFORE_TOR.format(unit)][OURS]
        alone = bench.samples[ADDED][OF_TOR.format(unit)][TOR]
        share = statistics.median(map(truediv, ours, alone))
        bench.bar(f"added to tor: CPU per {unit}, share of tor's client", share, most, most=True)


def cost(bench: Bench, name: str, server: Server, tor: int) -> None:
    """Open connections, then carry bytes; record the CPU time of tor and of the server."""
    before = cpu_of(tor)
    count = bench.plan.connections // 6
    opened = bench.do(server, "rate", host="web.test", count=count, width=16)
    between = cpu_of(tor)
    carried = bench.do(
        server, "bulk", host="web.test", count=2 * bench.plan.through_tor, streams=1, chunk=65536
    )
    after = cpu_of(tor)
    thousands, gigabytes = opened["done"] / 1000, carried["bytes"] / GB
    for measure, value in (
        (CONNECTIONS, opened["done"] / opened["seconds"]),
        (BEFORE_TOR.format(THOUSAND), opened["server_cpu"] / thousands),
        (OF_TOR.format(THOUSAND), (between - before) / thousands),
        (RATE, carried["bytes"] / 1e6 / carried["seconds"]),
        (BEFORE_TOR.format(GIGABYTE), carried["server_cpu"] / gigabytes),
        (OF_TOR.format(GIGABYTE), (after - between) / gigabytes),
        ("failed", opened["failed"]),
    ):
        bench.add(ADDED, measure, name, value)


ONE_TOR, TWO_TORS, POOL = "one tor", "a pool of two tors", "a pool of that tor thrice"
BOUNDED = ("CountPrivateBandwidth 1", "BandwidthRate 1 MBytes", "BandwidthBurst 1 MBytes")
"""What bounds the rate of a tor, so that two processors are not what is measured."""


def pool_of_tors(bench: Bench) -> None:
    """What a pool costs beside the same tor alone, and what two tors with a bounded rate carry."""
    cost, carried = "pool of tors: cost", "pool of tors: rate"
    with Helper("bench.tornet", "2", *BOUNDED) as network, contextlib.ExitStack() as stack:
        told = network.told()
        bounded = [word for control in told["more"] for word in ("--tor", control)]
        directory, slash, name = told["control"].rpartition("/")
        again = [word for dots in ("/.", "/./.")
                 for word in ("--tor", f"{directory}{dots}{slash}{name}")]  # fmt: skip
        start = stack.enter_context
        servers = {
            ONE_TOR: start(twistd("--tor", told["control"])),
            POOL: start(twistd("--tor", told["control"], *again)),
        }
        for server in servers.values():
            bench.do(server, "rate", host="web.test", count=200, width=16)
        count = bench.plan.connections // 3
        for _ in range(2):
            bench.turns(cost, servers, "rate", opened, host="web.test", count=count, width=16)
        servers = {ONE_TOR: start(twistd(*bounded[:2])), TWO_TORS: start(twistd(*bounded))}
        seconds = 2 * bench.plan.race
        way = {"host": "web.test", "streams": 16, "sources": 16, "seconds": seconds}
        bench.turns(
            carried, servers, "race", lambda said: {RATE: said["bytes"] / 1e6 / seconds}, **way
        )
    share = bench.share(cost, CPU_SET_UP, POOL, ONE_TOR)
    bench.bar("a pool: CPU per connection, times one tor's", share, 1.05, most=True)
    share = bench.share(carried, RATE, TWO_TORS, ONE_TOR)
    bench.bar("two tors, each bounded to 1 MB/s: rate, times one tor's", share, 1.6)


LINK = 50
"""Milliseconds that the link adds to a round trip."""


TRIPS = "round trips over the slow link"


def optimistic(bench: Bench) -> None:
    """A slow link to tor's SocksPort: a client that waits for the reply, and one that does not."""
    waits, speaks = "slow link, client waits for the reply", "slow link, client speaks at once"
    with Helper("bench.tornet") as network:
        port = network.told()["socks"].rpartition(":")[2]
        with Helper("bench.delay", port, str(LINK / 2)) as link:
            place = f"{HOST}:{link.told()}"
            with twistd("--tor-socks", f"tcp:{place}", "--optimistic-data") as ours:
                servers = {OURS: ours, BY_HTTP: ours.by_version(HTTP), TOR: Server.at(place)}
                for server in servers.values():
                    bench.do(server, "exchanges", host="web.test", count=3)
                for _ in range(bench.plan.rounds):
                    for name, server in servers.items():
                        exchange(bench, link, waits, name, server, early=False)
                        exchange(bench, link, speaks, name, server, early=True)
    saved = {}
    for name in servers:
        first, second = (bench.samples[scenario][TRIPS][name] for scenario in (waits, speaks))
        saved[name] = statistics.median(first) - statistics.median(second)
        bench.add("optimistic data", "round trips saved", name, saved[name])
    bench.bar("round trips saved by optimistic data", saved[OURS], 1)
    bench.bar("round trips saved by optimistic data, by HTTP", saved[BY_HTTP], 1)
    more = saved[OURS] - saved[TOR]
    bench.bar("round trips saved by optimistic data: more than straight to tor", more, 0)


def exchange(
    bench: Bench, link: Helper, scenario: str, name: str, server: Server, *, early: bool
) -> None:
    """Measure exchanges, and count the round trips of each."""
    count = bench.plan.exchanges
    link.ask()
    answer = bench.do(server, "exchanges", host="web.test", count=count, optimistic=early)
    bench.add(scenario, FIRST, name, answer["p50"] * 1000)
    bench.add(scenario, TRIPS, name, link.ask() / count)


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "bulk": bulk_one,
    "bulk8": bulk_eight,
    "beside": beside_bulk,
    "many": many_streams,
    "small": small_chunks,
    "setup": set_up,
    "memory": memory,
    "held connections": held_connections,
    "tor": through_tor,
    "added": added_to_tor,
    "pool": pool_of_tors,
    "optimistic": optimistic,
}
