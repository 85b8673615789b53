"""What parents tell, and what cannot be used of it."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from tests.support.tables import table
from torsocks_tx.pt import environment
from torsocks_tx.pt.environment import Environment, Unusable

VERSIONS = "TOR_PT_MANAGED_TRANSPORT_VER"
CLIENT = {"TOR_PT_CLIENT_TRANSPORTS": "veil"}


@pytest.mark.parametrize("versions", ["1", "1,1a,2b,this_is_a_valid_ver", "2,1", "0,1,2"])
def test_versions_that_will_do(versions: str) -> None:
    environment.check_version({VERSIONS: versions})


@pytest.mark.parametrize(
    ("environ", "line"),
    table(
        [
            ("another", {VERSIONS: "2"}, b"VERSION-ERROR no-version\n"),
            ("nearly", {VERSIONS: "1a,11"}, b"VERSION-ERROR no-version\n"),
            ("none", {}, b"ENV-ERROR no TOR_PT_MANAGED_TRANSPORT_VER environment variable\n"),
            (
                "empty",
                {VERSIONS: ""},
                b"ENV-ERROR no TOR_PT_MANAGED_TRANSPORT_VER environment variable\n",
            ),
        ]
    ),
)
def test_versions_that_will_not(environ: dict[str, str], line: bytes) -> None:
    with pytest.raises(Unusable) as caught:
        environment.check_version(environ)
    assert caught.value.line == line


USABLE = table(
    [
        ("the least", CLIENT, Environment(("veil",))),
        (
            "several transports",
            {"TOR_PT_CLIENT_TRANSPORTS": "obfs3,veil,_x9"},
            Environment(("obfs3", "veil", "_x9")),
        ),
        ("names that are none", {"TOR_PT_CLIENT_TRANSPORTS": "9a,,a-b,*"}, Environment(())),
        (
            "a directory",
            {**CLIENT, "TOR_PT_STATE_LOCATION": "/var/lib/tor/pt_state/"},
            Environment(("veil",), state_location=PurePath("/var/lib/tor/pt_state")),
        ),
        (
            "the end of standard input",
            {**CLIENT, "TOR_PT_EXIT_ON_STDIN_CLOSE": "1"},
            Environment(("veil",), exit_on_stdin_close=True),
        ),
        (
            "not the end of standard input",
            {**CLIENT, "TOR_PT_EXIT_ON_STDIN_CLOSE": "0"},
            Environment(("veil",)),
        ),
        (
            "a proxy",
            {**CLIENT, "TOR_PT_PROXY": "socks5://127.0.0.1:8001"},
            Environment(("veil",), proxy="socks5://127.0.0.1:8001"),
        ),
        ("no proxy", {**CLIENT, "TOR_PT_PROXY": ""}, Environment(("veil",))),
        (
            "source addresses",
            {
                **CLIENT,
                "TOR_PT_OUTBOUND_BIND_ADDRESS_V4": "203.0.113.4",
                "TOR_PT_OUTBOUND_BIND_ADDRESS_V6": "[2001:DB8::4]",
            },
            Environment(("veil",), bind_v4="203.0.113.4", bind_v6="2001:db8::4"),
        ),
        (
            "a source address without brackets",
            {**CLIENT, "TOR_PT_OUTBOUND_BIND_ADDRESS_V6": "2001:db8::4"},
            Environment(("veil",), bind_v6="2001:db8::4"),
        ),
        (
            "both sides, as a parent might leave them",
            {**CLIENT, "TOR_PT_SERVER_TRANSPORTS": "veil"},
            Environment(("veil",)),
        ),
    ]
)
UNUSABLE = table(
    [
        ("nothing", {}, b"ENV-ERROR no TOR_PT_CLIENT_TRANSPORTS: this is the client's side only\n"),
        (
            "the server's side",
            {"TOR_PT_SERVER_TRANSPORTS": "veil"},
            b"ENV-ERROR no TOR_PT_CLIENT_TRANSPORTS: this is the client's side only\n",
        ),
        (
            "a relative directory",
            {**CLIENT, "TOR_PT_STATE_LOCATION": "pt_state"},
            b"ENV-ERROR TOR_PT_STATE_LOCATION is not an absolute path\n",
        ),
        *(
            (
                f"source address {text}",
                {**CLIENT, f"TOR_PT_OUTBOUND_BIND_ADDRESS_V{version}": text},
                f"ENV-ERROR TOR_PT_OUTBOUND_BIND_ADDRESS_V{version} is not an IPv{version}"
                " address\n",
            )
            for version, text in [
                (4, "::1"),
                (4, "host"),
                (4, "[1.2.3.4]"),
                (6, "1.2.3.4"),
                (6, "["),
            ]
        ),
    ]
)


@pytest.mark.parametrize(("environ", "value"), USABLE)
def test_what_can_be_used(environ: dict[str, str], value: Environment) -> None:
    assert environment.read(environ) == value


@pytest.mark.parametrize(("environ", "line"), UNUSABLE)
def test_what_cannot_be_used(environ: dict[str, str], line: bytes | str) -> None:
    with pytest.raises(Unusable) as caught:
        environment.read(environ)
    assert caught.value.line == (line.encode() if isinstance(line, str) else line)
    assert str(caught.value) + "\n" == caught.value.line.decode()


def test_a_proxys_password_is_not_shown() -> None:
    assert "hunter2" not in repr(Environment((), proxy="socks5://me:hunter2@127.0.0.1:1"))


@pytest.mark.parametrize(
    ("name", "valid"), [("veil", True), ("_1", True), ("", False), ("1", False)]
)
def test_names(name: str, valid: bool) -> None:
    assert environment.is_transport_name(name) is valid
