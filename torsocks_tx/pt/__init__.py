"""Pluggable transports for tor: write the disguise, and have the rest of the program from here.

::

    run({"veil": veil})

``veil`` is a function that gives an endpoint for arguments and an address (``Target``). ``run`` is
in ``managed``, where reading begins; ``TransportFactory`` serves a transport without a parent.
``docs/pluggable-transports.md`` is the guide.
"""

from __future__ import annotations

from torsocks_tx.errors import Internal, InvalidBridge, Temporary
from torsocks_tx.pt.channel import Codec, CodecEndpoint
from torsocks_tx.pt.managed import run
from torsocks_tx.pt.spec import ProxyKind, UpstreamProxy, parse_proxy
from torsocks_tx.pt.transport import Dialer, Setting, Target, Transport, TransportFactory
from torsocks_tx.socks.messages import KeyValues

__all__ = [
    "Codec",
    "CodecEndpoint",
    "Dialer",
    "Internal",
    "InvalidBridge",
    "KeyValues",
    "ProxyKind",
    "Setting",
    "Target",
    "Temporary",
    "Transport",
    "TransportFactory",
    "UpstreamProxy",
    "parse_proxy",
    "run",
]
