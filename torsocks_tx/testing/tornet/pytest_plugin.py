"""The pytest fixture ``private_network``: one private Tor network for a whole test run.

Write ``pytest_plugins = ["torsocks_tx.testing.tornet.pytest_plugin"]`` in the root ``conftest.py``.
It needs pytest-twisted, and tests leave the network as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from torsocks_tx.testing.tornet.network import PrivateNetwork


@pytest.fixture(scope="session")
def private_network_options() -> dict[str, Any]:
    """The arguments of ``private_network``; override it for others than the defaults."""
    return {}


@pytest.fixture(scope="session")
def private_network(private_network_options: dict[str, Any]) -> Iterator[PrivateNetwork]:
    """A private Tor network that runs; the first test that asks for it waits about 18 s."""
    from twisted.internet import reactor

    network = PrivateNetwork(reactor, **private_network_options)
    pytest_twisted.blockon(Deferred.fromCoroutine(network.start()))
    yield network
    pytest_twisted.blockon(Deferred.fromCoroutine(network.stop()))
