"""Endpoint strings: ``socks:HOST:PORT`` and its options, as any program of Twisted reads them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, clientFromString
from twisted.internet.interfaces import IStreamClientEndpointStringParserWithReactor
from twisted.plugin import IPlugin, getPlugins
from zope.interface.verify import verifyObject

from tests.support.tables import at
from torsocks_tx.client.endpoint import SOCKSClientEndpoint
from torsocks_tx.client.strings import SOCKSClientParser
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.socks.messages import Credentials


def read(text: str) -> SOCKSClientEndpoint:
    endpoint = clientFromString(reactor, text)
    assert isinstance(endpoint, SOCKSClientEndpoint)
    return endpoint


def test_the_plugin_is_found() -> None:
    [parser] = [
        plugin
        for plugin in getPlugins(IStreamClientEndpointStringParserWithReactor)
        if plugin.prefix == "socks"
    ]
    assert isinstance(parser, SOCKSClientParser)
    assert verifyObject(IPlugin, parser)
    assert verifyObject(IStreamClientEndpointStringParserWithReactor, parser)


def test_the_plugin_is_light() -> None:
    code = (
        "import sys, twisted.plugins.torsocks_tx_plugin\n"
        "heavy = {'twisted.internet.reactor', 'txtorcon', 'torsocks_tx.client.endpoint'}\n"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


OPTIONS: list[tuple[str, ClientOptions]] = [
    ("", ClientOptions()),
    (":version=4", ClientOptions(version=4)),
    (":isolation=alice", ClientOptions(isolation=b"alice")),
    (":isolation=", ClientOptions(isolation=b"")),
    (":username=me:password=you", ClientOptions(credentials=Credentials(b"me", b"you"))),
    (":username=me", ClientOptions(credentials=Credentials(b"me", b""))),
    (":password=you", ClientOptions(credentials=Credentials(b"", b"you"))),
    (":timeout=5.5", ClientOptions(timeout=5.5)),
    (":protocol=http:isolation=a", ClientOptions(protocol="http", isolation=b"a")),
    (":extended=no:optimistic=yes", ClientOptions(extended=False, optimistic=True)),
]


@pytest.mark.parametrize(("text", "options"), OPTIONS)
def test_each_option_of_a_string_is_one_of_the_client(text: str, options: ClientOptions) -> None:
    endpoint = read("socks:example.com:443" + text)
    assert endpoint._options == options
    assert endpoint._address == at("example.com", 443)


def test_a_literal_of_ipv6_is_escaped() -> None:
    assert read(r"socks:2001\:db8\:\:1:443")._address == at("2001:db8::1", 443)


PLACES: list[tuple[str, type[Any], dict[str, Any]]] = [
    ("", HostnameEndpoint, {"_hostText": "127.0.0.1", "_port": 9050, "_timeout": 30.0}),
    (
        ":socksHost=proxy.example:socksPort=1080:connectTimeout=2",
        HostnameEndpoint,
        {"_hostText": "proxy.example", "_port": 1080, "_timeout": 2.0},
    ),
    (
        ":socksPath=/run/tor/socks",
        UNIXClientEndpoint,
        {"_path": "/run/tor/socks", "_timeout": 30.0},
    ),
]


@pytest.mark.parametrize(("text", "kind", "attributes"), PLACES)
def test_a_string_says_where_the_server_is(
    text: str, kind: type[Any], attributes: dict[str, Any]
) -> None:
    proxy = read("socks:example.com:443" + text)._proxy
    assert type(proxy) is kind
    assert {name: getattr(proxy, name) for name in attributes} == attributes


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("socks:example.com", "socks:HOST:PORT"),
        ("socks:example.com:x", "socks:HOST:PORT"),
        ("socks:example.com:1:2", "socks:HOST:PORT"),
        ("socks:example.com:8_0", "a port is"),
        ("socks:example.com: 80", "a port is"),
        ("socks:example.com:+80", "a port is"),
        ("socks:example.com:99999", "a port is"),
        ("socks:example.com:0000099999", "a port is"),
        ("socks:exa mple.com:1", "no blanks"),
        ("socks:example.com:1:socksPort=0", "socksPort is '0': a port is"),
        ("socks:example.com:1:socksPort=70000", "a port is"),
        ("socks:example.com:1:socksHost=", "socksHost is empty"),
        ("socks:example.com:1:socksPath=", "socksPath is empty"),
        ("socks:example.com:1:timeout=nan", "timeout=nan: write a number"),
        ("socks:example.com:1:timeout=-1", "seconds above 0"),
        ("socks:example.com:1:timeout=inf", "seconds above 0"),
        ("socks:example.com:1:connectTimeout=nan", "connectTimeout=nan: write a number"),
        ("socks:example.com:1:connectTimeout=-5", "seconds above 0"),
        ("socks:example.com:1:connectTimeout=", "seconds above 0"),
        ("socks:example.com:0", "a port is"),
        ("socks:example.com:1:isolated=x", "unknown option of a socks endpoint: isolated"),
        ("socks:example.com:1:socksPath=/x:socksPort=1", "socksPath"),
        ("socks:example.com:1:extended=maybe", "extended=maybe: write yes or no"),
        ("socks:example.com:1:version=6", "versions 4 and 5"),
        ("socks:example.com:1:version=4:username=a:password=b", "one user id"),
        ("socks:example.com:1:timeout=soon", "soon"),
    ],
)
def test_a_mistake_in_a_string_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        clientFromString(reactor, text)
