"""The answers of an HTTP proxy: the table of failures, and the headers, as h11 reads them."""

from __future__ import annotations

import inspect
import re
from http import HTTPStatus

import pytest

from tests.support.http import Answer, answers_in
from tests.support.rows import rows
from torsocks_tx import errors
from torsocks_tx.errors import GeneralFailure, OnionRefused, ProxyFault, Refused, SOCKSError
from torsocks_tx.http.answers import ISOLATION_HEADERS, MEANINGS, Answers, meaning_of

OVER_TOR = Answers(tor=True, isolates=True)
DIRECT = Answers(tor=False, isolates=True)
KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, SOCKSError) and kind not in (SOCKSError, Refused, OnionRefused)
]
# RFC 9209, section 2.3.
ERROR_TYPES = {"dns_timeout", "dns_error", "destination_not_found", "destination_unavailable",
               "destination_ip_prohibited", "destination_ip_unroutable", "connection_refused",
               "connection_terminated", "connection_timeout", "connection_limit_reached",
               "http_request_error", "http_request_denied", "proxy_internal_response",
               "proxy_internal_error", "proxy_configuration_error"}  # fmt: skip


def refused(kind: type[SOCKSError], answers: Answers = OVER_TOR) -> Answer:
    [answer] = answers_in(answers.refused(kind("debug text")))
    return answer


@rows("H-14", "H-15", "H-16")
@pytest.mark.parametrize("kind", KINDS)
def test_every_failure_is_told_by_status_headers_and_a_sentence(kind: type[SOCKSError]) -> None:
    meaning = meaning_of(kind())
    answer = refused(kind)
    assert answer.status == meaning.status
    assert answer.headers["tor-request-failed"] == f"torsocks_tx/{meaning.token}"
    sentence = kind().sentence
    status = f'torsocks_tx; error={meaning.error}; details="{sentence}"'
    assert answer.headers["proxy-status"] == status
    assert answer.body.decode() == sentence + "\n"
    assert answer.headers["connection"] == "close"
    assert b"debug text" not in OVER_TOR.refused(kind("debug text"))


@rows("H-14", "H-16")
def test_words_of_the_table_are_well_formed_and_the_tokens_differ() -> None:
    tokens = [meaning.token for meaning in MEANINGS.values()]
    assert len(set(tokens)) == len(tokens)
    for kind, meaning in MEANINGS.items():
        assert re.fullmatch("[a-z]+(-[a-z]+)*", meaning.token)
        assert meaning.token.startswith("onion-") is issubclass(kind, OnionRefused)
        assert meaning.error in ERROR_TYPES
        assert 400 <= HTTPStatus(meaning.status) < 600
        assert '"' not in kind().sentence


@rows("H-15")
def test_statuses_are_those_of_tors_specification() -> None:
    expected = {
        errors.ConnectionRefused: 403,
        errors.NotAllowed: 403,
        errors.HostUnreachable: 503,
        errors.TimedOut: 504,
        errors.TorDown: 502,
        errors.GeneralFailure: 502,
        errors.Internal: 500,
        errors.NoSuchPort: 501,
        errors.DescriptorNotFound: 503,
        errors.MissingClientAuth: 403,
        errors.WrongClientAuth: 403,
        errors.InvalidOnionAddress: 400,
    }
    assert {kind: refused(kind).status for kind in expected} == expected


def test_a_class_outside_the_table_is_told_as_its_base() -> None:
    class Odd(ProxyFault):
        sentence = "Something odd happened."

    assert meaning_of(Odd()) == MEANINGS[ProxyFault]
    assert refused(Odd).body == b"Something odd happened.\n"
    of_transports = {errors.Temporary, errors.InvalidBridge}
    assert set(KINDS) - set(MEANINGS) == of_transports
    assert {meaning_of(kind()) for kind in of_transports} == {MEANINGS[GeneralFailure]}


@rows("H-14", "H-16")
@pytest.mark.parametrize(
    ("said", "status", "error", "token"),
    [
        *((OVER_TOR.mistaken(status, "No."), status, "http_request_error", "protocol-error")
          for status in (400, 431, 505)),
        (OVER_TOR.mistaken(501, "No."), 501, "http_request_error", "command-not-supported"),
        (OVER_TOR.ask_for_credentials(close=True), 407, "http_request_denied", "login-refused"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_told_by_the_same_headers(
    said: bytes, status: int, error: str, token: str
) -> None:
    [answer] = answers_in(said)
    assert answer.status == status
    assert answer.headers["tor-request-failed"] == f"torsocks_tx/{token}"
    sentence = answer.body.decode().rstrip()
    assert answer.headers["proxy-status"] == f'torsocks_tx; error={error}; details="{sentence}"'
    assert f" ({token.replace('-', ' ')})\r\n".encode() in said


@rows("H-12", "H-13")
def test_only_a_proxy_over_tor_says_tor_and_announces_isolation() -> None:
    def headers(answers: Answers) -> tuple[str, str, list[str]]:
        [connect] = answers_in(answers.refused(GeneralFailure()))
        [options] = answers_in(answers.options(close=False), "OPTIONS")
        capabilities = connect.headers["tor-capabilities"]
        assert options.headers["tor-capabilities"] == capabilities
        return connect.headers["via"], options.headers["server"], capabilities.split()

    via, server, capabilities = headers(OVER_TOR)
    assert via.startswith("tor/1.0 tor-network (torsocks_tx ")
    assert server.startswith("tor/1.0 (torsocks_tx ")
    assert capabilities == [*ISOLATION_HEADERS, "Tor-Family-Preference"]

    via, server, capabilities = headers(DIRECT)
    assert via == "1.1 torsocks_tx"
    assert server.startswith("torsocks_tx/")
    assert capabilities == ["Tor-Family-Preference"]
    assert headers(Answers(tor=True, isolates=False))[2] == capabilities
    [opened] = answers_in(OVER_TOR.connected)
    assert (opened.status, set(opened.headers)) == (200, {"via", "tor-capabilities"})
