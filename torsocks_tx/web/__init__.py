"""HTTP clients by way of a SOCKS server: an agent for ``twisted.web`` and treq, and one for Scrapy.

It must not know tor: it only uses ``torsocks_tx.client``. Begin reading at ``socks_agent``.
``ScrapyDownloadHandler`` needs Scrapy, which is imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torsocks_tx.web.agent import socks_agent

if TYPE_CHECKING:
    from torsocks_tx.web.scrapy_handler import ScrapyDownloadHandler as ScrapyDownloadHandler

__all__ = ["socks_agent"]

if not TYPE_CHECKING:

    def __getattr__(name):
        """Import the download handler when it is first used."""
        if name == "ScrapyDownloadHandler":
            from torsocks_tx.web.scrapy_handler import ScrapyDownloadHandler

            return ScrapyDownloadHandler
        raise AttributeError(f"module 'torsocks_tx.web' has no attribute {name!r}")
