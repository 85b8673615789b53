"""The pytest fixture ``scripted_socks``: a scripted server for clients of any kind.

Write ``pytest_plugins = ["torsocks_tx.testing.scripted.pytest_plugin"]`` in the root
``conftest.py``. One process serves the whole run; each test sees its own requests only.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from torsocks_tx.testing.scripted.process import ScriptedProcess


@pytest.fixture(scope="session")
def scripted_socks_process() -> Iterator[ScriptedProcess]:
    """The process behind ``scripted_socks``."""
    with ScriptedProcess() as process:
        yield process


@pytest.fixture
def scripted_socks(scripted_socks_process: ScriptedProcess) -> ScriptedProcess:
    """A scripted server: ``host``, ``port``, and ``requests``, empty at first."""
    scripted_socks_process.forget()
    return scripted_socks_process
