"""The exceptions of the package: sentences, advice, and failures without text."""

from __future__ import annotations

import re
from typing import Any

import pytest
from twisted.python.failure import Failure

from tests.support.rows import rows
from torsocks_tx import errors
from torsocks_tx.errors import OnionRefused, Refused, Retry, TransportRefused, without_text
from torsocks_tx.socks.replies import HIDDEN_SERVICE, ONION, PLAIN, TRANSPORT

PROXY = {errors.LoginRefused, errors.ArgumentsRefused, errors.NotIsolated}

SECRET = "".join(["can", "ary"])
"""Joined here, so that the source lines of a traceback do not show it."""


def all_refusals() -> list[type[Refused]]:
    """Return every class of refusal."""
    found, waiting = [], [Refused]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if (
            kind not in (Refused, OnionRefused, TransportRefused)
            and kind.__module__ == errors.__name__
        ):
            found.append(kind)
    return found


@rows("P-30", "P-32", "P-34")
def test_advice() -> None:
    assert errors.Temporary.retry is Retry.NOW
    assert errors.Internal.retry is Retry.LATER
    assert errors.InvalidBridge.retry is Retry.NEVER
    never = {kind for kind in all_refusals() if kind.retry is Retry.NEVER}
    assert never == {
        errors.NotAllowed,
        errors.CommandNotSupported,
        errors.AddressTypeNotSupported,
        errors.MissingClientAuth,
        errors.WrongClientAuth,
        errors.InvalidOnionAddress,
        errors.InvalidBridge,
        *PROXY,
    }


def test_the_lists_are_complete() -> None:
    others = {errors.TorDown, errors.Busy, errors.Fault, errors.ProxyBroken, *PROXY}
    assert {*PLAIN, *ONION, *HIDDEN_SERVICE, *TRANSPORT, *others} == set(all_refusals())


@pytest.mark.parametrize("kind", all_refusals())
def test_every_refusal_is_a_sentence(kind: type[Refused]) -> None:
    reason = kind("for the log")
    assert re.fullmatch(r"[A-Z][^\n]+\.", reason.sentence)
    assert str(reason) == "for the log"


def test_a_protocol_error_may_have_no_answer() -> None:
    assert errors.ProtocolError("why").answer == b""
    assert errors.ProtocolError("why", b"\5\1").answer == b"\5\1"


@pytest.mark.parametrize("kind", [ValueError, OSError, UnicodeDecodeError, ExceptionGroup])
def test_a_failure_without_text_keeps_its_kind_and_place(kind: type[Exception]) -> None:
    arguments: dict[Any, tuple[Any, ...]] = {
        UnicodeDecodeError: ("ascii", SECRET.encode(), 0, 1, SECRET),
        ExceptionGroup: (SECRET, [ValueError(SECRET)]),
    }
    try:
        raise kind(*arguments.get(kind, (SECRET,)))
    except Exception:
        text = without_text(Failure()).getTraceback()
    assert kind.__name__ in text
    assert "test_errors.py" in text
    assert SECRET not in text
