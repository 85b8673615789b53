"""The exceptions of the package: sentences, advice, and failures without text."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from twisted.internet.error import ConnectError
from twisted.python.failure import Failure

from tests.support.rows import rows
from torsocks_tx import errors
from torsocks_tx.errors import OnionRefused, ProxyFault, Refused, Retry, SOCKSError, without_text
from torsocks_tx.socks.messages import KeyValues
from torsocks_tx.socks.replies import HIDDEN_SERVICE, ONION, PLAIN, TRANSPORT

PROXY = {errors.LoginRefused, errors.LoginRequired, errors.ArgumentsRefused, errors.NotIsolated}

SECRET = "".join(["can", "ary"])
"""Joined here, so that the source lines of a traceback do not show it."""


def all_refusals() -> list[type[SOCKSError]]:
    """Return every class that says what happened, without those that only group others."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    groups = (SOCKSError, Refused, ProxyFault, OnionRefused)
    return [kind for kind in kinds if issubclass(kind, SOCKSError) and kind not in groups]


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


def test_every_code_has_a_class() -> None:
    others = {kind for kind in all_refusals() if issubclass(kind, ProxyFault)}
    others.add(errors.NoSuchExit)  # told as NotAllowed
    assert {*PLAIN, *ONION, *HIDDEN_SERVICE, *TRANSPORT, *others} == set(all_refusals())


@pytest.mark.parametrize("kind", all_refusals())
def test_every_class_has_a_sentence_and_is_of_one_kind(kind: type[SOCKSError]) -> None:
    assert re.fullmatch(r"[A-Z][^\n]+\.", kind.sentence)
    assert kind.__doc__ == kind.sentence
    assert "sentence" in vars(kind)
    assert issubclass(kind, Refused) is not issubclass(kind, ProxyFault)
    assert issubclass(kind, ConnectError)
    if issubclass(kind, ProxyFault):
        assert kind.code == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.TimedOut("why"), "The connection was not made in time. (why)"),
        (errors.TimedOut("why", reply=6), "The connection was not made in time. (reply 06)"),
        (
            errors.LoginRefused("why", status=1),
            "The proxy refused the login: it wants other credentials, or another method."
            " (status 01)",
        ),
        (errors.ProxyUnreachable(), "The proxy could not be reached, or did not answer."),
        (Refused(), "The request was not carried out."),
    ],
)
def test_the_text_of_an_error_is_its_sentence_with_what_is_known(
    error: SOCKSError, text: str
) -> None:
    assert str(error) == text
    assert repr(error) == f"<{type(error).__name__}: {text}>"


def test_an_error_has_all_that_the_proxy_said() -> None:
    error = errors.ArgumentsRefused("x", status=2)
    assert (error.detail, error.reply, error.status) == ("x", None, 2)
    assert error.pairs == KeyValues()


def test_sentences_survive_an_optimized_python() -> None:
    program = "from torsocks_tx.errors import *; print(HostUnreachable(reply=4), Busy.__doc__)"
    command = [sys.executable, "-OO", "-c", program]
    said = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    text = f"{errors.HostUnreachable.sentence} (reply 04) {errors.Busy.sentence}\n"
    assert said == text


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
