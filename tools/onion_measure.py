"""Asks for one onion service by several ways into one tor, and measures: for onion_table.py."""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from twisted.internet.defer import Deferred, gatherResults  # noqa: E402

from tests.network.asking import ask, hang_up, request  # noqa: E402
from tests.onion.recording import Recorder, Recording  # noqa: E402
from tests.onion.scenarios import Scenario, Stage, Target, some_directories, up  # noqa: E402
from torsocks_tx.backends.tor.control import ControlError  # noqa: E402
from torsocks_tx.errors import OnionRefused, Refused  # noqa: E402

LONGEST = 300.0
"""Seconds that one answer may take; tor's own slowest seen is 166."""


@dataclass(frozen=True)
class Heard:
    """A reply code, and after how many seconds."""

    code: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.code:02X}, {self.seconds:.2f} s"


@dataclass(frozen=True)
class Contender:
    """A port under test; behind all of them is one tor."""

    name: str
    server: str


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

    def __init__(self, stage: Stage, contenders: Sequence[Contender]) -> None:
        self._stage = stage
        self._contenders = contenders
        self._token = 0

    def token(self) -> str:
        """An isolation token that nobody has used."""
        self._token += 1
        return f"token {self._token}"

    async def side_by_side(self, scenario: Scenario) -> list[Heard]:
        """Ask all at the same time, of one service."""
        async with scenario.provoke(self._stage) as target:
            return await self._ask_all(target)

    async def _ask_all(self, target: Target) -> list[Heard]:
        asked = [
            Deferred.fromCoroutine(listen(target, each, self.token())) for each in self._contenders
        ]
        return list(await gatherResults(asked))

    async def record(self, scenario: Scenario, directory: Path) -> None:
        """Write down what tor says to us meanwhile."""
        while not await self._record(scenario, directory):
            pass  # the first directory that was asked had the descriptor

    async def _record(self, scenario: Scenario, directory: Path) -> bool:
        control = await self._stage.client.node.control()
        async with scenario.provoke(self._stage) as target:
            recorder = Recorder(control, target.host)
            await recorder.begin()
            await listen(target, self._contenders[-1], self.token())
            await recorder.end()
            try:
                view = await control.command(f"ONION_CLIENT_AUTH_VIEW {target.host[:56]}")
            except ControlError:  # no address at all
                view = ""
        if scenario.provoke is some_directories and not recorder.has("REASON=NOT_FOUND"):
            return False
        recording = Recording(scenario.plain, scenario.code, "CLIENT " in view, recorder.events)
        name = re.sub(r"\W+", "-", scenario.name).strip("-")
        (directory / f"{name}.txt").write_text(recording.dump(), encoding="ascii")
        return True

    async def partial(self, tries: int) -> list[int]:
        """How often each called a working stream a failure, of so many tries that count.

        Those where a directory had no descriptor before another one had it.
        """
        wrong, counted = [0] * len(self._contenders), 0
        control = await self._stage.client.node.control()
        while counted < tries:
            async with some_directories(self._stage) as target:
                recorder = Recorder(control, target.host)
                await recorder.begin()
                heard = await self._ask_all(target)
                await recorder.end()
            if recorder.has("REASON=NOT_FOUND"):
                counted += 1
                wrong = [count + (each.code != 0) for count, each in zip(wrong, heard, strict=True)]
                print(f"  {counted} of {tries}: {wrong} working streams refused", flush=True)
        return wrong

    async def compare(self, count: int, *, fresh: bool) -> tuple[float, float]:
        """Median seconds to a stream over tor's port and over ours, alternating.

        ``fresh``: each over a new circuit, else all over one.
        """
        direct, ours = self._contenders[0], self._contenders[-1]
        times: dict[str, list[float]] = {direct.name: [], ours.name: []}
        async with up(80)(self._stage) as target:
            tokens = {each.name: self.token() for each in (direct, ours)}
            for contender in (direct, ours):
                await listen(target, contender, tokens[contender.name])
            for _ in range(count):
                for contender in (direct, ours):
                    token = self.token() if fresh else tokens[contender.name]
                    heard = await listen(target, contender, token)
                    if heard.code == 0:
                        times[contender.name].append(heard.seconds)
        return statistics.median(times[direct.name]), statistics.median(times[ours.name])
