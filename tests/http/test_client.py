"""The conversation with an HTTP proxy, in portions of all sizes."""

from __future__ import annotations

import pytest

from tests.support.tables import at, cuts, table
from torsocks_tx.errors import GeneralFailure, HostUnreachable, NotAllowed, Refused, TimedOut
from torsocks_tx.http.client import HTTPInitiator
from torsocks_tx.socks.constants import Reply5
from torsocks_tx.socks.messages import Credentials, Reply
from torsocks_tx.socks.outcomes import Failed, Opened, Step

PLACE = at("192.0.2.1", 443)
SUCCESS = b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n"


def hear(chunks: tuple[bytes, ...]) -> list[Step]:
    initiator = HTTPInitiator(PLACE)
    return [step for chunk in chunks for step in initiator.receive(chunk)]


def test_the_request() -> None:
    initiator = HTTPInitiator(PLACE, Credentials(b"me", b"you"))
    assert initiator.start().startswith(b"CONNECT 192.0.2.1:443 HTTP/1.1\r\n")
    assert b"Basic bWU6eW91\r\n" in initiator.start()


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_success_however_it_comes(interim: bytes) -> None:
    for chunks in cuts(interim + SUCCESS):
        assert hear(chunks) == [Opened(Reply(Reply5.SUCCEEDED), b"")]


def test_what_comes_behind_is_not_lost() -> None:
    assert hear((SUCCESS + b"\r\nhello",)) == [Opened(Reply(Reply5.SUCCEEDED), b"\r\nhello")]


REFUSALS = table(
    [
        ("401", 401, GeneralFailure),
        ("403", 403, NotAllowed),
        ("405", 405, NotAllowed),
        ("407", 407, GeneralFailure),
        ("500", 500, GeneralFailure),
        ("502", 502, HostUnreachable),
        ("503", 503, HostUnreachable),
        ("504", 504, TimedOut),
        ("302", 302, GeneralFailure),
    ]
)


@pytest.mark.parametrize(("code", "kind"), REFUSALS)
def test_refusals(code: int, kind: type[Refused]) -> None:
    [step] = hear((b"HTTP/1.1 %d No\r\n\r\n" % code,))
    assert isinstance(step, Failed)
    assert type(step.reason) is kind


def test_nonsense_is_a_failure() -> None:
    [step] = hear((b"\5\0",))
    assert isinstance(step, Failed)
    assert type(step.reason) is GeneralFailure


def test_the_end() -> None:
    initiator = HTTPInitiator(PLACE)
    [step] = initiator.eof()
    assert isinstance(step, Failed)
    assert initiator.eof() == []
    assert initiator.receive(SUCCESS) == []
