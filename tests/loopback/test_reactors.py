"""The relay on Twisted's other reactors: what the tests of open streams say holds on each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import pytest
from twisted.internet import default, {reactor}
default.install = {reactor}.install
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("reactor", "option"),
    [("pollreactor", "default"), ("selectreactor", "default"), ("asyncioreactor", "asyncio")],
)
def test_open_streams_are_carried_on_every_reactor(reactor: str, option: str) -> None:
    program = [sys.executable, "-W", "error", "-c", PROGRAM.format(reactor=reactor)]
    arguments = ["-q", f"--reactor={option}", "-p", "no:cacheprovider", "-k", "not without"]
    ended = subprocess.run(
        [*program, *arguments, "test_open_streams.py"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
