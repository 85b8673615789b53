"""The skip-is-a-failure plugin, seen from outside: a run of pytest over tests that skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPPING = """
import pytest
from tests.support.noskip import client

def test_there():
    assert client("sh").endswith("/sh")

def test_absent():
    client("no-such-client")

def test_absent_too():
    client("no-such-client")

@pytest.mark.skip(reason="today")
def test_marked(): ...

@pytest.mark.xfail(reason="hard")
def test_expected(): raise ValueError
"""
WHOLE_MODULE = "import pytest\npytest.skip('all of it', allow_module_level=True)\n"


def outcome(directory: Path, text: str, **environment: str) -> tuple[int, str]:
    """Run pytest with the plugin over one module; return its exit code and what it printed."""
    (directory / "test_it.py").write_text(text)
    inherited = {k: v for k, v in os.environ.items() if k not in {"CI", "TORSOCKS_TX_NO_SKIP"}}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "-p",
        "tests.support.noskip",
        "test_it.py",
    ]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-rsf"],
        cwd=directory,
        env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_missing_client_is_named_once_at_the_end(tmp_path: Path) -> None:
    code, out = outcome(tmp_path, SKIPPING)
    assert code == 0
    assert "1 passed, 3 skipped, 1 xfailed" in out.splitlines()[-1]
    assert "Not installed, so their tests were skipped: no-such-client." in out.splitlines()


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"TORSOCKS_TX_NO_SKIP": "1"}])
def test_where_nothing_may_be_skipped_each_skip_fails(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    code, out = outcome(tmp_path, SKIPPING, **environment)
    assert code == 1
    assert "3 failed, 1 passed, 1 error" in out.splitlines()[-1]
    for reason in ("no client no-such-client", "today", "hard"):
        assert f"skipped where nothing may be: {reason}" in out


def test_where_nothing_may_be_skipped_a_skipped_module_fails(tmp_path: Path) -> None:
    assert outcome(tmp_path, WHOLE_MODULE)[0] == 5
    code, out = outcome(tmp_path, WHOLE_MODULE, CI="true")
    assert code == 2
    assert "skipped where nothing may be: all of it" in out


def test_an_empty_ci_variable_is_no_ci(tmp_path: Path) -> None:
    assert outcome(tmp_path, SKIPPING, CI="", TORSOCKS_TX_NO_SKIP="0")[0] == 0
