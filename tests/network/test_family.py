"""``Tor-Family-Preference`` on real tor: by which family a name that has both is reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString

from tests.network.asking import serving
from tests.support.clients import IPV6
from tests.support.http import read_answer
from tests.support.peers import PeerFactory
from tests.support.rows import rows
from torsocks_tx.testing.tornet import PrivateNetwork

pytestmark = pytest.mark.network

FLAGS = ("PreferIPv6", "NoIPv4Traffic", "NoIPv6Traffic")
FAMILIES = {
    "ipv4-preferred": b"IPv4",
    "ipv6-preferred": b"IPv6",
    "ipv4-only": b"IPv4",
    "ipv6-only": b"IPv6",
    "another": b"IPv4",
}


@rows("H-10")
@pytest.mark.clients(IPV6)
async def test_tor_keeps_to_the_family_that_a_request_asks_for(
    private_network: PrivateNetwork, tmp_path: Path
) -> None:
    places = [f"SocksPort unix:{tmp_path}/{flag} {flag}" for flag in FLAGS]
    tor = await private_network.add_client(places)
    port = private_network.web.port
    async with serving(tor) as server:
        proxy = clientFromString(reactor, f"tcp:{server.listen()}")

        async def fetch(preference: str, name: str) -> tuple[int, bytes]:
            peer: Any = await proxy.connect(PeerFactory())
            head = f"CONNECT {name}:{port} HTTP/1.0\r\nTor-Family-Preference: {preference}\r\n\r\n"
            peer.send(head.encode() + b"GET / HTTP/1.0\r\n\r\n")
            answer, page = read_answer(await peer.take_rest())
            peer.reset()
            return answer.status, page

        for preference, family in FAMILIES.items():
            status, page = await fetch(preference, "both.test")
            assert (preference, status) == (preference, 200)
            assert family in page, preference
        for preference, name in (("ipv4-only", "web6.test"), ("ipv6-only", "web.test")):
            status, page = await fetch(preference, name)
            assert (status, page) in ((502, b""), (503, b""))
