"""The limits of a server: their defaults and their documentation."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.support.rows import rows
from torsocks_tx.limits import Limits

DEFAULTS = {
    "handshake_timeout": 30,
    "connect_timeout": 120,
    "onion_timeout": 600,
    "idle_timeout": None,
    "linger_timeout": 30,
    "linger_limit": 300,
    "drain_timeout": 2,
    "drain_bytes": 1024 * 1024,
    "early_data": 64 * 1024,
    "extended_bytes": 256 * 1024,
    "extended_pairs": 1024,
    "max_connections": None,
    "max_per_client": None,
}


@rows("R-30")
def test_defaults() -> None:
    assert dataclasses.asdict(Limits()) == DEFAULTS


def test_each_is_told_in_the_docstring() -> None:
    assert [name for name in DEFAULTS if f"``{name}``" not in (Limits.__doc__ or "")] == []


def test_they_do_not_change_under_a_running_server() -> None:
    limits = Limits()
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.early_data = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("handshake_timeout", -1, "a number of seconds above 0, not -1"),
        ("handshake_timeout", None, "a number of seconds above 0, not None"),
        ("idle_timeout", 0, "a number of seconds above 0, not 0"),
        ("linger_limit", float("inf"), "a number of seconds above 0, not inf"),
        ("connect_timeout", "5", "a number of seconds above 0, not '5'"),
        ("early_data", 1.5, "a whole number above 0, not 1.5"),
        ("max_connections", 0, "a whole number above 0, not 0"),
    ],
)
def test_a_value_that_is_no_limit_is_refused(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be {wanted}$"):
        Limits(**{name: value})
