"""The managed-transport protocol as text: variables, proxies, and lines to the parent."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import fuzz
from tests.support.tables import at, table
from torsocks_tx.pt import spec
from torsocks_tx.pt.spec import Environment, ProxyKind, UpstreamProxy
from torsocks_tx.socks.messages import Credentials

VERSIONS = "TOR_PT_MANAGED_TRANSPORT_VER"
TRANSPORTS = "TOR_PT_CLIENT_TRANSPORTS"
STATE, STDIN, PROXY = "TOR_PT_STATE_LOCATION", "TOR_PT_EXIT_ON_STDIN_CLOSE", "TOR_PT_PROXY"
BIND4, BIND6 = "TOR_PT_OUTBOUND_BIND_ADDRESS_V4", "TOR_PT_OUTBOUND_BIND_ADDRESS_V6"
NO_VERSION = f"ENV-ERROR no {VERSIONS} environment variable"
NO_CLIENT = f"ENV-ERROR no {TRANSPORTS}: this is the client's side only"
KIND = "PROXY-ERROR the kind of proxy is not supported"
WHERE = "PROXY-ERROR the proxy is not given by IP address and port"
PORT = "PROXY-ERROR the port of the proxy is out of range"
HTTP_USER = "PROXY-ERROR HTTP has no user names with a colon"
SOCKS5_USER = "PROXY-ERROR SOCKS5 has room for 255 bytes of user name and of password"
SOCKS4_USER = "PROXY-ERROR SOCKS4 has user names only, without a NUL"
S5, S4, HTTP = ProxyKind.SOCKS5, ProxyKind.SOCKS4A, ProxyKind.HTTP
PLACE = at("192.0.2.1", 8001)
LONGEST = "u" * 255


@pytest.mark.parametrize("versions", ["1", "1,1a,2b,this_is_a_valid_ver", "2,1", "0,1,2"])
def test_version_1_is_found_in_a_list(versions: str) -> None:
    spec.check_version({VERSIONS: versions})


@pytest.mark.parametrize(
    ("more", "expected"),
    table(
        ("the least", {}, {}),
        ("several transports", {TRANSPORTS: "o3,veil,_x9"}, {"transports": ("o3", "veil", "_x9")}),
        ("invalid names", {TRANSPORTS: "9a,,a-b,*"}, {"transports": ()}),
        ("a directory", {STATE: "/tor/state/"}, {"state_location": PurePath("/tor/state")}),
        ("the end of standard input", {STDIN: "1"}, {"exit_on_stdin_close": True}),
        ("not the end of standard input", {STDIN: "0"}, {}),
        ("a proxy", {PROXY: "socks5://127.0.0.1:1"}, {"proxy": "socks5://127.0.0.1:1"}),
        ("no proxy", {PROXY: ""}, {}),
        (
            "source addresses",
            {BIND4: "203.0.113.4", BIND6: "[2001:DB8::4]"},
            {"bind_v4": "203.0.113.4", "bind_v6": "2001:db8::4"},
        ),
        ("IPv6 without brackets", {BIND6: "2001:db8::4"}, {"bind_v6": "2001:db8::4"}),
        ("the server's side too", {"TOR_PT_SERVER_TRANSPORTS": "veil"}, {}),
    ),
)
def test_environment_is_read(more: dict[str, str], expected: dict[str, Any]) -> None:
    wanted = Environment(**{"transports": ("veil",), **expected})
    assert spec.read_environment({TRANSPORTS: "veil", **more}) == wanted


@pytest.mark.parametrize(
    ("uri", "proxy"),
    table(
        ("socks5", "socks5://192.0.2.1:8001", UpstreamProxy(S5, PLACE)),
        ("socks4a", "socks4a://192.0.2.1:8001", UpstreamProxy(S4, PLACE)),
        ("http", "http://192.0.2.1:8001", UpstreamProxy(HTTP, PLACE)),
        ("capitals", "HTTP://192.0.2.1:8001", UpstreamProxy(HTTP, PLACE)),
        ("a slash at the end", "http://192.0.2.1:8001/", UpstreamProxy(HTTP, PLACE)),
        ("IPv6", "socks5://[2001:db8::1]:1", UpstreamProxy(S5, at("2001:db8::1", 1))),
        *(
            (name, f"{kind.value}://{user}@192.0.2.1:8001", UpstreamProxy(kind, PLACE, parsed))
            for name, kind, user, parsed in [
                ("user and password", S5, "me:you", Credentials(b"me", b"you")),
                ("user alone", S4, "me", Credentials(b"me")),
                ("percent-encoded", HTTP, "m%40e:%79ou%3a", Credentials(b"m@e", b"you:")),
                ("as tor writes it", HTTP, "me:a@b:c%/?#", Credentials(b"me", b"a@b:c%/?#")),
                (
                    "bytes that are not text",
                    S5,
                    os.fsdecode(b"m\xe9:y%ff\xe8"),
                    Credentials(b"m\xe9", b"y\xff\xe8"),
                ),
                ("the longest", S5, f"{LONGEST}:{LONGEST}", Credentials(*[LONGEST.encode()] * 2)),
            ]
        ),
    ),
)
def test_proxy_is_parsed(uri: str, proxy: UpstreamProxy) -> None:
    assert spec.parse_proxy(uri) == proxy


@pytest.mark.parametrize(
    ("read", "value", "line"),
    table(
        ("another version", spec.check_version, {VERSIONS: "2"}, "VERSION-ERROR no-version"),
        ("nearly 1", spec.check_version, {VERSIONS: "1a,11"}, "VERSION-ERROR no-version"),
        ("no version", spec.check_version, {}, NO_VERSION),
        ("empty version", spec.check_version, {VERSIONS: ""}, NO_VERSION),
        ("nothing", spec.read_environment, {}, NO_CLIENT),
        ("a server", spec.read_environment, {"TOR_PT_SERVER_TRANSPORTS": "veil"}, NO_CLIENT),
        (
            "a relative directory",
            spec.read_environment,
            {TRANSPORTS: "veil", STATE: "pt_state"},
            f"ENV-ERROR {STATE} is not an absolute path",
        ),
        *(
            (
                f"source address {text}",
                spec.read_environment,
                {TRANSPORTS: "veil", name: text},
                f"ENV-ERROR {name} is not an IP{name[-2:].lower()} address",
            )
            for name, texts in [(BIND4, ("::1", "host", "[1.2.3.4]")), (BIND6, ("1.2.3.4", "["))]
            for text in texts
        ),
        *(
            (f"proxy {uri[:60]}", spec.parse_proxy, uri, line)
            for line, uris in [
                (KIND, ("https://192.0.2.1:8001", "socks4://192.0.2.1:8001")),
                (KIND, ("192.0.2.1:8001", "")),
                (WHERE, ("socks5", "socks5://", "socks5://proxy.example.com:8001")),
                (WHERE, ("socks5://192.0.2.1", "socks5://192.0.2.1:")),
                (WHERE, ("http://192.0.2.1:8001/path", "http://[192.0.2.1]:8001")),
                (WHERE, ("http://2001:db8::1:8001", "http://1.2.3:8001")),
                (PORT, ("socks5://192.0.2.1:0", "socks5://192.0.2.1:65536")),
                (SOCKS5_USER, (f"socks5://u{LONGEST}@192.0.2.1:8001",)),
                (SOCKS4_USER, ("socks4a://me:hunter2@192.0.2.1:8001",)),
                (SOCKS4_USER, ("socks4a://m%00e@192.0.2.1:8001",)),
                (HTTP_USER, ("http://m%3Ae:x@192.0.2.1:8001",)),
            ]
            for uri in uris
        ),
    ),
)
def test_unusable_value_is_refused_in_one_line(
    read: Callable[[Any], object], value: Mapping[str, str] | str, line: str
) -> None:
    with pytest.raises(spec.Unusable) as caught:
        read(value)
    assert str(caught.value) == line


def test_password_of_a_proxy_is_not_shown() -> None:
    assert "hunter2" not in repr(Environment((), proxy="socks5://me:hunter2@127.0.0.1:1"))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("ENV-ERROR no such thing", b"ENV-ERROR no such thing\n"),
        ("ENV-ERROR a\nb\0c\rd\u00e9", b"ENV-ERROR a?b?c?d?\n"),
        (spec.log("warning", "hello"), b'LOG SEVERITY=warning MESSAGE="hello"\n'),
        (
            spec.log("error", 'a "b" \\ c\nd\r\0\u00e9'),
            b'LOG SEVERITY=error MESSAGE="a \\"b\\" \\\\ c\\nd\\015\\000\\303\\251"\n',
        ),
        (spec.status("veil", {}), b"STATUS TRANSPORT=veil\n"),
        (
            spec.status("veil", {"CONNECT": "Success", "WHY": 'a "b"'}),
            b'STATUS TRANSPORT=veil CONNECT="Success" WHY="a \\"b\\""\n',
        ),
    ],
)
def test_line_is_written_as_in_pt_spec(line: str, text: bytes) -> None:
    assert spec.line(line) == text


@pytest.mark.parametrize("key", ["", "A B", "A=B", "A\n", "\u00c9"])
def test_status_key_that_is_not_a_word_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        spec.status("veil", {key: "value"})


@given(text=st.text())
@fuzz
def test_any_text_is_one_line_of_ascii(text: str) -> None:
    for each in (text, spec.log("info", text), spec.status("veil", {"K": text})):
        line = spec.line(each)
        assert line.index(b"\n") == len(line) - 1
        assert all(32 <= byte < 127 for byte in line[:-1])


def test_long_message_is_cut_short() -> None:
    assert len(spec.log("info", "\0" * 100_000)) < 4 * spec.MAX_TEXT + 100
