"""The script behind ``make test``: its stages, its output and its end by a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.support.processes import ROOT

SCRIPT = """
import asyncio, check, json, sys, types
from check import Stage, main
check.time = types.SimpleNamespace(monotonic=lambda: 60.0)  # however slow the machine
given = json.loads(sys.argv[1])
lanes = [[Stage(name, name, commands) for name, commands in lane] for lane in given]
sys.exit(asyncio.run(main(0.0, lanes)))
"""
MISSING = "Not installed, so their tests were skipped: a, b."
OTHERS = "Not installed, so their tests were skipped: a, c."
Lane = list[tuple[str, list[list[str]]]]


def start(*lanes: Lane, before: str = "") -> subprocess.Popen[str]:
    shell = ["sh", "-c", f'{before} exec "$@"', "sh"]
    return subprocess.Popen(
        [*shell, sys.executable, "-c", SCRIPT, json.dumps(lanes)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def outcome(*lanes: Lane) -> tuple[int, list[str]]:
    with start(*lanes) as running:
        out, _ = running.communicate(timeout=600)
    return running.returncode, out.splitlines()


def test_every_line_says_which_stage_speaks_and_when() -> None:
    status, lines = outcome(
        [("one", [["echo", "hello"], ["echo", MISSING]]), ("two", [["echo", OTHERS]])]
    )
    assert status == 0
    assert lines[:5] == [
        " 0:00 one        == one",
        " 0:00 one        hello",
        f" 0:00 one        {MISSING}",
        " 0:00 one        == ok, 0 s",
        " 0:00 two        == two",
    ]
    assert [line.split()[0] for line in lines[-4:-1]] == ["ok", "ok", "in"]
    assert lines[-1] == "Not installed, so their tests were skipped: a, b, c."


def test_of_tests_that_pass_one_is_shown_in_a_while() -> None:
    said = "tests/a.py::b", "[gw0] [ 50%] PASSED tests/a.py::b", "[gw1] [100%] PASSED tests/a.py::c"
    failed = "[gw1] [100%] FAILED tests/a.py::d"
    status, lines = outcome([("one", [["printf", "%s\\n", *said, failed]])])
    assert status == 0
    assert lines[1:3] == [f" 0:00 one        {line}" for line in ("[ 50%] tests/a.py::b", failed)]


def test_the_other_stages_run_when_one_fails() -> None:
    failing = ("one", [["sh", "-c", "exit 3"], ["echo", "never"]])
    status, lines = outcome([failing, ("two", [["echo", "after"]])], [("three", [["true"]])])
    assert status == 1
    assert " 0:00 one        == FAILED (3), 0 s" in lines
    assert any(line.endswith("after") for line in lines)
    assert not any(line.endswith("never") for line in lines)
    assert [line.split()[0] for line in lines[-4:]] == ["FAILED", "ok", "ok", "in"]


def test_the_end_says_which_tests_failed_and_why() -> None:
    said = "E   assert 1 == 2", "FAILED tests/a.py::b[1]", "ERROR tests/a.py::c - OSError: no"
    inner = f" 4:12 unit       {said[0]}", f"  {said[1]}", "[gw1] [ 9%] FAILED tests/a.py::b[1]"
    status, lines = outcome([("one", [["printf", "%s\\n", *inner, *said], ["false"]])])
    assert status == 1
    assert lines[-5].startswith("FAILED")
    assert lines[-4:-1] == [f"  {line}" for line in said]


@pytest.mark.parametrize("before", ["", "trap '' INT;"], ids=["plain", "in the background"])
def test_a_signal_interrupts_what_runs(before: str) -> None:
    child = "trap 'echo interrupted; exit 1' INT; echo there; while :; do sleep 0.01; done"
    with start([("one", [["sh", "-c", child]]), ("two", [["true"]])], before=before) as running:
        assert running.stdout is not None
        while "there" not in running.stdout.readline():
            pass
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 130
        assert "two" not in running.stdout.read()


def test_an_unknown_stage_is_told() -> None:
    script = str(ROOT / "tools" / "check.py")
    done = subprocess.run(
        [sys.executable, script, "nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("check: there is no stage 'nonsense': use lint, types, unit,")
