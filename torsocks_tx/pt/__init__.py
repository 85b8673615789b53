"""Pluggable transports for tor: write what is particular to one, and have the rest from here.

    run({"veil": veil})

``veil`` is a function: given arguments and an address (``Target``), it gives an endpoint.
``TransportFactory`` serves a transport without a parent. docs/pluggable-transports.md goes on.
"""

from __future__ import annotations

from torsocks_tx.errors import Internal, InvalidBridge, Temporary
from torsocks_tx.pt.channel import CodecEndpoint
from torsocks_tx.pt.codec import Codec
from torsocks_tx.pt.dialing import Dialer
from torsocks_tx.pt.listener import TransportFactory
from torsocks_tx.pt.managed import run
from torsocks_tx.pt.proxy_uri import parse as parse_proxy
from torsocks_tx.pt.transport import Setting, Target, Transport
from torsocks_tx.socks.messages import KeyValues

__all__ = [
    "Codec",
    "CodecEndpoint",
    "Dialer",
    "Internal",
    "InvalidBridge",
    "KeyValues",
    "Setting",
    "Target",
    "Temporary",
    "Transport",
    "TransportFactory",
    "parse_proxy",
    "run",
]
