"""Where a server may listen, and how ``--listen`` is read."""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from tests.support.rows import rows
from torsocks_tx.server.listen import (
    ListenError,
    bound_privately,
    check_reach,
    describe,
    parse_listener,
)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:/run/x", "unix:/run/x"),
        ("systemd:domain=INET:index=0", "systemd:domain=INET:index=0"),
        ("'unix:/run/a b' ExtendedErrors", "unix:/run/a b"),
        ("unix:x", "unix:/base/x"),
        ("unix:address=x:mode=660", "unix:/base/x:mode=660"),
        (r"unix:a\:b\=c", r"unix:/base/a\:b\=c"),
    ],
)
def test_the_paths_of_sockets_are_made_absolute(text: str, endpoint: str) -> None:
    assert parse_listener(text, "/base").endpoint == endpoint


def test_flags_follow_the_endpoint() -> None:
    listener = parse_listener("tcp:0:interface=127.0.0.1 ExtendedErrors CacheDNS")
    assert listener.policy.extended_errors
    assert len(listener.notes) == 1


@pytest.mark.parametrize("text", ["", "  ", "1080", "127.0.0.1:1080", "'unclosed", "tcp:1 Bogus"])
def test_mistakes_name_the_value(text: str) -> None:
    with pytest.raises(ListenError) as caught:
        parse_listener(text)
    assert str(caught.value).startswith(f"{text!r}: ")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tcp:1 ProxyProtocol", "say which balancers are trusted"),
        ("tcp6:1 ProxyProtocol=", "say which balancers are trusted"),
        ("systemd:domain=INET:index=0 ProxyProtocol", "say which balancers are trusted"),
        ("ssl:1 ProxyProtocol=192.0.2.1", "is for tcp, tcp6, unix and systemd"),
        ("haproxy:tcp:1", "in place of haproxy: write the flag ProxyProtocol"),
    ],
)
def test_where_proxy_headers_cannot_be_believed(text: str, complaint: str) -> None:
    with pytest.raises(ListenError, match=complaint):
        parse_listener(text)


@pytest.mark.parametrize("place", ["unix:/x", "systemd:domain=UNIX:index=0"])
def test_proxy_headers_by_unix_sockets_need_no_list_of_senders(place: str) -> None:
    assert parse_listener(f"{place} ProxyProtocol").policy.proxy_protocol == ()


PRIVATE = [
    "tcp:1080:interface=127.0.0.1",
    "tcp:1080:interface=127.9.9.9",
    "tcp:port=1080:interface=localhost",
    r"tcp6:1080:interface=\:\:1",
    "unix:/run/x",
    "systemd:domain=UNIX:index=0",
]
PUBLIC = [
    "tcp:1080",
    "tcp:1080:interface=",
    "tcp:1080:interface=0.0.0.0",
    "tcp:1080:interface=192.0.2.1",
    "tcp6:1080",
    r"tcp6:1080:interface=\:\:",
    r"tcp6:1080:interface=\:\:0.0.0.0",
    "tcp:1080:50",
    "tcp:1080:127.0.0.1",
    "tcp:port=1080",
    "tcp:1080:interface=127.0.0.1:interface=0.0.0.0",
    *(f"tcp:1080:interface={host}" for host in ("0", "*", "0x0", "127.1", "2130706433")),
    *(f"tcp:1080:interface={host}" for host in ("127.0.0.1.", "localhost.", "127.0.0.1%lo")),
    r"tcp:1080:interface=\:\:ffff\:0.0.0.0",
]
UNKNOWN = ["ssl:1080:interface=127.0.0.1", "onion:80"]


@rows("R-33")
@pytest.mark.parametrize("text", PRIVATE)
def test_private_listeners_need_nothing(text: str) -> None:
    check_reach(parse_listener(text), authenticated=False)


@rows("R-33", "P-38")
@pytest.mark.parametrize("text", PUBLIC)
def test_public_listeners_need_passwords_or_a_word(text: str) -> None:
    with pytest.raises(
        ListenError, match=r"others could reach this proxy.*--auth.*authenticator=.*AllowPublic"
    ):
        check_reach(parse_listener(text), authenticated=False)
    check_reach(parse_listener(text), authenticated=True)
    check_reach(parse_listener(f"{text} AllowPublic"), authenticated=False)


def test_an_address_in_the_place_of_the_port_is_not_repeated_in_the_advice() -> None:
    with pytest.raises(ListenError, match=r"Write tcp:1080:interface=127\.0\.0\.1 to serve"):
        check_reach(parse_listener("tcp:127.0.0.1:1080"), authenticated=False)


@pytest.mark.parametrize("text", UNKNOWN)
def test_kinds_whose_reach_is_not_known_need_the_word(text: str) -> None:
    for authenticated in (False, True):
        with pytest.raises(ListenError, match="AllowPublic"):
            check_reach(parse_listener(text), authenticated=authenticated)
    check_reach(parse_listener(f"{text} AllowPublic"), authenticated=False)


@pytest.mark.parametrize(
    ("address", "private", "text"),
    [
        (IPv4Address("TCP", "127.0.0.1", 1), True, "127.0.0.1:1"),
        (IPv4Address("TCP", "0.0.0.0", 1), False, "0.0.0.0:1"),
        (IPv6Address("TCP", "::1", 1), True, "[::1]:1"),
        (IPv6Address("TCP", "::", 1), False, "[::]:1"),
        (UNIXAddress("/run/x"), True, "unix:/run/x"),
    ],
)
def test_bound_addresses(address: object, private: bool, text: str) -> None:
    assert bound_privately(address) is private
    assert describe(address) == text
