"""Scrapy by way of a SOCKS server: the download handler alone, and a whole crawl."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import reactor

from tests.web.conftest import Proxy
from torsocks_tx import SOCKSError
from torsocks_tx.errors import ConnectionRefused, NotAllowed
from torsocks_tx.testing.scripted import ScriptedServer

pytestmark = [pytest.mark.network, pytest.mark.clients("scrapy")]


class Handler:
    """A download handler, as a crawler makes it."""

    def __init__(self, proxy: Proxy, **settings: Any) -> None:
        from scrapy.utils.test import get_crawler

        from torsocks_tx.web import ScrapyDownloadHandler

        crawler = get_crawler(settings_dict={"SOCKS_PROXY": proxy.text, **settings})
        self.made = ScrapyDownloadHandler.from_crawler(crawler)

    async def get(self, url: str, **meta: Any) -> Any:
        from scrapy import Request

        self.request = Request(url, meta=meta)
        return await self.made.download_request(self.request)


async def test_requests_of_two_identities_share_neither_circuit_nor_connection(
    proxy: Proxy,
) -> None:
    handler = Handler(proxy)
    for isolation in (None, "alice", b"alice", "bob"):
        response = await handler.get("http://example.com/bytes/5", isolation=isolation)
        assert (response.status, len(response.body)) == (200, 5)
    assert [host for host, _, _ in proxy.asked] == ["example.com"] * 3
    assert len({password for _, _, password in proxy.asked}) == 3
    await handler.made.close()


@pytest.mark.parametrize(("reason", "again"), [(ConnectionRefused, True), (NotAllowed, False)])
async def test_refusal_that_would_only_happen_again_is_not_retried(
    proxy: Proxy, reason: Any, again: bool
) -> None:
    proxy.refusal = reason("as the test wants it")
    handler = Handler(proxy)
    with pytest.raises(SOCKSError):
        await handler.get("http://example.com/")
    assert handler.request.meta.get("dont_retry", False) is not again
    await handler.made.close()


async def test_settings_bound_the_time_and_the_size(proxy: Proxy) -> None:
    from scrapy.exceptions import DownloadCancelledError, DownloadTimeoutError

    handler = Handler(proxy, DOWNLOAD_MAXSIZE=1000)
    with pytest.raises(DownloadCancelledError, match="larger"):
        await handler.get("http://example.com/bytes/100000")
    await handler.made.close()
    server = ScriptedServer(reactor)
    address = await server.start()
    handler = Handler(proxy, SOCKS_PROXY=f"tcp:127.0.0.1:{address.port}")
    with pytest.raises(SOCKSError, match="in time"):
        await handler.get("http://silent.test/", download_timeout=0.2)
    with pytest.raises(DownloadTimeoutError, match="longer than 3 s"):
        await handler.get("http://sink.test/", download_timeout=3)
    await handler.made.close()
    await server.stop()


async def test_a_setting_names_the_server() -> None:
    from scrapy.exceptions import NotConfigured
    from scrapy.utils.test import get_crawler

    from torsocks_tx.web import ScrapyDownloadHandler

    with pytest.raises(NotConfigured, match="set SOCKS_PROXY"):
        ScrapyDownloadHandler(get_crawler())
