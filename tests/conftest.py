"""What every test gets: a logged failure or a leftover of the reactor fails it, and no name is looked up."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from twisted.logger import LogEvent, globalLogPublisher

pytest_plugins = ["tests.noskip"]


@pytest.fixture
def logged_failures() -> list[LogEvent]:
    """The failures that were logged; a test that expects some takes them out of the list."""
    return []


@pytest.fixture(autouse=True)
def _no_logged_failures(logged_failures: list[LogEvent]) -> Iterator[None]:
    """Fail a test that logs a failure or drops a Deferred's error, which pytest-twisted lets pass."""

    def observe(event: LogEvent) -> None:
        if event.get("log_failure") is not None:
            logged_failures.append(event)

    globalLogPublisher.addObserver(observe)
    yield
    # A Deferred reports an unhandled error when it is collected.
    gc.collect()
    globalLogPublisher.removeObserver(observe)
    assert not [event["log_failure"].getTraceback() for event in logged_failures]
