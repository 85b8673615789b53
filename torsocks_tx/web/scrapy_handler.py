"""A download handler of Scrapy: http and https by way of a SOCKS server, onion services included.

In the settings of a project::

    SOCKS_PROXY = "tcp:127.0.0.1:9050"
    DOWNLOAD_HANDLERS = {
        "http": "torsocks_tx.web.ScrapyDownloadHandler",
        "https": "torsocks_tx.web.ScrapyDownloadHandler",
    }
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from time import monotonic
from typing import Any, NoReturn

from scrapy import Request
from scrapy.crawler import Crawler
from scrapy.exceptions import (
    DownloadCancelledError,
    DownloadFailedError,
    DownloadTimeoutError,
    NotConfigured,
)
from scrapy.http import Headers as ScrapyHeaders
from scrapy.http import Response
from scrapy.responsetypes import responsetypes
from scrapy.utils.defer import maybe_deferred_to_future
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import FileBodyProducer, HTTPConnectionPool, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse

from torsocks_tx.errors import Retry, SOCKSError
from torsocks_tx.socks.client_options import ClientOptions
from torsocks_tx.web.agent import socks_agent

CLOSE_TIMEOUT = 1.0
"""Seconds for kept connections to close when a crawl is over."""


class ScrapyDownloadHandler:
    """Downloads by way of the SOCKS server at ``SOCKS_PROXY``, which looks all names up.

    Requests whose ``meta["isolation"]`` (text or bytes) differ share neither a circuit nor a
    connection. Failures are ``SOCKSError``; those that would only happen again are not retried.
    Certificates are verified. ``DOWNLOAD_TIMEOUT`` and ``DOWNLOAD_MAXSIZE`` hold; the signals
    ``headers_received`` and ``bytes_received`` are not sent.
    """

    lazy = True  # by then the reactor is chosen

    def __init__(self, crawler: Crawler) -> None:
        from twisted.internet import reactor

        settings = crawler.settings
        if not settings.get("SOCKS_PROXY"):
            raise NotConfigured("set SOCKS_PROXY to an endpoint, such as tcp:127.0.0.1:9050")
        self._reactor: Any = reactor
        self._proxy = clientFromString(reactor, settings["SOCKS_PROXY"])
        self._timeout = settings.getfloat("DOWNLOAD_TIMEOUT")
        self._most = settings.getint("DOWNLOAD_MAXSIZE")
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = settings.getint("CONCURRENT_REQUESTS_PER_DOMAIN")

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> ScrapyDownloadHandler:
        """Make the handler of a crawler."""
        return cls(crawler)

    async def download_request(self, request: Request) -> Response:
        """Download a request, within its timeout."""
        timeout = float(request.meta.get("download_timeout") or self._timeout)
        isolation = request.meta.get("isolation")
        if isinstance(isolation, str):
            isolation = isolation.encode()
        options = replace(ClientOptions(), isolation=isolation, timeout=timeout)
        agent = socks_agent(self._reactor, self._proxy, options=options, pool=self._pool)
        downloading = Deferred.fromCoroutine(self._download(agent, request))
        downloading.addTimeout(timeout, self._reactor, _time_is_up)
        try:
            return await maybe_deferred_to_future(downloading)
        except SOCKSError as error:
            if error.retry is Retry.NEVER:
                request.meta["dont_retry"] = True
            raise
        except ResponseFailed as error:
            raise DownloadFailedError(str(error)) from error

    async def _download(self, agent: IAgent, request: Request) -> Response:
        url, _, _ = request.url.partition("#")
        headers = Headers(dict(request.headers.items()))
        body = FileBodyProducer(BytesIO(request.body)) if request.body else None
        began = monotonic()
        response = await agent.request(request.method.encode(), url.encode(), headers, body)
        request.meta["download_latency"] = monotonic() - began
        reader = _BodyReader(response, request.meta.get("download_maxsize", self._most))
        content = await reader.done
        got = ScrapyHeaders(response.headers.getAllRawHeaders())
        kind = responsetypes.from_args(headers=got, url=url, body=content)
        return kind(url, status=response.code, headers=got, body=content, flags=reader.flags)

    async def close(self) -> None:
        """Close the connections that are kept; servers that do not close theirs are left."""
        closing = self._pool.closeCachedConnections().addTimeout(CLOSE_TIMEOUT, self._reactor)
        closing.addErrback(lambda failure: failure.trap(TimeoutError))
        await maybe_deferred_to_future(closing)


def _time_is_up(_: object, seconds: float) -> NoReturn:
    raise DownloadTimeoutError(f"it took longer than {seconds:g} s")


class _BodyReader(Protocol):
    """Reads the body of a response, up to ``most`` bytes (0: any number); ``done`` fires with it.

    ``flags``: what Scrapy says of a body whose end the server did not mark.
    """

    def __init__(self, response: IResponse, most: int) -> None:
        self.flags: list[str] = []
        self._parts: list[bytes] = []
        self._room = most or float("inf")
        self.done: Deferred[bytes] = Deferred(lambda _: self._abort())
        response.deliverBody(self)

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Keep a part of the body."""
        self._parts.append(data)
        self._room -= len(data)
        if self._room < 0 and not self.done.called:
            self.done.errback(DownloadCancelledError("the response is larger than allowed"))
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The body is over."""
        if self.done.called:
            return
        if reason.check(PotentialDataLoss):
            self.flags.append("partial")
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(reason)
