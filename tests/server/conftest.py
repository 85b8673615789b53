"""What the package logs while a test runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher


@pytest.fixture
def events() -> Iterator[list[LogEvent]]:
    """Give the events of the package, of every level."""
    found: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event["log_namespace"].startswith("torsocks_tx"):
            found.append(event)

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Give the lines that the package logs above debug, each with its level."""
    found: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_namespace"].startswith("torsocks_tx") and event["log_level"] > LogLevel.debug:
            found.append(f"{event['log_level'].name}: {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)
