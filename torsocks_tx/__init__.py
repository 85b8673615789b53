"""A SOCKS4, SOCKS4a and SOCKS5 server for Twisted, with Tor behind it.

Serve a backend by listening with a factory::

    endpoint.listen(SOCKSFactory(TorBackend.from_tor(reactor, tor)))

What is imported here is the public API, with ``torsocks_tx.errors``, ``torsocks_tx.pt``,
``torsocks_tx.web`` and ``torsocks_tx.testing``; everything else may move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torsocks_tx.backends.direct import DirectBackend
    from torsocks_tx.backends.endpoint import EndpointBackend
    from torsocks_tx.backends.memory import MemoryBackend, MemoryOutbound
    from torsocks_tx.backends.names import NameResolver
    from torsocks_tx.backends.tor.backend import TorBackend
    from torsocks_tx.backends.tor.exits.circuits import Circuit, Hop
    from torsocks_tx.backends.tor.launched import LaunchedTorProvider
    from torsocks_tx.backends.tor.onion.client_auth import Keyring
    from torsocks_tx.backends.tor.onion.diagnosis import Diagnosis, Finding
    from torsocks_tx.backends.tor.onion.observer import OnionObserver
    from torsocks_tx.backends.tor.pool import TorPool
    from torsocks_tx.backends.tor.ports import SocksPort
    from torsocks_tx.backends.tor.provider import Progress, ProviderState, TorProvider
    from torsocks_tx.backends.tor.providers import FixedTorProvider, RunningTorProvider
    from torsocks_tx.client.endpoint import SOCKSClientEndpoint, resolve, resolve_ptr
    from torsocks_tx.errors import ProxyFault, Refused, Retry, SOCKSError
    from torsocks_tx.interfaces import IBackend, IOutbound, IReceiver
    from torsocks_tx.limits import Limits
    from torsocks_tx.policy.circuits import ExitChoice
    from torsocks_tx.policy.isolation import Isolation, IsolationFlags, Isolator
    from torsocks_tx.policy.listener import ListenerPolicy
    from torsocks_tx.server.auth import Authenticator, CredAuthenticator, PasswordFile
    from torsocks_tx.server.connections import ConnectionLimiter
    from torsocks_tx.server.factory import SOCKS4Factory, SOCKS5Factory, SOCKSFactory
    from torsocks_tx.server.listen import ListenError
    from torsocks_tx.server.protocol import SOCKS4Protocol, SOCKS5Protocol, SOCKSProtocol
    from torsocks_tx.server.serving import Server, serve
    from torsocks_tx.socks.client_options import ClientOptions
    from torsocks_tx.socks.constants import AddressType, CodeSet, Command, Role, Version
    from torsocks_tx.socks.extended import KeyHandler
    from torsocks_tx.socks.messages import Address, Credentials, KeyValues, Request
    from torsocks_tx.status.registry import ListenerCounts, Registry

__version__ = "0.1.0"

__all__ = [
    "Address",
    "AddressType",
    "Authenticator",
    "Circuit",
    "ClientOptions",
    "CodeSet",
    "Command",
    "ConnectionLimiter",
    "CredAuthenticator",
    "Credentials",
    "Diagnosis",
    "DirectBackend",
    "EndpointBackend",
    "ExitChoice",
    "Finding",
    "FixedTorProvider",
    "Hop",
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
    "ListenError",
    "ListenerCounts",
    "ListenerPolicy",
    "MemoryBackend",
    "MemoryOutbound",
    "NameResolver",
    "OnionObserver",
    "PasswordFile",
    "Progress",
    "ProviderState",
    "ProxyFault",
    "Refused",
    "Registry",
    "Request",
    "Retry",
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
    "Server",
    "SocksPort",
    "TorBackend",
    "TorPool",
    "TorProvider",
    "Version",
    "resolve",
    "resolve_ptr",
    "serve",
]

# Twisted imports this package to list its plugins, in every program that reads an endpoint string:
# so nothing is imported before it is used. Type checkers see the imports above in place of this.
if not TYPE_CHECKING:
    _HOMES = {
        "backends.direct": "DirectBackend",
        "backends.endpoint": "EndpointBackend",
        "backends.memory": "MemoryBackend MemoryOutbound",
        "backends.names": "NameResolver",
        "backends.tor.backend": "TorBackend",
        "backends.tor.exits.circuits": "Circuit Hop",
        "backends.tor.launched": "LaunchedTorProvider",
        "backends.tor.onion.client_auth": "Keyring",
        "backends.tor.onion.diagnosis": "Diagnosis Finding",
        "backends.tor.onion.observer": "OnionObserver",
        "backends.tor.pool": "TorPool",
        "backends.tor.ports": "SocksPort",
        "backends.tor.provider": "Progress ProviderState TorProvider",
        "backends.tor.providers": "FixedTorProvider RunningTorProvider",
        "client.endpoint": "SOCKSClientEndpoint resolve resolve_ptr",
        "errors": "ProxyFault Refused Retry SOCKSError",
        "interfaces": "IBackend IOutbound IReceiver",
        "limits": "Limits",
        "policy.circuits": "ExitChoice",
        "policy.isolation": "Isolation IsolationFlags Isolator",
        "policy.listener": "ListenerPolicy",
        "server.auth": "Authenticator CredAuthenticator PasswordFile",
        "server.connections": "ConnectionLimiter",
        "server.factory": "SOCKS4Factory SOCKS5Factory SOCKSFactory",
        "server.listen": "ListenError",
        "server.protocol": "SOCKS4Protocol SOCKS5Protocol SOCKSProtocol",
        "server.serving": "Server serve",
        "socks.client_options": "ClientOptions",
        "socks.constants": "AddressType CodeSet Command Role Version",
        "socks.extended": "KeyHandler",
        "socks.messages": "Address Credentials KeyValues Request",
        "status.registry": "ListenerCounts Registry",
    }

    def __getattr__(name):
        """Import a public name from its module when it is first used."""
        for home, names in _HOMES.items():
            if name in names.split():
                from importlib import import_module

                return getattr(import_module(f"torsocks_tx.{home}"), name)
        raise AttributeError(f"module 'torsocks_tx' has no attribute {name!r}")

    def __dir__():
        """List the public names, too, for completion at a prompt and for tools that document."""
        return sorted({*globals(), *__all__})
