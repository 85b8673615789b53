"""PySocks, requests and txtorcon: how Python programs speak SOCKS."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import socks
import txtorcon.socks
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.threads import deferToThread

from tests.interop.conftest import BAD_ONION, Served
from tests.support.peers import PeerFactory
from tests.support.rows import rows

pytestmark = pytest.mark.network

REQUEST = b"GET / HTTP/1.0\r\n\r\n"


def fetch_by_pysocks(kind: int, served: Served, host: str, **credentials: Any) -> bytes:
    """Ask the web origin for its page over a socket of PySocks."""
    connection = socks.socksocket()
    connection.set_proxy(kind, "127.0.0.1", int(served.port), rdns=True, **credentials)
    connection.settimeout(110)
    try:
        connection.connect((host, served.web))
        connection.sendall(REQUEST)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received
    finally:
        connection.close()


@rows("S-05", "S-06", "S-17", "S-13")
@pytest.mark.parametrize(
    ("kind", "credentials"),
    [
        (socks.SOCKS5, {}),
        (socks.SOCKS5, {"username": "alice", "password": "secret"}),
        (socks.SOCKS4, {}),
        (socks.SOCKS4, {"username": "alice"}),
    ],
)
async def test_pysocks_gets_a_page(served: Served, kind: int, credentials: dict[str, str]) -> None:
    received = await deferToThread(
        lambda: fetch_by_pysocks(kind, served, "web.test", **credentials)
    )
    assert b"origin" in received


@rows("S-42", "R-20")
async def test_pysocks_reads_the_reply_code(served: Served) -> None:
    with pytest.raises(socks.GeneralProxyError) as caught:
        await deferToThread(lambda: fetch_by_pysocks(socks.SOCKS5, served, "nx.test"))
    assert "0x04" in str(caught.value)


@rows("S-05", "S-06")
@pytest.mark.parametrize("scheme", ["socks5h", "socks4a"])
async def test_requests_gets_a_page(served: Served, scheme: str) -> None:
    proxies = {"http": f"{scheme}://{served.address}"}

    def fetch() -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(served.url(), proxies=proxies, timeout=110)

    answer = await deferToThread(fetch)
    assert answer.status_code == 200
    assert "origin" in answer.text


@rows("S-24", "S-30", "S-06")
async def test_txtorcon_looks_up_and_connects(served: Served) -> None:
    here = TCP4ClientEndpoint(reactor, "127.0.0.1", int(served.port))
    assert await txtorcon.socks.resolve(here, "doc.test") == "203.0.113.9"
    name = await txtorcon.socks.resolve_ptr(here, "203.0.113.9")
    assert name in (b"doc.test", "doc.test")
    endpoint = txtorcon.socks.TorSocksEndpoint(here, "web.test", served.web)
    peer = await endpoint.connect(PeerFactory())
    peer.send(REQUEST)
    assert b"origin" in await peer.take_rest()
    peer.close()


@rows("S-42")
async def test_txtorcon_reads_an_extended_code(served: Served) -> None:
    here = TCP4ClientEndpoint(reactor, "127.0.0.1", int(served.extended.rpartition(":")[2]))
    endpoint = txtorcon.socks.TorSocksEndpoint(here, BAD_ONION, 80)
    with pytest.raises(txtorcon.socks.SocksError) as caught:
        await endpoint.connect(PeerFactory())
    assert caught.value.code == 0xF6
