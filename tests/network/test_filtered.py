"""A server behind a filter before the control port of a real tor."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString

from tests.network.asking import serving
from tests.network.test_onion_failures import code_of
from tests.onion.craft import Service
from tests.onion.scenarios import Stage
from tests.support.control_filter import ControlFilter, page_profile
from torsocks_tx.backends.tor.providers import RunningTorProvider
from torsocks_tx.testing.tornet import PrivateNetwork


@pytest.mark.network
async def test_server_serves_behind_the_narrowest_filter_and_loses_nothing_by_the_profile(
    private_network: PrivateNetwork, tmp_path: Path, log_lines: list[str]
) -> None:
    """Where tor's SocksPort is not its default one, that is all that must be admitted."""
    tor, web = private_network.client.node, private_network.web.port
    stage = Stage(private_network, private_network.client)
    exit = next(iter(private_network.exits.values()))
    for number, (admits, onion_code, by_exit) in enumerate(
        [("GETINFO net/listeners/socks".__eq__, 0x04, 1), (page_profile(), 0xF0, 0)]
    ):
        before = ControlFilter(
            tmp_path / str(number),
            clientFromString(reactor, tor.control_endpoint),
            admits,
            cookie=tor.directory / "control_auth_cookie",
        )
        port = await before.listen()
        async with serving(RunningTorProvider(reactor, before.endpoint)) as server:
            place = server.listen("ExtendedErrors")
            assert await code_of(place, "web.test", web) == 0
            once = partial(code_of, place, Service().address)
            assert await stage.in_one_period(once) == onion_code
            chosen = server.listen(f"ExitNode={exit.fingerprint}")
            assert await code_of(chosen, "web.test", web) == by_exit
        await port.stopListening()
        refused = [line for line in log_lines if "control port refuses" in line]
        assert len(refused) == len(set(refused))
        assert bool(refused) is bool(by_exit)
        log_lines.clear()
