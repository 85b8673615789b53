"""Type checkers see through the package: ``mypy --strict`` of a user's program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

[USERS_CONFIGURATION] = re.findall(
    r"```ini\n(.*?)```", (ROOT / "docs" / "embedding.md").read_text(), re.DOTALL
)
OPTIONAL = """
[mypy-scrapy.*,treq.*]
ignore_missing_imports = True
"""
MISTAKES = """
import torsocks_tx
from torsocks_tx import Nonsense, SOCKSFactory
from torsocks_tx.web import sock_agent

SOCKSFactory(torsocks_tx.MemoryBackend(), limit=torsocks_tx.Limits())
"""


@pytest.mark.slow
def test_examples_pass_strict_type_checks_and_mistakes_do_not(tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(USERS_CONFIGURATION + OPTIONAL)
    (tmp_path / "mistakes.py").write_text(MISTAKES)
    examples = sorted(str(path) for path in (ROOT / "examples").glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "mistakes.py", *examples],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stderr == ""
    errors = [line.split(": ", 2)[2] for line in done.stdout.splitlines() if ": error: " in line]
    assert errors == [
        'Module "torsocks_tx" has no attribute "Nonsense"  [attr-defined]',
        'Module "torsocks_tx.web" has no attribute "sock_agent"; maybe "socks_agent"?'
        "  [attr-defined]",
        'Unexpected keyword argument "limit" for "SOCKSFactory"; did you mean "limits"?'
        "  [call-arg]",
    ]
