"""What every test gets: a failure that is logged, or dropped with its Deferred, fails it."""

from __future__ import annotations

import gc
import inspect
import itertools
import os
import re
import tempfile
from collections.abc import Iterator

import pytest
import pytest_twisted
from hypothesis import settings
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from tests.support.processes import kill_programs

# A unix socket has room for 107 bytes of a path, which stands in strings of endpoints too.
if not re.fullmatch(r"[\w/.-]{1,16}", tempfile.gettempdir(), re.ASCII):
    os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"

pytest_plugins = ["tests.support.netfixture", "tests.support.clients", "tests.support.ground"]

# One example may take long on a busy machine, and the checkout may be read-only.
settings.register_profile("tests", deadline=None, database=None, derandomize="CI" in os.environ)
settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run coroutines in the reactor, and begin with the tests that wait long."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            pytest_twisted.ensureDeferred(item.function)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


_tests_begun = itertools.count()


@pytest.fixture(autouse=True)
def _quick_collections() -> None:
    """Leave what the imports and earlier tests made out of the collection that ends every test."""
    if next(_tests_begun) % 100 == 0:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _files_that_others_cannot_write() -> Iterator[None]:
    """Make the files of tests as most machines would: keys that a group may write are refused."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def _no_program_left() -> Iterator[None]:
    """Leave no program behind, though a test fails while one runs."""
    yield
    kill_programs()


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    """Give the events that are logged, of every level."""
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """Give the lines that the package logs above debug, each with its level."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        if level > LogLevel.debug and event["log_namespace"].startswith("torsocks_tx"):
            lines.append(f"{level.name}: {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


@pytest.fixture
def logged_failures() -> list[LogEvent]:
    """The failures that were logged; a test that expects some takes them out of the list."""
    return []


@pytest.fixture(autouse=True)
def _no_logged_failures(logged_failures: list[LogEvent]) -> Iterator[None]:
    """Fail a test that logs a failure or drops a Deferred's error: pytest-twisted lets it pass."""

    def observe(event: LogEvent) -> None:
        if str(event.get("log_namespace")).startswith("torsocks_tx."):
            # pytest shows it where a test fails.
            print(formatEvent(event))
        if event.get("log_failure") is not None:
            logged_failures.append(event)
        elif event.get("failure") is not None:
            # The reactor reports what a protocol raises in the older way.
            logged_failures.append({**event, "log_failure": event["failure"]})

    globalLogPublisher.addObserver(observe)
    yield
    # A Deferred reports an unhandled error when it is collected.
    gc.collect()
    globalLogPublisher.removeObserver(observe)
    assert not [event["log_failure"].getTraceback() for event in logged_failures]
