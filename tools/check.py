"""Runs the stages of ``make test`` and ``make check``, in two lanes side by side.

One lane keeps the processors busy while the tests of the other wait for tor. Each line says how
long all has run, and which stage speaks. When a stage fails the others still run; a table at the
end says how each went, and names the tests that failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
STAGE_DEADLINE = 1200.0
GRACE = 20.0
"""Seconds that a stage has to end when it is interrupted."""
PROGRESS_EVERY = 10.0
SCRATCH = "SCRATCH"
"""Stands in commands for a directory with a short path: tests have unix sockets in it."""

PASSED = re.compile(r"\[gw\d+\] (\[ *\d+%\]) (?:PASSED|SKIPPED) (.*)")
BEGUN = re.compile(r"tests/\S+\.py::.*")
FAILED = re.compile(r"(?!.*\[gw)(?:.* )?((?:FAILED|ERROR) tests/.*|E   +\S.*)")
FAILED_SHOWN = 30
"""How many lines about tests that failed are printed once more at the end, of each stage."""
NOT_INSTALLED = "Not installed, so their tests were skipped:"
MISSING = re.compile(rf"{NOT_INSTALLED} (.*)\.")
# A registry may need its proxy; the clients under test must not have one.
PROXIES = [f"{kind}_proxy" for kind in ("http", "https", "ftp", "all", "no")]


@dataclass(frozen=True)
class Stage:
    """One step: its commands, run one after the other until one fails."""

    name: str
    title: str
    commands: Sequence[Sequence[str]]


@dataclass
class Result:
    """How a stage went: the status of the command that failed, or 0; and its time in seconds."""

    stage: Stage
    status: int = -1
    seconds: float = 0.0
    missing: set[str] = field(default_factory=set)
    failed: dict[str, None] = field(default_factory=dict)
    """What pytest says of the tests that failed, in order, each line once."""


def pytest(venv: str, workers: int, *options: str, ignored: Sequence[str] = ()) -> list[str]:
    """Return the command that runs tests in so many processes, where every warning is an error."""
    python = [str(ROOT / venv / "bin" / "python"), "-X", "dev", "-W", "error"]
    for warning in ignored:
        python += ["-W", f"ignore:{warning}:DeprecationWarning"]
    spread = ["--tx", f"{workers}*popen//python={shlex.join(python)}"]
    return [*python, "-m", "pytest", "-v", "--basetemp", SCRATCH, *spread, *options]


UNIT = ("-m", "not network", "--ignore=tests/packaging", "--dist", "worksteal")
# These read the project's files or run pytest, alike on all versions: the newest is enough.
OF_THE_SOURCES = [
    f"--ignore=tests/project/test_{name}.py" for name in ("check", "clients", "house", "rings")
]
WHOLE_STREAMS = ("test_client", "test_open_streams")
# Tests that wait long are the first; each of the others goes to whoever is free.
NETWORK = ("--ignore=tests/packaging", "--dist", "load", "--maxschedchunk", "1")
# What Twisted 22.4 itself imports.
OLD_MODULES = [f"'{name}' is deprecated" for name in ("cgi", "crypt", "spwd")]


def lint() -> Iterator[list[str]]:
    """Yield the commands that look at the style of Python and of the shell scripts."""
    texts = [path for place in (".ci", "tools") for path in (ROOT / place).iterdir()]
    scripts = sorted(
        str(path.relative_to(ROOT))
        for path in texts
        if path.is_file() and re.match(rb"#!.*bash|# shellcheck shell=bash", path.read_bytes())
    )
    yield from (["bash", "-n", script] for script in scripts)
    yield [".venv/bin/ruff", "check"]
    yield [".venv/bin/ruff", "format", "--check"]


def types() -> Iterator[list[str]]:
    """Yield the commands that check types; scripts one by one: they are no package."""
    yield [".venv/bin/mypy", "torsocks_tx"]
    yield [".venv/bin/mypy", "-p", "bench"]
    for pattern in ("twisted/plugins/*.py", "tools/*.py", "examples/*.py", "contrib/*/*.py"):
        yield from ([".venv/bin/mypy", str(path)] for path in sorted(ROOT.glob(pattern)))


def stages() -> dict[str, Stage]:
    """Return every stage by its name, but for those of further versions of Python."""
    setup = str(TOOLS / "setup")
    known = [
        Stage("lint", "lint and format", list(lint())),
        Stage("types", "types", list(types())),
        Stage("unit", "unit tests and fuzzing, newest versions", [pytest(".venv", 2, *UNIT)]),
        Stage(
            "network",
            "private Tor networks and unmodified clients",
            [pytest(".venv", 4, "-m", "network", *NETWORK)],
        ),
        Stage(
            "clients",
            "what the newcomer's run skipped",
            [pytest(".venv", 3, "-m", "clients", *NETWORK)],
        ),
        Stage(
            "oldest",
            "unit tests and fuzzing, oldest versions",
            [
                [setup, "oldest"],
                pytest(".venv-oldest", 2, *UNIT, *OF_THE_SOURCES, ignored=OLD_MODULES),
            ],
        ),
        Stage("packaging", "wheel, source distribution, installs, documentation site",
              [pytest(".venv", 2, "tests/packaging")]),
        Stage("newcomer", "make test without clients, in a fresh copy",
              [[sys.executable, str(TOOLS / "newcomer.py")]]),
    ]  # fmt: skip
    return {stage.name: stage for stage in known}


def other_pythons() -> dict[str, str]:
    """Return the path of the newest Python of each minor version from 3.11 on but our own."""
    names = [f"python3.{minor}" for minor in range(11, 20)]
    places = [Path(place) for place in os.get_exec_path()]
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [place / name for place in places for name in names]
    candidates += sorted(home.glob("versions/*/bin/python3"))
    code = "import ensurepip, ssl, sys, venv; print(*sys.version_info[:3])"
    found: dict[tuple[int, ...], str] = {}
    for path in filter(Path.is_file, candidates):
        asked = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            found.setdefault(tuple(map(int, asked.stdout.split())), str(path))
    newest = {version[:2]: (version, found[version]) for version in sorted(found)}
    return {
        ".".join(map(str, version)): path
        for minor, (version, path) in newest.items()
        if minor >= (3, 11) and minor != sys.version_info[:2]
    }


def python_stage(version: str, path: str) -> Stage:
    """Return the stage that runs the unit tests on one more version of Python."""
    name = "python" + version.rpartition(".")[0]
    # Both ends of the versions have every test of the relay; here are those of whole streams.
    loopback = sorted((ROOT / "tests" / "loopback").glob("test_*.py"))
    less = [f"--ignore={each}" for each in loopback if each.stem not in WHOLE_STREAMS]
    kinds = "not (tcp-by or by-clock or unix-spliced)"
    tests = pytest(f".venv-{name}", 2, *UNIT, *OF_THE_SOURCES, *less, "-k", kinds)
    commands = [[str(TOOLS / "setup"), "python", path], tests]
    return Stage(name, f"unit tests and fuzzing, Python {version} ({path})", commands)


class Run:
    """All that one call of this script does."""

    def __init__(self, already: float) -> None:
        self._began = time.monotonic() - already
        self.results: list[Result] = []

    def say(self, name: str, line: str) -> None:
        """Print a line of a stage."""
        seconds = int(time.monotonic() - self._began)
        print(f"{seconds // 60:2}:{seconds % 60:02} {name:<10} {line}", flush=True)

    async def lane(self, stages: Sequence[Stage]) -> None:
        """Run stages one after another."""
        for stage in stages:
            result = Result(stage)
            self.results.append(result)
            began = time.monotonic()
            self.say(stage.name, f"== {stage.title}")
            for command in stage.commands:
                with tempfile.TemporaryDirectory(prefix="t-") as scratch:
                    parts = [f"{scratch}/t" if part == SCRATCH else part for part in command]
                    result.status = await self._run(result, parts)
                if result.status != 0:
                    break
            result.seconds = time.monotonic() - began
            outcome = f"FAILED ({result.status})" if result.status else "ok"
            self.say(stage.name, f"== {outcome}, {result.seconds:.0f} s")

    async def _run(self, result: Result, command: Sequence[str]) -> int:
        environment = dict(os.environ)
        if not command[0].endswith("setup") and result.stage.name != "newcomer":
            for name in PROXIES:
                environment.pop(name, None)
                environment.pop(name.upper(), None)
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=2**20,
        )
        try:
            async with asyncio.timeout(STAGE_DEADLINE):
                await self._show(result, process)
                return await process.wait()
        except TimeoutError:
            self.say(result.stage.name, f"took more than {STAGE_DEADLINE:.0f} s")
            return 1
        finally:
            await end(process)

    async def _show(self, result: Result, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        shown = 0.0
        async for text in process.stdout:
            line = text.decode("utf-8", "replace").rstrip()
            if passed := PASSED.fullmatch(line):
                if time.monotonic() - shown < PROGRESS_EVERY:
                    continue
                shown = time.monotonic()
                line = " ".join(passed.groups())
            elif BEGUN.fullmatch(line):
                continue
            for names in MISSING.findall(line):
                result.missing |= set(names.split(", "))
            result.failed |= dict.fromkeys(FAILED.findall(line)[:1])
            if line:
                self.say(result.stage.name, line)

    def report(self) -> int:
        """Print how each stage went; return the exit status."""
        print()
        for result in self.results:
            outcome = "FAILED" if result.status else "ok"
            print(f"{outcome:<7}{result.seconds:6.0f} s  {result.stage.title}")
            for line in list(result.failed)[:FAILED_SHOWN]:
                print(f"  {line}")
        print(f"{'in all':<7}{time.monotonic() - self._began:6.0f} s")
        if missing := sorted({name for result in self.results for name in result.missing}):
            print(f"{NOT_INSTALLED} {', '.join(missing)}.")
        return int(any(result.status for result in self.results))


async def end(process: asyncio.subprocess.Process) -> None:
    """Interrupt a process that still runs, and all that it has started."""
    for number, patience in ((signal.SIGINT, GRACE), (signal.SIGKILL, GRACE)):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), patience)


def chosen(names: Sequence[str]) -> list[list[Stage]]:
    """Return the lanes that somebody asks for."""
    known = stages()
    if list(names) == ["test"]:
        return [[known["unit"]], [known["network"]]]
    if list(names) == ["all"]:
        others = other_pythons()
        print("Python", sys.version.split()[0], *(f"and {each}" for each in others), flush=True)
        further = [python_stage(*each) for each in others.items()]
        busy = [known[name] for name in ("lint", "types", "oldest")]
        return [
            [*busy, *further[:-1], known["packaging"]],
            [known["newcomer"], known["clients"], *further[-1:]],
        ]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"check: there is no stage '{unknown[0]}': use {', '.join(known)}.")
    return [[known[name] for name in names]]


async def main(already: float, lanes: Sequence[Sequence[Stage]]) -> int:
    """Run the lanes side by side; return the exit status."""
    if not re.fullmatch(r"[\w/.-]{1,16}", tempfile.gettempdir(), re.ASCII):
        os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"  # SCRATCH is to be short and plain
    run = Run(already)
    tasks = asyncio.gather(*map(run.lane, lanes))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, tasks.cancel)
    try:
        await tasks
    except asyncio.CancelledError:
        return 130
    return run.report()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--set-up-took", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("stages", nargs="+", metavar="STAGE", help="a stage, 'test' or 'all'")
    asked = parser.parse_args()
    sys.exit(asyncio.run(main(asked.set_up_took, chosen(asked.stages))))
