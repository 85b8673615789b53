"""Arguments of the public names: a wrong one is refused at the call, with what was wanted."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from enum import Enum
from math import nan
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import Clock
from twisted.python.failure import Failure

import torsocks_tx as t
from tests.project.test_public import MODULES, public
from torsocks_tx import pt
from torsocks_tx.testing import scripted, tornet
from torsocks_tx.web import socks_agent

CLOCK = Clock()
ENDPOINT = clientFromString(CLOCK, "tcp:127.0.0.1:9")
WANTED = re.compile("must (not )?(be|have)|begin with|without a|not supported|wanted a key|make it")
# What the package itself makes, subclasses change, or a listed class checks.
NOT_JUDGED = """
    Circuit Hop ListenerCounts
    Credentials Diagnosis Isolation MemoryOutbound Progress Request ScriptedRequest Server
    SOCKS4Factory SOCKS4Protocol SOCKS5Factory SOCKS5Protocol SOCKSProtocol
    Codec Target start_scripted Asked Client ClientKey NameServer Node OnionService StreamEvent
    StreamWatch Origin Exit
"""

RIGHT: dict[Callable[..., Any], dict[str, Any]] = {
    t.Address.of: {"host": "example.com"},
    t.ClientOptions: {},
    t.ConnectionLimiter: {"clock": CLOCK},
    t.CredAuthenticator: {"checkers": []},
    t.DirectBackend: {"reactor": CLOCK},
    t.EndpointBackend: {"reactor": CLOCK, "choose": print},
    t.ExitChoice: {},
    t.FixedTorProvider: {"endpoint": ENDPOINT},
    t.IsolationFlags: {},
    t.Isolator: {},
    t.KeyValues.of: {},
    t.Keyring: {"directory": "/none"},
    t.LaunchedTorProvider: {"reactor": CLOCK, "data_directory": "/none"},
    t.Limits: {},
    t.ListenerPolicy: {},
    t.MemoryBackend: {},
    t.NameResolver: {"reactor": CLOCK},
    t.FixedTorProvider(ENDPOINT).on_progress: {"callback": print},
    t.SOCKSFactory(t.MemoryBackend(), clock=CLOCK).shutdown: {},
    t.OnionObserver: {"clock": CLOCK},
    t.PasswordFile: {"filename": "/dev/null"},
    t.Registry: {},
    t.RunningTorProvider: {"reactor": CLOCK, "control_endpoint": ENDPOINT},
    t.SOCKSClientEndpoint: {"reactor": CLOCK, "proxy": ENDPOINT, "host": "a", "port": 1},
    t.SOCKSFactory: {"backend": t.MemoryBackend(), "clock": CLOCK},
    t.SocksPort: {"endpoint": ENDPOINT, "pipelined": True},
    t.TorBackend: {"reactor": CLOCK, "provider": t.FixedTorProvider(ENDPOINT)},
    t.TorPool: {
        "reactor": CLOCK,
        "tors": {"tor": t.TorBackend(CLOCK, t.FixedTorProvider(ENDPOINT))},
    },
    t.TorBackend.from_tor: {"reactor": CLOCK, "tor": None},
    t.resolve: {"reactor": CLOCK, "proxy": ENDPOINT, "name": "example.com"},
    t.resolve_ptr: {"reactor": CLOCK, "proxy": ENDPOINT, "ip": "192.0.2.1"},
    t.serve: {
        "reactor": CLOCK,
        "listen": "tcp:0:interface=127.0.0.1",
        "backend": t.MemoryBackend(),
    },
    pt.CodecEndpoint: {"endpoint": ENDPOINT, "make_codec": pt.Codec},
    pt.Dialer: {"reactor": CLOCK},
    pt.Setting: {"dialer": pt.Dialer(CLOCK)},
    pt.TransportFactory: {"reactor": CLOCK, "transport": print},
    pt.UpstreamProxy: {"kind": pt.ProxyKind.HTTP, "address": t.Address.of("192.0.2.1")},
    pt.parse_proxy: {"uri": "http://192.0.2.1:1"},
    pt.run: {"transports": {}},
    socks_agent: {"reactor": CLOCK, "proxy": ENDPOINT},
    scripted.ScriptedBackend: {"clock": CLOCK},
    scripted.ScriptedProcess: {},
    scripted.ScriptedServer: {"reactor": CLOCK},
    tornet.PrivateNetwork: {"reactor": CLOCK},
}


MORE: list[tuple[Callable[..., Any], str, object]] = [
    (t.CredAuthenticator, "checkers", [print]),
    (t.NameResolver, "servers", ["127.0.0.1"]),
    (t.NameResolver, "servers", [("dns.example", 53)]),
    (t.PasswordFile, "filename", "/none"),
    (t.SOCKSFactory, "keys", {"X-example.key": None}),
    *((t.SOCKSFactory(t.MemoryBackend(), clock=CLOCK).shutdown, "grace", it) for it in (-1, nan)),
]


def wrong_values() -> list[Any]:
    """List each argument of each public name with nothing, an object and an empty text."""
    return [
        pytest.param(call, name, value, id=f"{call.__qualname__}-{name}-{value!r:.4}")
        for call in RIGHT
        for name, parameter in inspect.signature(call).parameters.items()
        for value in (None, object(), "")
        if value is not None or not (parameter.default is None or "None" in parameter.annotation)
        if (value, parameter.annotation) != ("", "bool")
    ]


@pytest.mark.parametrize(("call", "name", "value"), [*wrong_values(), *MORE])
def test_a_wrong_argument_is_refused_at_the_call(
    call: Callable[..., Any], name: str, value: object
) -> None:
    outcomes: list[Any] = []
    maybeDeferred(call, **{**RIGHT.get(call, {}), name: value}).addBoth(outcomes.append)
    [outcome] = outcomes
    assert isinstance(outcome, Failure), "this was accepted"
    assert isinstance(outcome.value, TypeError | ValueError)
    assert WANTED.search(str(outcome.value)), "what is wanted is not said"


def test_all_public_names_that_take_arguments_are_listed() -> None:
    listed = {call.__qualname__.partition(".")[0] for call in RIGHT}
    taking = {
        name
        for module in MODULES
        if module != "torsocks_tx.errors"
        for name, thing in public(module).items()
        if inspect.isfunction(thing)
        or (inspect.isclass(thing) and not issubclass(thing, Enum | Exception))
    }
    assert taking - listed == set(NOT_JUDGED.split())
