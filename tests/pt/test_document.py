"""The code and the bytes in docs/pluggable-transports.md, as its reader would run them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory

from tests.project.test_snippets import execute, snippets
from tests.pt.ports import Port
from tests.support.peers import GRANTED, Peer, PeerFactory, talk
from tests.support.processes import ROOT
from tests.support.tables import octets
from torsocks_tx import pt
from torsocks_tx.errors import InvalidBridge
from torsocks_tx.pt import Target, TransportFactory
from torsocks_tx.pt.channel import Channel
from torsocks_tx.socks import userpass
from torsocks_tx.socks.messages import Credentials
from torsocks_tx.socks.userpass import parse_credentials
from torsocks_tx.socks.wire import Reader

TEXT = (ROOT / "docs" / "pluggable-transports.md").read_text("utf-8")
PIECES = snippets("pluggable-transports.md")


async def connect(port: int) -> Peer:
    client: Peer = await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(PeerFactory())
    return client


async def test_code_of_the_document_runs() -> None:
    names: dict[str, Any] = {"__name__": "document"}
    await execute([piece for piece in PIECES if not piece.kind], names)
    origin = PeerFactory()
    plain = reactor.listenTCP(0, origin, interface="127.0.0.1")
    inverted = PeerFactory()
    far_side = Factory()
    far_side.noisy = False
    far_side.buildProtocol = (  # type: ignore[method-assign]
        lambda addr: Channel(names["Invert"](), inverted)
    )
    disguised = reactor.listenTCP(0, far_side, interface="127.0.0.1")
    other = TransportFactory(reactor, names["invert"])
    other_port = reactor.listenTCP(0, other, interface="127.0.0.1")
    for socks, far, peers in ((names["port"], plain, origin), (other_port, disguised, inverted)):
        client = await connect(socks.getHost().port)
        request = octets("05 01 00 01 7F000001") + far.getHost().port.to_bytes(2, "big")
        assert await client.negotiate(request) == GRANTED
        peer = await peers.peer()
        await talk(client, peer)
        client.reset()
        await peer.until(lambda peer=peer: peer.over)
    for port in (plain, disguised, other_port, names["port"]):
        await port.stopListening()
    for factory in (other, names["factory"]):
        await factory.when_empty()


def test_arguments_of_the_document_are_encoded_as_shown() -> None:
    [(text, message)] = re.findall(r"^(secret=\S+) +([0-9A-F ]+)$", TEXT, re.MULTILINE)
    credentials = parse_credentials(Reader(octets(message)))
    assert credentials == Credentials(text.encode(), b"\0")
    assert userpass.parse_arguments(credentials).get("k") == b"a;b"


def test_conversation_of_the_document_is_the_one_on_the_wire() -> None:
    lines = re.findall(r"^([CS]): ((?:[0-9A-F]+ ?)+)(\.\.\.)?", TEXT, re.MULTILINE)
    assert len(lines) == 6
    port = Port(raises=InvalidBridge("no"))
    answer = b""
    for way, text, more in lines:
        if way == "C":
            assert answer == b""
            answer = port.say(octets(text))
        else:
            assert answer.startswith(octets(text))
            assert more or answer == octets(text)
            answer = b""


@pytest.mark.parametrize("name", pt.__all__)
def test_every_public_name_is_in_the_document(name: str) -> None:
    assert re.search(rf"\b{name}\b", TEXT)


@pytest.mark.parametrize("word", [name for name in dir(Target) if not name.startswith("_")])
def test_every_attribute_of_a_target_is_in_the_document(word: str) -> None:
    assert f"`{word}" in TEXT
