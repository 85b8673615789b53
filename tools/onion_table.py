"""Measures what clients hear of onion services that fail: from tor, and from torsocks_tx.

``make onion-table``. On a private Tor network, every failure there is, asked for at the same time
of three servers, each with a tor of its own: tor's SocksPort, tor's SocksPort with ExtendedErrors,
and torsocks_tx. Prints the table, and writes it to docs/onion-table.md. With ``--record``, what the
control port of the third said goes to the recordings that the unit tests play.
"""

from __future__ import annotations

import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from twisted.internet.defer import Deferred, gatherResults  # noqa: E402
from twisted.internet.endpoints import clientFromString  # noqa: E402
from twisted.internet.task import react  # noqa: E402

from tests.network.asking import ask, hang_up, request  # noqa: E402
from tests.onion.recording import Recorder, Recording  # noqa: E402
from tests.onion.scenarios import (  # noqa: E402
    QUICK,
    SLOW,
    Scenario,
    Stage,
    Target,
    introduction_relay_stopped,
    some_directories,
    up,
)
from torsocks_tx import SOCKSFactory, TorBackend  # noqa: E402
from torsocks_tx.backends.tor.running import RunningSupply  # noqa: E402
from torsocks_tx.errors import OnionRefused, Refused  # noqa: E402
from torsocks_tx.flags import parse_flags  # noqa: E402
from torsocks_tx.testing.client import Client  # noqa: E402
from torsocks_tx.testing.tornet import PrivateNetwork  # noqa: E402

DOCUMENT = ROOT / "docs" / "onion-table.md"
RECORDINGS = ROOT / "tests" / "backends" / "tor" / "onion" / "recordings"
LONGEST = 300.0
PARTIAL_TRIES = 50
STREAMS = 200
CIRCUITS = 20

Say = Callable[[str], None]


@dataclass(frozen=True)
class Heard:
    """A reply code, and after how many seconds."""

    code: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.code:02X}, {self.seconds:.2f} s"


@dataclass(frozen=True)
class Contender:
    """A server under test and the tor that it uses."""

    name: str
    server: str
    client: Client


async def listen(ask_for: Target, contender: Contender, token: str) -> Heard:
    """Connect once; a stream that opens is closed again."""
    what = request(ask_for.host, ask_for.port, user=b"<torS0X>0", password=token.encode())
    began = time.monotonic()
    code = 0
    try:
        await hang_up(await ask(contender.server, what, deadline=LONGEST))
    except Refused as reason:
        code = int(reason.onion_code if isinstance(reason, OnionRefused) else reason.code)
    return Heard(code, time.monotonic() - began)


class Measurement:
    """One run on one network."""

    def __init__(self, network: PrivateNetwork, contenders: list[Contender], say: Say) -> None:
        self._network = network
        self._contenders = contenders
        self._say = say
        self._token = 0

    @property
    def ours(self) -> Contender:
        """The server of this project."""
        return self._contenders[-1]

    def stage(self, contender: Contender) -> Stage:
        """The network as a scenario needs it."""
        return Stage(self._network, contender.client)

    def token(self) -> str:
        """An isolation token that nobody has used."""
        self._token += 1
        return f"token {self._token}"

    async def side_by_side(self, scenario: Scenario) -> list[Heard]:
        """Ask all at the same time, of one service."""
        async with scenario.provoke(self.stage(self.ours)) as target:
            await self._authorize_all(scenario, target)
            asked = [
                Deferred.fromCoroutine(listen(target, each, self.token()))
                for each in self._contenders
            ]
            return list(await gatherResults(asked))

    async def _authorize_all(self, scenario: Scenario, target: Target) -> None:
        """Keys that a scenario gave to the tor of one are for the others too."""
        if "authorization key" not in scenario.name:
            return
        address = target.host.removesuffix(".onion")
        control = await self.ours.client.node.control()
        view = await control.command(f"ONION_CLIENT_AUTH_VIEW {address}")
        for key in re.findall(r"^CLIENT \S+ (x25519:\S+)", view, re.MULTILINE):
            for other in self._contenders[:-1]:
                control = await other.client.node.control()
                await control.command(f"ONION_CLIENT_AUTH_ADD {address} {key}")

    async def one_by_one(self, scenario: Scenario) -> list[Heard]:
        """Ask one after the other, each of a service of its own."""
        heard = []
        for contender in self._contenders:
            async with scenario.provoke(self.stage(contender)) as target:
                heard.append(await listen(target, contender, self.token()))
        return heard

    async def record(self, scenario: Scenario, directory: Path) -> None:
        """Write down what tor says to us meanwhile."""
        control = await self.ours.client.node.control()
        async with scenario.provoke(self.stage(self.ours)) as target:
            recorder = Recorder(control, target.host)
            await recorder.begin()
            await listen(target, self.ours, self.token())
            await recorder.end()
            view = await control.command(f"ONION_CLIENT_AUTH_VIEW {target.host[:56]}")
        recording = Recording(scenario.plain, scenario.code, "CLIENT " in view, recorder.events)
        name = re.sub(r"\W+", "-", scenario.name).strip("-")
        (directory / f"{name}.txt").write_text(recording.dump(), encoding="ascii")

    async def partial(self) -> list[int]:
        """How often each called a working stream a failure, of ``PARTIAL_TRIES``."""
        wrong = [0] * len(self._contenders)
        for number in range(PARTIAL_TRIES):
            async with some_directories(self.stage(self.ours)) as target:
                for index, contender in enumerate(self._contenders):
                    heard = await listen(target, contender, self.token())
                    wrong[index] += heard.code != 0
            if (number + 1) % 10 == 0:
                self._say(f"  {number + 1} of {PARTIAL_TRIES}: {wrong} working streams refused")
        return wrong

    async def speed(self) -> tuple[float, float]:
        """Median seconds to a stream over tor's port and over ours, the same tor behind both."""
        direct = Contender("tor", _address(self.ours.client.socks_tcp), self.ours.client)
        return await self._compare(direct, STREAMS, lambda name, _: name)

    async def circuit_speed(self) -> tuple[float, float]:
        """The same with a new circuit for every stream."""
        direct = Contender("tor", _address(self.ours.client.socks_tcp), self.ours.client)
        return await self._compare(direct, CIRCUITS, lambda name, number: f"{name} {number}")

    async def _compare(
        self, direct: Contender, count: int, token: Callable[[str, int], str]
    ) -> tuple[float, float]:
        times: dict[str, list[float]] = {"direct": [], "ours": []}
        async with up(self.stage(self.ours)) as target:
            for contender in (direct, self.ours):
                await listen(target, contender, f"{contender.name} warm")
            for number in range(-1, count):
                for key, contender in (("direct", direct), ("ours", self.ours)):
                    heard = await listen(target, contender, token(f"{count} {key}", number))
                    if heard.code == 0 and number >= 0:
                        times[key].append(heard.seconds)
        return statistics.median(times["direct"]), statistics.median(times["ours"])


def _address(place: tuple[str, int]) -> str:
    return f"{place[0]}:{place[1]}"


def row(scenario: Scenario, heard: list[Heard]) -> str:
    """One line of the table."""
    expected = [f"{scenario.plain:02X}", f"{scenario.code:02X}", f"{scenario.code:02X}"]
    cells = [
        str(each) if f"{each.code:02X}" == right else f"**{each}**"
        for each, right in zip(heard, expected, strict=True)
    ]
    return f"| {scenario.name} | {scenario.code:02X} | {' | '.join(cells)} |"


HEAD = """# What clients hear of onion services that fail

Measured by `make onion-table` on a private Tor network on one machine, in one run; written by it,
not by hand. Each failure was asked for at the same time through three servers, each with a tor of
its own: tor's SocksPort, tor's SocksPort with `ExtendedErrors`, and torsocks_tx with
`ExtendedErrors` in front of a SocksPort without it. In **bold**: not the right code. All with
default settings, tor's too. {versions}

| what happened | right | tor | tor, `ExtendedErrors` | torsocks_tx |
|---|---|---|---|---|
"""

TAIL = """
Of {tries} working services whose descriptor only some directories had, called a failure: tor
{wrong[0]}, tor with `ExtendedErrors` {wrong[1]}, torsocks_tx {wrong[2]}.

A stream to a service that is up, over one tor, alternating, median: straight to its SocksPort
{direct:.2f} ms, through torsocks_tx {ours:.2f} ms, {ratio:.2f} times that (over a circuit in use,
{streams} streams each); with a new circuit for each {direct_new:.0f} ms and {ours_new:.0f} ms,
{ratio_new:.2f} times that ({circuits} each).
"""


def tail(wrong: list[int], speed: tuple[float, float], fresh: tuple[float, float]) -> str:
    """What stands below the table."""
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


async def measure(
    network: PrivateNetwork, contenders: list[Contender], arguments: Sequence[str]
) -> str:
    """Run everything; the text of the document."""
    run = Measurement(network, contenders, print)
    control = await run.ours.client.node.control()
    versions = f"tor {control.version}, Python {platform.python_version()}."
    text = HEAD.format(versions=versions)
    print(text.rstrip())
    for scenario in (*QUICK, *SLOW):
        alone = scenario.provoke is introduction_relay_stopped
        heard = await (run.one_by_one(scenario) if alone else run.side_by_side(scenario))
        line = row(scenario, heard)
        print(line, flush=True)
        text += line + "\n"
    if "--record" in arguments:
        RECORDINGS.mkdir(exist_ok=True)
        for scenario in (*QUICK, *SLOW):
            print(f"recording: {scenario.name}", flush=True)
            await run.record(scenario, RECORDINGS)
    end = tail(await run.partial(), await run.speed(), await run.circuit_speed())
    print(end)
    return text + end


async def main(reactor: Any, *arguments: str) -> None:
    """Bring the network up, measure, write, take it down."""
    network = PrivateNetwork(reactor, clients=3)
    await network.start(lambda words: print(f"private network: {words}", flush=True))
    plain, extended, behind = network.clients
    supply = RunningSupply(reactor, clientFromString(reactor, behind.control_endpoint))
    try:
        await supply.start()
        await supply.when_ready()
        factory = SOCKSFactory(
            TorBackend(reactor, supply), policy=parse_flags(["ExtendedErrors"])[0]
        )
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        contenders = [
            Contender("tor", _address(plain.socks_tcp), plain),
            Contender("tor with ExtendedErrors", _address(extended.socks_extended), extended),
            Contender("torsocks_tx", f"127.0.0.1:{port.getHost().port}", behind),
        ]
        text = await measure(network, contenders, arguments)
        await port.stopListening()
    finally:
        supply.stop()
        await network.stop()
    DOCUMENT.write_text(text, encoding="utf-8")
    print(f"written to {DOCUMENT.relative_to(ROOT)}")


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
