"""One ``twistd torsocks`` on the private Tor network, for all unmodified clients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from tests.onion.scenarios import Stage
from tests.support.running import Twistd
from torsocks_tx.testing.tornet import PrivateNetwork
from torsocks_tx.testing.tornet.onion import OnionService

BAD_ONION = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzazad.onion"
"""A well-formed address with a wrong checksum."""


EXTENDED = "ExtendedErrors HTTPAskForCredentials"
"""The flags of the other listener."""


@dataclass(frozen=True)
class Served:
    """The server and the origins, as clients need to know them."""

    twistd: Twistd
    address: str
    extended: str
    web: int
    banner: int
    onion: str
    stage: Stage

    @property
    def port(self) -> str:
        """The port of the plain listener."""
        return self.address.rpartition(":")[2]

    @property
    def status_page(self) -> str:
        """The URL of the status page."""
        return f"http://{self.twistd.status_page}/"

    def url(self, name: str = "web.test", path: str = "/") -> str:
        """A page of the web origin."""
        return f"http://{name}:{self.web}{path}"


async def _serve(network: PrivateNetwork, directory: Path) -> tuple[Twistd, OnionService]:
    onion = await network.add_onion_service(network.web.port)
    loopback = "tcp:0:interface=127.0.0.1"
    listen = ("--listen", loopback, "--listen", f"{loopback} {EXTENDED}")
    listen = (*listen, "--status", loopback)
    tor = ("--tor", network.client.control_endpoint, "--shutdown-grace", "1")
    twistd = Twistd(*listen, *tor, directory=directory, listeners=2)
    await twistd.up()
    await twistd.said("tor is ready")
    return twistd, onion


@pytest.fixture(scope="session")
def served(
    private_network: PrivateNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Give the server; check at the end that its log has no traceback and no names."""
    directory = tmp_path_factory.mktemp("twistd")
    twistd, onion = pytest_twisted.blockon(ensureDeferred(_serve(private_network, directory)))
    plain, extended = twistd.addresses
    ports = (each.port for each in (private_network.web, private_network.banner))
    stage = Stage(private_network, private_network.client)
    yield Served(twistd, plain, extended, *ports, onion.address, stage)
    pytest_twisted.blockon(ensureDeferred(twistd.stop()))
    log = twistd.output
    assert "Traceback" not in log
    assert "Unhandled" not in log
    for secret in ("web.test", "doc.test", "nx.test", onion.address, "alice", "203.0.113.9"):
        assert secret not in log, secret
    known = log
    for address in (plain, extended, twistd.status_page):
        known = known.replace(f"at {address}", "")
    assert "127.0.0.1" not in known, known
