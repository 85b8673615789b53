"""Scrape pages by way of a SOCKS server: each site has circuits and connections of its own.

    python examples/scrapy_spider.py PROXY URL...

PROXY is tor's SocksPort or torsocks_tx, as an endpoint of Twisted, such as tcp:127.0.0.1:9050.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import scrapy
from scrapy.crawler import CrawlerProcess
from scrapy.http import Response
from twisted.python.failure import Failure

HANDLER = "torsocks_tx.web.ScrapyDownloadHandler"


class Titles(scrapy.Spider):
    """Prints the title of each page, or why there is none."""

    name = "titles"
    urls: list[str]

    async def start(self) -> AsyncIterator[scrapy.Request]:
        """Request each page; requests with different isolation never share a circuit."""
        for url in self.urls:
            isolation = urlsplit(url).hostname
            yield scrapy.Request(url, meta={"isolation": isolation}, errback=self.failed)

    def parse(self, response: Response, **_: Any) -> Iterator[dict[str, Any]]:
        """Take the title out of a page."""
        title = response.css("title::text").get()
        print(f"{response.url}: {title}", flush=True)
        yield {"url": response.url, "title": title}

    def failed(self, failure: Failure) -> None:
        """Say why there is no page: a ``SOCKSError`` says it in a sentence."""
        print(f"no page: {failure.getErrorMessage()}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(f"{sys.argv[0]}: give a SOCKS server and some URLs")
    process = CrawlerProcess(
        {
            "SOCKS_PROXY": sys.argv[1],
            "DOWNLOAD_HANDLERS": {"http": HANDLER, "https": HANDLER},
            "LOG_LEVEL": "WARNING",
        }
    )
    process.crawl(Titles, urls=sys.argv[2:])
    process.start()
