"""HTTP clients by way of a SOCKS server: an agent for ``twisted.web`` and treq.

It must not know tor: it only uses ``torsocks_tx.client``. Begin reading at ``socks_agent``.
"""

from __future__ import annotations

from torsocks_tx.web.agent import socks_agent

__all__ = ["socks_agent"]
