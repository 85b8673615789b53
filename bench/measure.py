"""The method of the measurements.

Servers take turns, so that all see the same machine, and ratios are taken within a turn.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from bench.processes import Load, Server
from bench.servers import BEFORE, SERVERS, earlier

GB = 10**9


class Plan(NamedTuple):
    """The size of each scenario."""

    rounds: int
    bulk: int
    small: int
    connections: int
    idle: int
    held: int
    exchanges: int
    through_tor: int
    race: float


FULL = Plan(7, 2 * GB, GB // 4, 3000, 5000, 9000, 15, 20 * 10**6, 2.0)
QUICK = Plan(3, GB // 2, GB // 20, 1500, 1000, 1500, 8, 4 * 10**6, 1.5)


class Row(NamedTuple):
    """One bar: the measured value, and the bound it must meet."""

    what: str
    value: float
    bar: str
    holds: bool


class Bench:
    """Runs scenarios; ``samples[scenario][measure][server]`` lists every value.

    ``before`` is the commit that is measured beside the working tree.
    """

    def __init__(self, plan: Plan, before: str = "") -> None:
        self.plan = plan
        self.before = before
        self.samples: dict[str, dict[str, dict[str, list[float]]]] = {}
        self.rows: list[Row] = []
        self.missing: dict[str, str] = {}
        self.kept: list[str] = []
        self.load = Load()
        self._stack = contextlib.ExitStack()
        self._stack.callback(self.load.stop)

    def close(self) -> None:
        """End the load generator."""
        self._stack.close()

    @contextlib.contextmanager
    def running(self, names: Sequence[str]) -> Any:
        """Run the servers of these names that are installed."""
        with contextlib.ExitStack() as stack:
            servers = {}
            for name in names:
                try:
                    start = partial(earlier, self.before) if name == BEFORE else SERVERS[name]
                    servers[name] = stack.enter_context(start())
                except (OSError, RuntimeError) as error:
                    self.missing[name] = str(error).partition("\n")[0]
            yield servers

    def do(self, server: Server, job: str, **arguments: Any) -> dict[str, float]:
        """Do one job through a server."""
        return self.load.do(server, job, **arguments)

    def turns(
        self, scenario: str, servers: dict[str, Server], job: str, digest: Any, **arguments: Any
    ) -> None:
        """Give each server the job in turns; ``digest`` turns an answer into measures."""
        for _ in range(self.plan.rounds):
            for name, server in servers.items():
                answer = self.do(server, job, **arguments)
                for measure, value in digest(answer).items():
                    self.add(scenario, measure, name, value)

    def keep(self, samples: dict[str, Any], rows: Sequence[Row]) -> None:
        """Start from earlier results; a scenario that runs again replaces its own."""
        self.samples, self.rows, self.kept = samples, list(rows), list(samples)

    def add(self, scenario: str, measure: str, server: str, value: float) -> None:
        """Record one value."""
        if scenario in self.kept:
            self.kept.remove(scenario)
            self.samples[scenario] = {}
        measures = self.samples.setdefault(scenario, {})
        measures.setdefault(measure, {}).setdefault(server, []).append(value)
        print(f"   {server:<24} {measure:<28} {value:.3f}", file=sys.stderr, flush=True)

    def share(self, scenario: str, measure: str, one: str, other: str) -> float | None:
        """The median of the ratios within each round; None if one of them is missing."""
        values = self.samples[scenario][measure]
        if one not in values or other not in values:
            return None
        pairs = zip(values[one], values[other], strict=True)
        return statistics.median(first / second for first, second in pairs)

    def bar(self, what: str, value: float | None, least: float, *, most: bool = False) -> None:
        """Record a bar; ``most``: the value must not be greater."""
        if value is not None:
            holds = value <= least if most else value >= least
            row = Row(what, value, f"{'<=' if most else '>='} {least:g}", holds)
            known = [old.what for old in self.rows]
            if what in known:
                self.rows[known.index(what)] = row
            else:
                self.rows.append(row)


def carried(answer: dict[str, float]) -> dict[str, float]:
    """Return the measures of a job that carries bytes."""
    return {
        "MB/s": answer["bytes"] / 1e6 / answer["seconds"],
        "CPU s/GB": answer["server_cpu"] / answer["bytes"] * GB,
        "sink busy": answer["cpu"] / answer["seconds"],
        "source busy": answer["origin_cpu"] / answer["seconds"],
    }


def opened(answer: dict[str, float]) -> dict[str, float]:
    """Return the measures of a job that opens connections."""
    return {
        "connections/s": answer["done"] / answer["seconds"],
        "CPU s per 1,000 connections": answer["server_cpu"] / answer["done"] * 1000,
        "client busy": answer["cpu"] / answer["seconds"],
        "origin busy": answer["origin_cpu"] / answer["seconds"],
        "failed": answer["failed"],
    }
