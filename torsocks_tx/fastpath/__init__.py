"""The short way of a connection to which nothing out of the ordinary happens.

A ``Door`` accepts in place of one of Twisted's ports. Its ``Visitor`` speaks the handshake, reaches
a destination that is known at once, and passes bytes on as long as they go straight through. At
the first thing that is not plain, everything is handed over to the protocols, transports and relay
that the rest of the package is made of, in the state that was reached (``handover``): they alone
know how to refuse, wait, queue, splice and take leave.
"""

from __future__ import annotations

import select
from typing import Any

__all__ = ["attach"]


def attach(port: Any) -> None:
    """Let clients of a port that listens take the short way, if there is one here."""
    if hasattr(select, "epoll"):
        # On other systems it cannot even be imported: the names of the events are not there.
        from torsocks_tx.fastpath import door

        door.attach(port)
