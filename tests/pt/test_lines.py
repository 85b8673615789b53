"""Every line that a transport can say, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import fuzz
from tests.support.tables import table
from torsocks_tx.pt import lines

LINES = table(
    [
        ("version", lines.VERSION, b"VERSION 1\n"),
        ("no version", lines.VERSION_ERROR, b"VERSION-ERROR no-version\n"),
        ("proxy", lines.PROXY_DONE, b"PROXY DONE\n"),
        ("methods", lines.CMETHODS_DONE, b"CMETHODS DONE\n"),
        ("environment", lines.env_error("no such thing"), b"ENV-ERROR no such thing\n"),
        ("bad proxy", lines.proxy_error("not this one"), b"PROXY-ERROR not this one\n"),
        ("IPv4", lines.cmethod("veil", "127.0.0.1", 80), b"CMETHOD veil socks5 127.0.0.1:80\n"),
        ("IPv6", lines.cmethod("veil", "::1", 65535), b"CMETHOD veil socks5 [::1]:65535\n"),
        ("bad method", lines.cmethod_error("veil", "full"), b"CMETHOD-ERROR veil full\n"),
        ("breaks", lines.env_error("a\nb\0c\rdé"), b"ENV-ERROR a?b?c?d?\n"),
        ("log", lines.log("warning", "hello"), b'LOG SEVERITY=warning MESSAGE="hello"\n'),
        ("empty log", lines.log("debug", ""), b'LOG SEVERITY=debug MESSAGE=""\n'),
        (
            "quotes and breaks",
            lines.log("error", 'a "b" \\ c\nd\r\0é'),
            b'LOG SEVERITY=error MESSAGE="a \\"b\\" \\\\ c\\nd\\015\\000\\303\\251"\n',
        ),
        ("status", lines.status("veil", {}), b"STATUS TRANSPORT=veil\n"),
        (
            "status with values",
            lines.status("veil", {"CONNECT": "Success", "WHY": 'a "b"'}),
            b'STATUS TRANSPORT=veil CONNECT="Success" WHY="a \\"b\\""\n',
        ),
    ]
)


@pytest.mark.parametrize(("line", "text"), LINES)
def test_lines(line: bytes, text: bytes) -> None:
    assert line == text


@pytest.mark.parametrize("severity", ["warn", "", "NOTICE", "critical"])
def test_severities_that_the_parent_does_not_know(severity: str) -> None:
    with pytest.raises(ValueError, match="severity"):
        lines.log(severity, "hello")


@pytest.mark.parametrize("key", ["", "A B", "A=B", "A\n", "É"])
def test_keys_that_are_no_words(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        lines.status("veil", {key: "value"})


@given(text=st.text())
@fuzz
def test_any_text_is_one_line_of_ascii(text: str) -> None:
    for line in (
        lines.env_error(text),
        lines.cmethod_error("veil", text),
        lines.log("info", text),
        lines.status("veil", {"K": text}),
    ):
        assert line.index(b"\n") == len(line) - 1
        assert all(32 <= byte < 127 for byte in line[:-1])


def test_messages_have_an_end() -> None:
    assert len(lines.log("info", "\0" * 100_000)) < 4 * lines.MAX_TEXT + 100
