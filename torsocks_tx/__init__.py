"""A SOCKS4, SOCKS4a and SOCKS5 server for Twisted, with Tor behind it.

Serve a backend by listening with a factory::

    endpoint.listen(SOCKSFactory(TorBackend.from_tor(reactor, tor)))

What is imported here is the public API, with ``torsocks_tx.errors``, ``torsocks_tx.errors``,
``torsocks_tx.pt`` and ``torsocks_tx.testing``; everything else may move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torsocks_tx.errors import Refused
from torsocks_tx.limits import Limits
from torsocks_tx.policy.isolation import Isolation, IsolationFlags, Isolator
from torsocks_tx.policy.listener import ListenerPolicy
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.socks.constants import CodeSet, Role
from torsocks_tx.socks.extended import KeyHandler
from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Request

if TYPE_CHECKING:
    from torsocks_tx.backends.direct import DirectBackend
    from torsocks_tx.backends.endpoint import EndpointBackend
    from torsocks_tx.backends.memory import MemoryBackend
    from torsocks_tx.backends.names import NameResolver
    from torsocks_tx.backends.tor.backend import TorBackend
    from torsocks_tx.backends.tor.launched import LaunchedTorProvider
    from torsocks_tx.backends.tor.onion.client_auth import Keyring
    from torsocks_tx.backends.tor.onion.observer import OnionObserver
    from torsocks_tx.backends.tor.providers import FixedTorProvider, RunningTorProvider
    from torsocks_tx.client.endpoint import SOCKSClientEndpoint, resolve, resolve_ptr
    from torsocks_tx.client.failures import SOCKSError
    from torsocks_tx.interfaces import IBackend, IOutbound, IReceiver
    from torsocks_tx.server.auth import CredAuthenticator, PasswordFile
    from torsocks_tx.server.factory import SOCKS4Factory, SOCKS5Factory, SOCKSFactory
    from torsocks_tx.server.protocol import SOCKS4Protocol, SOCKS5Protocol, SOCKSProtocol

__all__ = [
    "Address",
    "ClientOptions",
    "CodeSet",
    "CredAuthenticator",
    "Credentials",
    "DirectBackend",
    "EndpointBackend",
    "FixedTorProvider",
    "IBackend",
    "IOutbound",
    "IReceiver",
    "Isolation",
    "IsolationFlags",
    "Isolator",
    "KeyHandler",
    "KeyValues",
    "Keyring",
    "LaunchedTorProvider",
    "Limits",
    "ListenerPolicy",
    "MemoryBackend",
    "NameResolver",
    "OnionObserver",
    "PasswordFile",
    "Refused",
    "Request",
    "Role",
    "RunningTorProvider",
    "SOCKS4Factory",
    "SOCKS4Protocol",
    "SOCKS5Factory",
    "SOCKS5Protocol",
    "SOCKSClientEndpoint",
    "SOCKSError",
    "SOCKSFactory",
    "SOCKSProtocol",
    "TorBackend",
    "resolve",
    "resolve_ptr",
]

# Twisted installs its reactor at the first import of some modules, and txtorcon takes a second to
# load: both happen when a name is used, not when the package is imported.
_HOMES = {
    "CredAuthenticator": "server.auth",
    "DirectBackend": "backends.direct",
    "EndpointBackend": "backends.endpoint",
    "MemoryBackend": "backends.memory",
    "NameResolver": "backends.names",
    "FixedTorProvider": "backends.tor.providers",
    "LaunchedTorProvider": "backends.tor.launched",
    "RunningTorProvider": "backends.tor.providers",
    "Keyring": "backends.tor.onion.client_auth",
    "OnionObserver": "backends.tor.onion.observer",
    "TorBackend": "backends.tor.backend",
    "PasswordFile": "server.auth",
    "IBackend": "interfaces",
    "IOutbound": "interfaces",
    "IReceiver": "interfaces",
    "SOCKS4Factory": "server.factory",
    "SOCKS5Factory": "server.factory",
    "SOCKSFactory": "server.factory",
    "SOCKS4Protocol": "server.protocol",
    "SOCKS5Protocol": "server.protocol",
    "SOCKSProtocol": "server.protocol",
    "SOCKSClientEndpoint": "client.endpoint",
    "resolve": "client.endpoint",
    "resolve_ptr": "client.endpoint",
    "SOCKSError": "client.failures",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'torsocks_tx' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"torsocks_tx.{_HOMES[name]}"), name)
