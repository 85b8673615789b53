"""What an HTTP proxy answers, both ways: the table of failures, and the bytes of each answer.

The headers are those of Tor's http-connect and of RFC 9209 (``Proxy-Status``). Nothing of a request
is repeated in an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from importlib import metadata
from typing import NamedTuple

from torsocks_tx import errors
from torsocks_tx.errors import SOCKSError

PROXY_AUTHORIZATION = "Proxy-Authorization"
STREAM_ISOLATION = "Tor-Stream-Isolation"
OLD_STREAM_ISOLATION = "X-Tor-Stream-Isolation"
FAMILY_PREFERENCE = "Tor-Family-Preference"

ISOLATION_HEADERS = (PROXY_AUTHORIZATION, STREAM_ISOLATION, OLD_STREAM_ISOLATION)
"""Two streams share circuits only if they agree in each of these, as values or as absent."""

_NAME = "torsocks_tx"
_REALM = (("Proxy-Authenticate", f'Basic realm="{_NAME}", charset="UTF-8"'),)
_ALLOW = (("Allow", "CONNECT, OPTIONS"),)
_TEXT = (("Content-Type", "text/plain; charset=utf-8"),)
_CLOSE = (("Connection", "close"),)


class Meaning(NamedTuple):
    """How a failure is told: a status, an error type of RFC 9209, and a word of our own."""

    status: int
    error: str
    token: str


MEANINGS: dict[type[SOCKSError], Meaning] = {
    errors.GeneralFailure: Meaning(502, "connection_terminated", "failed"),
    errors.NotAllowed: Meaning(403, "http_request_denied", "not-allowed"),
    errors.NoSuchExit: Meaning(403, "http_request_denied", "no-such-exit"),
    errors.NetworkUnreachable: Meaning(503, "destination_ip_unroutable", "network-unreachable"),
    errors.HostUnreachable: Meaning(503, "destination_unavailable", "host-unreachable"),
    errors.ConnectionRefused: Meaning(403, "connection_refused", "connection-refused"),
    errors.TimedOut: Meaning(504, "connection_timeout", "timed-out"),
    errors.CommandNotSupported: Meaning(501, "http_request_error", "command-not-supported"),
    errors.AddressTypeNotSupported: Meaning(
        501, "destination_ip_prohibited", "address-type-not-supported"
    ),
    errors.DescriptorNotFound: Meaning(503, "destination_not_found", "onion-descriptor-not-found"),
    errors.DescriptorInvalid: Meaning(503, "destination_unavailable", "onion-descriptor-invalid"),
    errors.IntroductionFailed: Meaning(503, "destination_unavailable", "onion-introduction-failed"),
    errors.RendezvousFailed: Meaning(503, "destination_unavailable", "onion-rendezvous-failed"),
    errors.MissingClientAuth: Meaning(403, "http_request_denied", "onion-missing-client-auth"),
    errors.WrongClientAuth: Meaning(403, "http_request_denied", "onion-wrong-client-auth"),
    errors.InvalidOnionAddress: Meaning(400, "http_request_error", "onion-invalid-address"),
    errors.IntroductionTimedOut: Meaning(504, "connection_timeout", "onion-introduction-timed-out"),
    errors.ProxyFault: Meaning(502, "proxy_internal_error", "proxy-fault"),
    errors.Internal: Meaning(500, "proxy_internal_error", "internal"),
    errors.Busy: Meaning(503, "connection_limit_reached", "busy"),
    errors.NoFreshCircuit: Meaning(503, "connection_limit_reached", "no-fresh-circuit"),
    errors.TorDown: Meaning(502, "proxy_internal_error", "tor-down"),
    errors.NoSuchPort: Meaning(501, "proxy_configuration_error", "no-such-port"),
    errors.ProxyUnreachable: Meaning(502, "proxy_internal_error", "proxy-unreachable"),
    errors.ProxyBroken: Meaning(502, "proxy_internal_error", "proxy-broken"),
    errors.LoginRefused: Meaning(502, "proxy_configuration_error", "login-refused"),
    errors.LoginRequired: Meaning(502, "proxy_configuration_error", "login-required"),
    errors.ArgumentsRefused: Meaning(502, "proxy_configuration_error", "arguments-refused"),
    errors.NotIsolated: Meaning(502, "proxy_configuration_error", "not-isolated"),
    errors.OnionNotFound: Meaning(503, "destination_not_found", "onion-not-found"),
    errors.OnionNotReachable: Meaning(503, "destination_unavailable", "onion-not-reachable"),
}
"""The one table of failures; a class that is not in it is told as its nearest base."""

WANTS_LOGIN = "This proxy wants a user name and a password."
_LOGIN = Meaning(407, "http_request_denied", MEANINGS[errors.LoginRefused].token)


def meaning_of(reason: SOCKSError) -> Meaning:
    """Return how a failure is told."""
    kinds = (kind for kind in type(reason).__mro__ if kind in MEANINGS)
    return MEANINGS[next(kinds, errors.GeneralFailure)]


def build(
    status: int, headers: Iterable[tuple[str, str]], body: str | None = None, why: str = ""
) -> bytes:
    """Return the bytes of an answer; ``body`` is a sentence, None for an answer without a body."""
    phrase = HTTPStatus(status).phrase + (f" ({why})" if why else "")
    lines = [f"HTTP/1.1 {status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    text = "" if body is None else f"{body}\n"
    if body is not None:
        lines.append(f"Content-Length: {len(text)}")
    return "\r\n".join([*lines, "", text]).encode("ascii")


@cache
def _version() -> str:
    try:
        return metadata.version(_NAME)
    except metadata.PackageNotFoundError:  # used from a directory, without being installed
        return "unknown"


class Answers:
    """The answers of one listener.

    ``tor``: its streams go over the Tor network. ``isolates``: the headers of a request decide
    which streams may share a circuit.
    """

    def __init__(self, *, tor: bool, isolates: bool) -> None:
        version = _version()
        via, server = f"1.1 {_NAME}", f"{_NAME}/{version}"
        if tor:
            via = f"tor/1.0 tor-network ({_NAME} {version})"
            server = f"tor/1.0 ({_NAME} {version})"
        headers = [*(ISOLATION_HEADERS if tor and isolates else ()), FAMILY_PREFERENCE]
        capabilities = ("Tor-Capabilities", " ".join(headers))
        self._to_connect = (("Via", via), capabilities)
        self._to_others = (("Server", server), capabilities)
        self.connected = build(200, self._to_connect)

    def connected_by(self, exit_text: str) -> bytes:
        """Return the answer for a stream whose exit was asked for: fingerprint and country."""
        return build(200, (*self._to_connect, ("Torsocks-Exit", exit_text)))

    def refused(self, reason: SOCKSError) -> bytes:
        """Return the answer to a request that was not carried out; it ends the connection."""
        return self._failed(meaning_of(reason), reason.sentence, _CLOSE)

    def mistaken(self, status: int, sentence: str) -> bytes:
        """Return the answer to a request that is not as it should be; it ends the connection."""
        token = "command-not-supported" if status == 501 else "protocol-error"
        return self._failed(Meaning(status, "http_request_error", token), sentence, _CLOSE)

    def ask_for_credentials(self, sentence: str = WANTS_LOGIN, *, close: bool) -> bytes:
        """Return the answer that asks for a user name and a password."""
        return self._failed(_LOGIN, sentence, (*_REALM, *(_CLOSE if close else ())))

    def _failed(self, meaning: Meaning, sentence: str, more: Iterable[tuple[str, str]]) -> bytes:
        status, error, token = meaning
        failed = (
            ("Tor-Request-Failed", f"{_NAME}/{token}"),
            ("Proxy-Status", f'{_NAME}; error={error}; details="{sentence}"'),
        )
        headers = (*self._to_connect, *failed, *_TEXT, *more)
        return build(status, headers, sentence, token.replace("-", " "))

    def options(self, *, close: bool) -> bytes:
        """Return the answer to OPTIONS: what this proxy can do."""
        headers = (*self._to_others, *_ALLOW, ("Content-Length", "0"), *(_CLOSE if close else ()))
        return build(200, headers)

    def method_not_allowed(self) -> bytes:
        """Return the answer to any other method; it ends the connection."""
        sentence = "This proxy has the methods CONNECT and OPTIONS only."
        headers = (*self._to_others, *_ALLOW, *_TEXT, *_CLOSE)
        return build(405, headers, sentence)


# From an answer back to its meaning.

_BY_END: dict[type[SOCKSError], str] = {
    errors.HostUnreachable: "RESOLVEFAILED NOROUTE",
    errors.ConnectionRefused: "CONNECTREFUSED CONNRESET DONE",
    errors.NotAllowed: "EXITPOLICY",
    errors.TimedOut: "TIMEOUT",
    errors.GeneralFailure: "DESTROY HIBERNATING INTERNAL RESOURCELIMIT TORPROTOCOL",
}
_BY_TOKEN: dict[str, type[SOCKSError]] = {
    **{f"{_NAME}/{meaning.token}": kind for kind, meaning in MEANINGS.items()},
    **{f"end/{reason}": kind for kind, all_of in _BY_END.items() for reason in all_of.split()},
    "c-tor/NET_UNREACHABLE": errors.NetworkUnreachable,
}
_BY_ERROR: dict[str, type[SOCKSError]] = {
    "dns_timeout": errors.HostUnreachable,
    "dns_error": errors.HostUnreachable,
    "destination_not_found": errors.HostUnreachable,
    "destination_unavailable": errors.HostUnreachable,
    "destination_ip_unroutable": errors.NetworkUnreachable,
    "destination_ip_prohibited": errors.NotAllowed,
    "http_request_denied": errors.NotAllowed,
    "connection_refused": errors.ConnectionRefused,
    "connection_terminated": errors.GeneralFailure,
    "connection_timeout": errors.TimedOut,
    "connection_limit_reached": errors.Busy,
    "proxy_internal_error": errors.ProxyFault,
    "proxy_configuration_error": errors.ProxyFault,
}
_BY_STATUS: dict[int, type[SOCKSError]] = {
    403: errors.NotAllowed,
    405: errors.NotAllowed,
    502: errors.HostUnreachable,
    503: errors.HostUnreachable,
    504: errors.TimedOut,
}
_ERROR = re.compile(r";\s*error=([a-z_]+)")


def refusal(
    status: int, headers: Mapping[str, str], *, has_target: bool = True, has_login: bool = True
) -> SOCKSError:
    """Return what the answer of a proxy means; ``headers`` by their names in lower case.

    What tor or torsocks_tx says of a failure goes before ``Proxy-Status``, and that before the
    status. ``has_target`` off: the request was OPTIONS, so that a status alone is about the proxy.
    ``has_login``: whether the request had one.
    """
    kinds = [_BY_TOKEN.get(token) for token in headers.get("tor-request-failed", "").split()]
    kinds += [_BY_ERROR.get(error) for error in _ERROR.findall(headers.get("proxy-status", ""))]
    by_status = _BY_STATUS.get(status, errors.GeneralFailure) if has_target else errors.ProxyFault
    kind = next(filter(None, kinds), by_status)
    if status == 407:
        kind = errors.LoginRefused if has_login else errors.LoginRequired
    return kind(f"the HTTP proxy answered {status}")
