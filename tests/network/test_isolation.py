"""Which streams share circuits, according to tor's control port."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_twisted

from tests.network.asking import Serving, ask, hang_up, request, serving
from tests.support.rows import rows
from torsocks_tx.socks.constants import Version
from torsocks_tx.testing.tornet import PrivateNetwork

pytestmark = pytest.mark.network


@dataclass(frozen=True)
class Who:
    """One stream's client and destination. ``listener`` 0 and 1 are two listeners."""

    user: bytes | None = None
    password: bytes = b""
    version: Version = Version.SOCKS5
    source: str = "127.0.0.1"
    host: str = "web.test"
    origin: str = "web"
    listener: int = 0


NOBODY = Who()
FOUR, HTTP = Version.SOCKS4, Version.HTTP

APART = "apart"
TOGETHER = "together"

CASES = [
    ("the same client twice", "", NOBODY, NOBODY, TOGETHER),
    ("the same credentials", "", Who(b"a", b"1"), Who(b"a", b"1"), TOGETHER),
    ("the same SOCKS4 id", "", Who(b"a", version=FOUR), Who(b"a", version=FOUR), TOGETHER),
    ("the same token", "", Who(b"<torS0X>0", b"t"), Who(b"<torS0X>0", b"t"), TOGETHER),
    ("destinations, by default", "", NOBODY, Who(host="both.test"), TOGETHER),
    ("ports, by default", "", NOBODY, Who(origin="echo"), TOGETHER),
    ("user names", "", Who(b"a", b"1"), Who(b"b", b"1"), APART),
    ("passwords", "", Who(b"a", b"1"), Who(b"a", b"2"), APART),
    ("the border between name and password", "", Who(b"ab", b"c"), Who(b"a", b"bc"), APART),
    ("no credentials and empty ones", "", NOBODY, Who(b"", b""), APART),
    ("SOCKS4 id and SOCKS5 name", "", Who(b"a", version=FOUR), Who(b"a"), APART),
    ("token and user name", "", Who(b"<torS0X>0", b"t"), Who(b"t", b"t"), APART),
    ("the same HTTP credentials", "", Who(b"tor-iso", b"1", HTTP), Who(b"tor-iso", b"1", HTTP),
     TOGETHER),
    ("HTTP credentials", "", Who(b"tor-iso", b"1", HTTP), Who(b"tor-iso", b"2", HTTP), APART),
    ("HTTP and SOCKS5 credentials", "", Who(b"a", b"1", HTTP), Who(b"a", b"1"), APART),
    ("HTTP and SOCKS5 without any", "", Who(version=HTTP), NOBODY, APART),
    ("HTTP and SOCKS5 where none count", "NoIsolateSOCKSAuth", Who(b"a", b"1", HTTP), NOBODY,
     TOGETHER),
    ("client addresses", "", NOBODY, Who(source="127.0.0.2"), APART),
    ("listeners", "", NOBODY, Who(listener=1), APART),
    ("listeners of one group", "SessionGroup=7", NOBODY, Who(listener=1), TOGETHER),
    ("client addresses that do not count", "NoIsolateClientAddr", NOBODY, Who(source="127.0.0.2"),
     TOGETHER),
    ("credentials that do not count", "NoIsolateSOCKSAuth", Who(b"a"), Who(b"b"), TOGETHER),
    ("versions", "IsolateClientProtocol NoIsolateSOCKSAuth", NOBODY, Who(version=FOUR), APART),
    ("versions that do not count", "NoIsolateSOCKSAuth", NOBODY, Who(version=FOUR), TOGETHER),
    ("ports", "IsolateDestPort", NOBODY, Who(origin="echo"), APART),
    ("destinations", "IsolateDestAddr", NOBODY, Who(host="both.test"), APART),
    ("the case of a destination", "IsolateDestAddr", NOBODY, Who(host="WEB.test"), TOGETHER),
]  # fmt: skip


@pytest_twisted.async_yield_fixture
async def server(private_network: PrivateNetwork) -> AsyncIterator[Serving]:
    """Our server over the first client of the network."""
    async with serving(private_network.client) as server:
        yield server


async def _circuit_of(network: PrivateNetwork, servers: list[str], who: Who) -> int:
    """Open the stream that ``who`` describes; the circuit that tor chose for it."""
    port = getattr(network, who.origin).port
    watch = await network.client.watch_streams()
    what = request(who.host, port, version=who.version, user=who.user, password=who.password)
    asker = await ask(servers[who.listener], what, source=who.source)
    target = f"{who.host}:{port}"
    (event,) = await watch.wait_for("SUCCEEDED", target)
    await watch.close()
    await hang_up(asker)
    # tor's events hold no credentials of the client.
    assert event.socks_username == "<torS0X>0"
    assert re.fullmatch("[0-9a-f]{64}", event.socks_password or "")
    return event.circuit_id


@rows("S-13", "S-17", "S-23", "R-33", "H-08", "H-09")
@pytest.mark.parametrize(("flags", "one", "other", "expected"), [c[1:] for c in CASES],
                         ids=[c[0] for c in CASES])  # fmt: skip
async def test_streams_share_circuits_as_their_isolation_says(
    private_network: PrivateNetwork,
    server: Serving,
    flags: str,
    one: Who,
    other: Who,
    expected: str,
) -> None:
    servers = [server.listen(*flags.split()) for _ in range(2)]
    first = await _circuit_of(private_network, servers, one)
    second = await _circuit_of(private_network, servers, other)
    assert (first == second) is (expected == TOGETHER)
