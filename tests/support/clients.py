"""A pytest plugin: tests that need unmodified clients are skipped where one is missing.

A test names the programs that it runs by ``@pytest.mark.clients("ssh", "sshd")``; whatever has the
mark ``network`` needs tor. They are looked for before anything of the test is set up. The end of
the run names those that are missing. With ``CI`` set, or ``TORSOCKS_TX_NO_SKIP=1``, nothing may be
missing; a skip for any other reason is a failure everywhere.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Generator, Iterator, Mapping

import pytest

from torsocks_tx.testing.tornet.servers import has_ipv6_loopback

IPV6 = "IPv6"
"""What a test names that needs the address ::1, which some containers have not."""
MISSING = "no client "
NETWORK_NEEDS = ("tor", "tor-gencert")
NEED_AN_ACCOUNT = {"ssh", "danted"}
"""Programs that do not run for a user who has no line in passwd(5), as in some containers."""
NODE_LIBRARIES = {"undici": "/usr/share/nodejs/undici"}
"""Libraries of Node, and where Debian has them."""


def nothing_may_be_missing(environment: Mapping[str, str]) -> bool:
    """Whether a missing client is a failure here."""
    return bool(environment.get("CI")) or environment.get("TORSOCKS_TX_NO_SKIP") == "1"


def _has_account(user: int) -> bool:
    try:
        return bool(pwd.getpwuid(user))
    except KeyError:
        return False


def find(name: str) -> str | None:
    """Return the path of a program, in ``PATH`` or beside our Python; None if it is not there.

    Or that of a library of Node, where there is Node; or ``IPV6``.
    """
    if name == IPV6:
        return name if has_ipv6_loopback() else None
    if name in NODE_LIBRARIES:
        library = NODE_LIBRARIES[name]
        return library if os.path.exists(library) and find("node") else None
    if name in NEED_AN_ACCOUNT and not _has_account(os.geteuid()):
        return None
    beside = os.path.dirname(sys.executable)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), beside]))


def client(name: str) -> str:
    """Return the path of a client that the test has named by its mark."""
    path = find(name)
    assert path is not None, f'{name} is not installed: mark this test clients("{name}")'
    return path


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line("markers", "clients(*programs): the unmodified programs that it runs")


def _needed_by(item: pytest.Item) -> Iterator[str]:
    for mark in item.iter_markers("clients"):
        yield from mark.args
    if item.get_closest_marker("network"):
        yield from NETWORK_NEEDS


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs a program that is not installed, before its fixtures are made."""
    missing = [name for name in _needed_by(item) if find(name) is None]
    if missing:
        pytest.skip(MISSING + " ".join(missing))


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return getattr(report, "wasxfail", "") or str(report.longrepr)


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped:
        return
    reason = _reason(report)
    if nothing_may_be_missing(os.environ) or not reason.startswith(MISSING):
        report.longrepr = f"skipped where nothing may be: {reason}"
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
    names = [reason.removeprefix(MISSING).split() for reason in reasons if MISSING in reason]
    missing = sorted({name for found in names for name in found})
    if missing:
        terminalreporter.section("missing clients")
        terminalreporter.line(f"Not installed, so their tests were skipped: {', '.join(missing)}.")
