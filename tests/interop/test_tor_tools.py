"""tor-resolve and torsocks, as Tor's own users have them."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from tests.interop.conftest import BAD_ONION, Served
from tests.support.clients import client
from tests.support.rows import rows
from tests.support.running import Ended, run

pytestmark = pytest.mark.network


async def tor_resolve(served: Served, *arguments: str) -> Ended:
    """Run tor-resolve against the server."""
    return await run(client("tor-resolve"), *arguments, served.address)


async def torsocks(served: Served, *arguments: str) -> Ended:
    """Run a program under torsocks with the server as its tor."""
    return await run(client("torsocks"), "-a", "127.0.0.1", "-P", served.port, *arguments)


@rows("S-24", "S-25", "S-26", "S-27", "S-29", "S-30")
@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["doc.test"], "203.0.113.9"),
        (["-4", "doc.test"], "203.0.113.9"),
        (["doc6.test"], "2001:db8::9"),
        (["-x", "203.0.113.9"], "doc.test"),
        (["-x", "2001:db8::9"], "doc6.test"),
    ],
)
@pytest.mark.clients("tor-resolve")
async def test_tor_resolve_prints_the_answer(
    served: Served, arguments: list[str], answer: str
) -> None:
    ended = await tor_resolve(served, *arguments)
    assert (ended.status, ended.text.strip("[]")) == (0, answer), ended.complaint


@rows("S-26")
@pytest.mark.parametrize("arguments", [["nx.test"], ["-4", "nx.test"], ["-x", "198.51.100.77"]])
@pytest.mark.clients("tor-resolve")
async def test_tor_resolve_fails_for_names_that_do_not_exist(
    served: Served, arguments: list[str]
) -> None:
    ended = await tor_resolve(served, *arguments)
    assert ended.status == 1


@rows("S-17", "S-24", "R-26")
@pytest.mark.parametrize("options", [[], ["-i"], ["-u", "alice", "-p", "secret"]])
@pytest.mark.clients("torsocks", "curl")
async def test_torsocks_looks_up_and_then_connects(served: Served, options: list[str]) -> None:
    ended = await torsocks(served, *options, client("curl"), "-q", "-sS", served.url("doc.test"))
    ended.shows("origin")


@rows("S-01")
@pytest.mark.clients("torsocks", "curl")
async def test_torsocks_visits_an_onion_service(served: Served) -> None:
    visit = (client("curl"), "-q", "-sS", f"http://{served.onion}/")
    (await served.stage.in_one_period(partial(torsocks, served, *visit))).shows("origin")
    bad = await torsocks(served, client("curl"), "-q", "-sS", f"http://{BAD_ONION}/")
    assert bad.status != 0


@rows("S-30")
@pytest.mark.clients("torsocks", "curl")
async def test_torsocks_looks_up_the_name_of_an_address(served: Served) -> None:
    code = "import socket; print(socket.gethostbyaddr('203.0.113.9')[0])"
    ended = await torsocks(served, sys.executable, "-c", code)
    assert ended.status == 0, ended.complaint
    assert ended.text == "doc.test"
