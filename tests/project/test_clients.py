"""Tests whose client program is missing, in a run of pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MISSING_CLIENTS = """
import pytest
from tests.support.clients import client

@pytest.fixture
def costly():
    raise AssertionError("set up for nothing")

@pytest.mark.clients("sh")
def test_there():
    assert client("sh").endswith("/sh")

@pytest.mark.clients("sh", "no-such-client", "nor-this")
def test_absent(costly): ...

@pytest.mark.parametrize("name", [pytest.param("x", marks=pytest.mark.clients("no-such-client"))])
def test_absent_too(name): ...
"""
OTHER_SKIPS = """
import pytest
@pytest.mark.skip(reason="today")
def test_marked(): ...

@pytest.mark.xfail(reason="hard")
def test_expected(): raise ValueError
"""
UNMARKED = """
from tests.support.clients import client
def test_it(): client("no-such-client")
"""
NETWORK = """
import pytest
@pytest.mark.network
def test_it(): ...
"""
WHOLE_MODULE = "import pytest\npytest.skip('all of it', allow_module_level=True)\n"


def outcome(directory: Path, text: str, **environment: str) -> tuple[int, str]:
    """Run pytest with the plugin over one module; return its exit code and what it printed."""
    (directory / "test_it.py").write_text(text)
    inherited = {k: v for k, v in os.environ.items() if k not in {"CI", "TORSOCKS_TX_NO_SKIP"}}
    inherited |= {"PYTHONPATH": str(ROOT), "PY_COLORS": "0", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "test_it.py", "-rsf"]
    done = subprocess.run(
        [*command, "-p", "tests.support.clients", "-p", "no:cacheprovider"],
        cwd=directory,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_missing_client_is_named_once_at_the_end(tmp_path: Path) -> None:
    code, out = outcome(tmp_path, MISSING_CLIENTS, CI="", TORSOCKS_TX_NO_SKIP="0")
    assert code == 0, out
    assert "1 passed, 2 skipped" in out.splitlines()[-1]
    assert (
        "Not installed, so their tests were skipped: no-such-client, nor-this." in out.splitlines()
    )


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"TORSOCKS_TX_NO_SKIP": "1"}])
def test_where_nothing_may_be_missing_each_such_test_fails(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    code, out = outcome(tmp_path, MISSING_CLIENTS, **environment)
    assert code == 1
    assert "1 passed, 2 errors in" in out.splitlines()[-1]
    assert "skipped where nothing may be: no client no-such-client nor-this" in out


def test_tests_of_the_network_need_tor(tmp_path: Path) -> None:
    code, out = outcome(tmp_path, NETWORK, PATH=str(tmp_path))
    assert code == 0, out
    assert "Not installed, so their tests were skipped: tor, tor-gencert." in out.splitlines()


def test_a_client_must_be_named_by_a_mark(tmp_path: Path) -> None:
    code, out = outcome(tmp_path, UNMARKED)
    assert code == 1
    assert 'mark this test clients("no-such-client")' in out


def test_a_skip_for_any_other_reason_fails(tmp_path: Path) -> None:
    code, out = outcome(tmp_path, OTHER_SKIPS)
    assert code == 1
    assert "1 failed, 1 error" in out.splitlines()[-1]
    for reason in ("today", "hard"):
        assert f"skipped where nothing may be: {reason}" in out


def test_a_skipped_module_fails(tmp_path: Path) -> None:
    code, out = outcome(tmp_path, WHOLE_MODULE)
    assert code == 2
    assert "skipped where nothing may be: all of it" in out
