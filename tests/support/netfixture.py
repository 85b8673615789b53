"""The private Tor network, once for all tests that need real tor: the fixture ``private_network``.

A plugin module: name it in the ``pytest_plugins`` of ``conftest.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from torsocks_tx.testing.tornet import PrivateNetwork


@pytest.fixture(scope="session")
def private_network() -> Iterator[PrivateNetwork]:
    """A network with one client; leave it as it was: whatever is suspended must be resumed."""
    network = PrivateNetwork(reactor)
    pytest_twisted.blockon(Deferred.fromCoroutine(network.start()))
    yield network
    pytest_twisted.blockon(Deferred.fromCoroutine(network.stop()))
