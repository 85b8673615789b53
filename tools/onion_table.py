"""Measures the reply codes for failing onion services: ``make onion-table``.

On a private Tor network each failure is requested at the same time over three ports: the SocksPort
of tor, its SocksPort with ExtendedErrors, and torsocks_tx. The table is printed, and written to
docs/onion-table.md. ``--record`` saves the control port events for the unit tests.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from onion_measure import Contender, Heard, Measurement  # noqa: E402
from twisted.internet.defer import Deferred  # noqa: E402
from twisted.internet.endpoints import clientFromString  # noqa: E402
from twisted.internet.task import react  # noqa: E402

from tests.onion.scenarios import QUICK, SLOW, Scenario, Stage  # noqa: E402
from torsocks_tx import SOCKSFactory, TorBackend  # noqa: E402
from torsocks_tx.backends.tor.providers import RunningTorProvider  # noqa: E402
from torsocks_tx.policy.listener import parse_flags  # noqa: E402
from torsocks_tx.testing.tornet import PrivateNetwork  # noqa: E402

DOCUMENT = ROOT / "docs" / "onion-table.md"
RECORDINGS = ROOT / "tests" / "backends" / "tor" / "onion" / "recordings"
PARTIAL_TRIES = 50
STREAMS = 200
CIRCUITS = 20


def _address(place: tuple[str, int]) -> str:
    return f"{place[0]}:{place[1]}"


def row(scenario: Scenario, heard: list[Heard]) -> str:
    """Return one line of the table."""
    expected = [f"{scenario.plain:02X}", f"{scenario.code:02X}", f"{scenario.code:02X}"]
    cells = [
        str(each) if f"{each.code:02X}" == right else f"**{each}**"
        for each, right in zip(heard, expected, strict=True)
    ]
    return f"| {scenario.name} | {scenario.code:02X} | {' | '.join(cells)} |"


HEAD = """# What clients hear of onion services that fail

Measured by `make onion-table` on a private Tor network on one machine, in one run; written by it,
not by hand. Each failure was asked for at the same time by three ways into one tor: its SocksPort,
its SocksPort with `ExtendedErrors`, and torsocks_tx with `ExtendedErrors` in front of a SocksPort
without it. In **bold**: not the right code. Timeouts are the defaults of each. {versions}

| what happened | right | tor | tor, `ExtendedErrors` | torsocks_tx |
|---|---|---|---|---|
"""

TAIL = """
Of {tries} working services whose descriptor only some directories had, called a failure: tor
{wrong[0]}, tor with `ExtendedErrors` {wrong[1]}, torsocks_tx {wrong[2]}.

A stream to a service that is up, alternating, median: straight to its SocksPort
{direct:.2f} ms, through torsocks_tx {ours:.2f} ms, {ratio:.2f} times that (over a circuit in use,
{streams} streams each); with a new circuit for each {direct_new:.0f} ms and {ours_new:.0f} ms,
{ratio_new:.2f} times that ({circuits} each).
"""


def tail(wrong: list[int], speed: tuple[float, float], fresh: tuple[float, float]) -> str:
    """Return the text below the table."""
    return TAIL.format(
        tries=PARTIAL_TRIES,
        wrong=wrong,
        streams=STREAMS,
        circuits=CIRCUITS,
        direct=speed[0] * 1000,
        ours=speed[1] * 1000,
        ratio=speed[1] / speed[0],
        direct_new=fresh[0] * 1000,
        ours_new=fresh[1] * 1000,
        ratio_new=fresh[1] / fresh[0],
    )


async def measure(stage: Stage, contenders: Sequence[Contender], arguments: Sequence[str]) -> str:
    """Measure everything; return the text of the document."""
    run = Measurement(stage, contenders)
    control = await stage.client.node.control()
    versions = f"tor {control.version}, Python {platform.python_version()}."
    text = HEAD.format(versions=versions)
    print(text.rstrip(), flush=True)
    for scenario in (*QUICK, *SLOW):
        line = row(scenario, await run.side_by_side(scenario))
        print(line, flush=True)
        text += line + "\n"
    if "--record" in arguments:
        RECORDINGS.mkdir(exist_ok=True)
        for scenario in (*QUICK, *SLOW):
            print(f"recording: {scenario.name}", flush=True)
            await run.record(scenario, RECORDINGS)
    wrong = await run.partial(PARTIAL_TRIES)
    speed = await run.compare(STREAMS, fresh=False)
    end = tail(wrong, speed, await run.compare(CIRCUITS, fresh=True))
    print(end)
    return text + end


async def main(reactor: Any, *arguments: str) -> None:
    """Start the network, measure, write the document, and stop the network."""
    network = PrivateNetwork(reactor)
    await network.start(lambda words: print(f"private network: {words}", flush=True))
    tor = network.client
    provider = RunningTorProvider(reactor, clientFromString(reactor, tor.control_endpoint))
    try:
        await provider.start()
        await provider.when_ready()
        policy, _ = parse_flags(["ExtendedErrors"])
        factory = SOCKSFactory(TorBackend(reactor, provider), policy=policy)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        contenders = [
            Contender("tor", _address(tor.socks_tcp)),
            Contender("tor, ExtendedErrors", _address(tor.socks_extended)),
            Contender("torsocks_tx", f"127.0.0.1:{port.getHost().port}"),
        ]
        text = await measure(Stage(network, tor), contenders, arguments)
        await port.stopListening()
    finally:
        provider.stop()
        await network.stop()
    DOCUMENT.write_text(text, encoding="utf-8")
    print(f"written to {DOCUMENT.relative_to(ROOT)}")


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
