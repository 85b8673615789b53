"""A running server while tor is killed and started again."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.protocol import Factory

from tests.network.asking import DEADLINE, Asker, ask, hang_up, request, serving
from tests.support.rows import rows
from tests.support.running import Twistd
from torsocks_tx.backends.tor.providers import FixedTorProvider
from torsocks_tx.errors import GeneralFailure, SOCKSError
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.testing.tornet import PrivateNetwork

pytestmark = pytest.mark.network


@rows("S-02", "R-20", "R-29")
async def test_service_resumes_after_tor_was_killed(
    private_network: PrivateNetwork, tmp_path: Path
) -> None:
    """Open streams end, new clients get 01 within 2 s, and service resumes by itself."""
    network = private_network
    client = await network.add_client()
    options = ("--listen", "tcp:0:interface=127.0.0.1", "--tor", client.control_endpoint)
    twistd = Twistd("--debug", *options, directory=tmp_path)
    try:
        await twistd.up()
        await twistd.said("tor is ready")
        (server,) = twistd.addresses
        what = request("web.test", network.echo.port)
        before = await ask(server, what)
        before.transport.write(b"hello")
        client.node.kill()
        await before.lost.addTimeout(DEADLINE, reactor)
        await twistd.said("tor is gone")
        took = []
        for _ in range(20):
            began = reactor.seconds()
            with pytest.raises(GeneralFailure):
                await ask(server, what)
            took.append(reactor.seconds() - began)
        assert sorted(took)[15] < 2, "some may wait for their turn on a busy machine"
        await network.restart(client.name)
        await twistd.said("#info] tor is back")
        await hang_up(await ask(server, what))
    finally:
        assert await twistd.stop() == -15
    assert twistd.output.count("#warn] tor is gone") == 1
    assert "Traceback" not in twistd.output


@rows("R-29")
@pytest.mark.parametrize(("place", "reason"), [("tcp", "CONNRESET"), ("unix", "DONE")])
async def test_client_that_leaves_closes_the_stream_in_tor(
    private_network: PrivateNetwork, place: str, reason: str
) -> None:
    """By a reset, which a unix socket cannot show."""
    tor = private_network.client
    # Nobody has this service, and tor looks for it for a while.
    host = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion"
    asker = Asker(request(host, 80))
    endpoint: Any = (
        UNIXClientEndpoint(reactor, tor.socks_unix)
        if place == "unix"
        else TCP4ClientEndpoint(reactor, *tor.socks_tcp)
    )
    async with serving(FixedTorProvider(endpoint)) as server:
        watch = await tor.watch_streams()
        address, _, port = server.listen().partition(":")
        ours = TCP4ClientEndpoint(reactor, address, int(port))
        await ours.connect(Factory.forProtocol(lambda: asker))
        await watch.wait_for("NEW", f"{host}:80")
        asker.outcome.addErrback(lambda failure: None)
        asker.transport.loseConnection()
        (closed,) = await watch.wait_for("CLOSED", f"{host}:80")
        assert closed.reason == reason
        await watch.close()


@rows("S-07")
async def test_no_name_is_looked_up_on_this_machine(
    private_network: PrivateNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look-up function fails here, and names still work: an exit resolves them."""
    network = private_network
    looked_up: list[object] = []

    def trap(*arguments: object, **_: object) -> None:
        looked_up.append(arguments)
        raise OSError("no look-up is allowed here")

    look_ups = "getaddrinfo gethostbyname gethostbyname_ex gethostbyaddr getnameinfo"
    for name in look_ups.split():
        monkeypatch.setattr(socket, name, trap)
    monkeypatch.setattr(reactor.nameResolver, "resolveHostName", trap)
    monkeypatch.setattr(reactor, "resolve", trap)
    # The exits remember what they have asked before.
    unknown = f"nx{secrets.token_hex(8)}.test"
    async with serving(network.client) as serving_:
        server = serving_.listen()
        for version in (Version.SOCKS4, Version.SOCKS5):
            await hang_up(await ask(server, request("web.test", network.web.port, version=version)))
            await ask(server, request("doc.test", 0, version=version, command=Command.RESOLVE))
            for host in (unknown, "odd_name-.test", "x" * 63 + ".test"):
                with pytest.raises(SOCKSError):
                    await ask(server, request(host, 80, version=version))
        await ask(server, request("203.0.113.9", 0, command=Command.RESOLVE_PTR))
    assert not looked_up
    assert unknown in {asked.name for asked in network.names.asked}
