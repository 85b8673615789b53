"""The private Tor networks, each once for all tests that need real tor.

``private_network`` is the usual one, ``country_network`` one with exits in two countries. A plugin
module: name it in the ``pytest_plugins`` of ``conftest.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.support.processes import DEADLINE, is_alive
from torsocks_tx.testing.tornet import DEFAULT_NAMES, PrivateNetwork, client

client.WAIT_DEADLINE = DEADLINE  # for busy machines


@pytest.fixture(scope="session")
def private_network() -> Iterator[PrivateNetwork]:
    """A network with one client; leave it as it was: whatever is suspended must be resumed."""
    yield from running(PrivateNetwork(reactor))


@pytest.fixture(scope="session")
def country_network() -> Iterator[PrivateNetwork]:
    """Exits 0 to 2 in ``aa`` and 3 to 5 in ``bb``; leave it as it was.

    Only exit2 and exit5 take the banner server's port, and none in ``aa`` takes port 25; clients
    know both. What only exit1 knows: it refuses 127.0.0.2, the address of ``refused.test``. A
    client that must go by exit1 then builds 20 circuits a second for it, until its SocksTimeout.
    """
    mail, banner = "reject *:25", "reject *:{banner}"
    yield from running(
        PrivateNetwork(
            reactor,
            names={**DEFAULT_NAMES, "refused.test": ["127.0.0.2"]},
            countries={"aa": 3, "bb": 3},
            exit_policies={
                "exit0": [mail, banner],
                "exit1": [mail, banner, "reject 127.0.0.2:*"],
                "exit2": [mail],
                "exit3": [banner],
                "exit4": [banner],
            },
        )
    )


def running(network: PrivateNetwork) -> Iterator[PrivateNetwork]:
    """Start a network; stop it at the end, and fail if a process or a file of it is left."""
    pytest_twisted.blockon(Deferred.fromCoroutine(network.start()))
    yield network
    pids = [node.pid for node in network.daemons.values()]
    pytest_twisted.blockon(Deferred.fromCoroutine(network.stop()))
    assert not any(map(is_alive, pids))
    assert not network.directory.exists()
