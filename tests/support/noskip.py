"""A pytest plugin: clients that are not installed, and where their absence is a failure.

Tests ask for an unmodified client by ``client("ncat")``. Where it is missing, the test is skipped
and the client named at the end of the run; but with ``CI`` set, or ``TORSOCKS_TX_NO_SKIP=1``,
whatever is skipped for any reason fails.
Load it from the root conftest: ``pytest_plugins = ["tests.support.noskip"]``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Mapping

import pytest

MISSING = "no client "


def nothing_may_be_skipped(environment: Mapping[str, str]) -> bool:
    """Whether a skip is a failure here."""
    return bool(environment.get("CI")) or environment.get("TORSOCKS_TX_NO_SKIP") == "1"


def client(name: str) -> str:
    """Return the path of an installed client; skip the test that asks when there is none."""
    places = os.pathsep.join(
        [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    )
    path = shutil.which(name, path=places)
    if path is None:
        pytest.skip(MISSING + name)
    return path


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return getattr(report, "wasxfail", "") or str(report.longrepr)


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and nothing_may_be_skipped(os.environ):
        report.longrepr = f"skipped where nothing may be: {_reason(report)}"
        report.outcome = "failed"
        if hasattr(report, "wasxfail"):
            del report.wasxfail


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test into its failure."""
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole module into its failure."""
    report = yield
    _fail_if_skipped(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the clients that were missing, once each."""
    reasons = [_reason(report) for report in terminalreporter.stats.get("skipped", [])]
    missing = sorted(
        {reason.removeprefix(MISSING) for reason in reasons if reason.startswith(MISSING)}
    )
    if missing:
        terminalreporter.section("missing clients")
        terminalreporter.line(f"Not installed, so their tests were skipped: {', '.join(missing)}.")
