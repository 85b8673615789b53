"""The Makefile and its scripts: their output, and how they end by a signal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.packaging.conftest import ROOT
from tests.support.processes import write_program

# Prints a line once it is ready; its exit code tells the signal.
CHILD = """
import signal, sys
if signal.getsignal(signal.SIGINT) is not signal.default_int_handler: sys.exit("ignored")
numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("there", flush=True)
sys.exit(40 + signal.sigwait(numbers))
"""


# Signals may be ignored where the tests were started, such as by nohup.
AS_AT_A_TERMINAL = ("env", "--default-signal=HUP,INT,TERM")


@contextmanager
def foreground(*command: str, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run a command by the scripts' ``foreground``, in its own session, until it prints."""
    script = f'{before} . tools/lib.sh; foreground "$@"; exit $?'
    with subprocess.Popen(
        [*AS_AT_A_TERMINAL, "bash", "-c", script, "test", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        try:
            assert running.stdout
            assert running.stdout.readline() == "there\n"
            yield running
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)


@pytest.mark.parametrize("before", ["", "trap '' INT;"], ids=["plain", "in the background"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_script_forwards_a_signal_to_its_command(number: signal.Signals, before: str) -> None:
    with foreground(sys.executable, "-c", CHILD, before=before) as running:
        running.send_signal(number)
        assert running.wait(60) == 40 + signal.SIGINT


def test_a_signal_that_comes_before_the_command_runs_ends_it(tmp_path: Path) -> None:
    write_program(tmp_path / "env", "sh", "-c", "echo there; exec sleep 600")
    with foreground("true", before=f"PATH={tmp_path}:$PATH;") as running:
        running.terminate()
        assert running.wait(60) == 128 + signal.SIGTERM


def test_ctrl_c_reaches_the_command() -> None:
    with foreground(sys.executable, "-c", CHILD) as running:
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(60) in {40 + signal.SIGINT, 128 + signal.SIGINT}


def test_the_status_of_a_command_is_passed_on() -> None:
    with foreground("sh", "-c", "echo there; exit 7") as running:
        assert running.wait(60) == 7


def test_missing_programs_are_named_in_one_sentence() -> None:
    script = ". tools/lib.sh; may_install() { false; }; need_packages bash no-such-tool nc.not"
    done = subprocess.run(
        ["bash", "-c", script, "setup"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup: cannot find no-such-tool nc.not: please ")
    assert "nc.not no-such-tool" in line


def test_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = makefile.partition(".PHONY:")[2].splitlines()[0].split()
    text = subprocess.run(
        ["make"], cwd=ROOT, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    ).stdout
    assert [t for t in targets if t != "help" and f"make {t} " not in text] == []


def test_oldest_tested_versions_are_the_lowest_required(requirements: list[str]) -> None:
    text = (ROOT / "tools" / "constraints-debian12.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))
    for wanted in map(Requirement, requirements):
        (lowest,) = wanted.specifier
        assert lowest.operator == ">="
        assert f"{pinned[wanted.name]}.".startswith(f"{lowest.version}.")


def test_ci_runs_every_check() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.endswith("exec make --no-print-directory check\n")
