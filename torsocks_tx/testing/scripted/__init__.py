"""A scripted SOCKS server for tests of SOCKS clients: it gives any reply, on demand.

::

    server = ScriptedServer(reactor)
    address = await server.start()      # a client connects to reply-05.test: reply code 05
    server.requests[0].address.host     # "reply-05.test"
    await server.stop()

``ScriptedProcess`` does the same for tests without a reactor, and the program ``python -m
torsocks_tx.testing.scripted`` for tests in any language; it prints the grammar of the names.
"""

from __future__ import annotations

from torsocks_tx.testing.scripted.backend import BANNER, ScriptedBackend
from torsocks_tx.testing.scripted.names import GRAMMAR
from torsocks_tx.testing.scripted.process import ScriptedProcess
from torsocks_tx.testing.scripted.server import ScriptedRequest, ScriptedServer, start_scripted

__all__ = [
    "BANNER",
    "GRAMMAR",
    "ScriptedBackend",
    "ScriptedProcess",
    "ScriptedRequest",
    "ScriptedServer",
    "start_scripted",
]
