"""Which proxies can be used, and which cannot and so end the program."""

from __future__ import annotations

import os

import pytest

from tests.support.tables import at, table
from torsocks_tx.pt import proxy_uri
from torsocks_tx.pt.environment import Unusable
from torsocks_tx.pt.proxy_uri import ProxyKind, UpstreamProxy
from torsocks_tx.socks.messages import Credentials

S5, S4, HTTP = ProxyKind.SOCKS5, ProxyKind.SOCKS4A, ProxyKind.HTTP
PLACE = at("192.0.2.1", 8001)
USABLE = table(
    [
        ("socks5", "socks5://192.0.2.1:8001", UpstreamProxy(S5, PLACE)),
        ("socks4a", "socks4a://192.0.2.1:8001", UpstreamProxy(S4, PLACE)),
        ("http", "http://192.0.2.1:8001", UpstreamProxy(HTTP, PLACE)),
        ("capitals", "HTTP://192.0.2.1:8001", UpstreamProxy(HTTP, PLACE)),
        ("a slash at the end", "http://192.0.2.1:8001/", UpstreamProxy(HTTP, PLACE)),
        ("IPv6", "socks5://[2001:db8::1]:1", UpstreamProxy(S5, at("2001:db8::1", 1))),
        (
            "user and password",
            "socks5://me:you@192.0.2.1:8001",
            UpstreamProxy(S5, PLACE, Credentials(b"me", b"you")),
        ),
        (
            "user alone",
            "socks4a://me@192.0.2.1:8001",
            UpstreamProxy(S4, PLACE, Credentials(b"me")),
        ),
        (
            "percent-encoded",
            "http://m%40e:%79ou%3a@192.0.2.1:8001",
            UpstreamProxy(HTTP, PLACE, Credentials(b"m@e", b"you:")),
        ),
        (
            "as tor writes it",
            "http://me:a@b:c%/?#@192.0.2.1:8001",
            UpstreamProxy(HTTP, PLACE, Credentials(b"me", b"a@b:c%/?#")),
        ),
        (
            "bytes that are no text",
            os.fsdecode(b"socks5://m\xe9:y%ff\xe8@192.0.2.1:8001"),
            UpstreamProxy(S5, PLACE, Credentials(b"m\xe9", b"y\xff\xe8")),
        ),
        (
            "the longest",
            f"socks5://{'u' * 255}:{'p' * 255}@192.0.2.1:8001",
            UpstreamProxy(S5, PLACE, Credentials(b"u" * 255, b"p" * 255)),
        ),
    ]
)
KIND = "the kind of proxy is not supported"
WHERE = "the proxy is not given by IP address and port"
UNUSABLE = table(
    [
        ("https", "https://192.0.2.1:8001", KIND),
        ("socks4", "socks4://192.0.2.1:8001", KIND),
        ("no scheme", "192.0.2.1:8001", KIND),
        ("nothing", "", KIND),
        ("a scheme alone", "socks5", WHERE),
        ("nothing behind the scheme", "socks5://", WHERE),
        ("a name", "socks5://proxy.example.com:8001", WHERE),
        ("no port", "socks5://192.0.2.1", WHERE),
        ("an empty port", "socks5://192.0.2.1:", WHERE),
        ("port 0", "socks5://192.0.2.1:0", "the port of the proxy is out of range"),
        ("port 65536", "socks5://192.0.2.1:65536", "the port of the proxy is out of range"),
        ("a path", "http://192.0.2.1:8001/path", WHERE),
        ("IPv4 in brackets", "http://[192.0.2.1]:8001", WHERE),
        ("IPv6 without brackets", "http://2001:db8::1:8001", WHERE),
        ("no IP address", "http://1.2.3:8001", WHERE),
        (
            "a long user",
            f"socks5://{'u' * 256}@192.0.2.1:8001",
            "SOCKS5 has room for 255 bytes of user name and of password",
        ),
        (
            "a password for SOCKS4",
            "socks4a://me:hunter2@192.0.2.1:8001",
            "SOCKS4 has user names only, without a NUL",
        ),
        (
            "a NUL for SOCKS4",
            "socks4a://m%00e@192.0.2.1:8001",
            "SOCKS4 has user names only, without a NUL",
        ),
        (
            "a colon for HTTP",
            "http://m%3Ae:x@192.0.2.1:8001",
            "HTTP has no user names with a colon",
        ),
    ]
)


@pytest.mark.parametrize(("uri", "value"), USABLE)
def test_what_can_be_used(uri: str, value: UpstreamProxy) -> None:
    assert proxy_uri.parse(uri) == value


@pytest.mark.parametrize(("uri", "message"), UNUSABLE)
def test_what_cannot_be_used(uri: str, message: str) -> None:
    with pytest.raises(Unusable) as caught:
        proxy_uri.parse(uri)
    assert caught.value.line == f"PROXY-ERROR {message}\n".encode()
