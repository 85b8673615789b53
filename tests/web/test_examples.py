"""The examples that fetch pages, run as a reader would run them."""

from __future__ import annotations

import pytest

from tests.support.processes import ROOT, start_python
from tests.web.conftest import Proxy
from torsocks_tx.errors import ConnectionRefused, NotAllowed

URLS = ["http://example.com/", "http://example.org/"]


async def fetch(name: str, *arguments: str) -> list[str]:
    """Run an example to its end; return the lines that it printed."""
    program = start_python(str(ROOT / "examples" / name), *arguments)
    assert await program.end() == 0, program.errors.decode()
    return program.lines


async def test_treq_example_fetches_each_site_as_another_identity(proxy: Proxy) -> None:
    lines = await fetch("treq_client.py", proxy.text, *URLS)
    assert [line.partition(": ")[2] for line in lines] == ["200, 66 bytes"] * 2
    assert len({password for _, _, password in proxy.asked}) == 2


@pytest.mark.parametrize(("kind", "tries"), [(ConnectionRefused, 3), (NotAllowed, 1)])
async def test_treq_example_tries_again_where_that_may_help(
    proxy: Proxy, kind: type[ConnectionRefused | NotAllowed], tries: int
) -> None:
    proxy.refusal = kind("as the test wants it")
    [line] = await fetch("treq_client.py", proxy.text, URLS[0])
    assert line == f"{URLS[0]}: {kind.sentence} (reply {kind.code:02X})"
    assert len(proxy.asked) == tries


@pytest.mark.network
@pytest.mark.clients("scrapy")
async def test_scrapy_example_prints_titles_or_why_there_is_none(proxy: Proxy) -> None:
    lines = await fetch("scrapy_spider.py", proxy.text, *URLS)
    assert sorted(lines) == [f"{url}: origin" for url in URLS]
    assert len({password for _, _, password in proxy.asked}) == 2
    proxy.refusal = NotAllowed("as the test wants it")
    [line] = await fetch("scrapy_spider.py", proxy.text, URLS[0])
    assert line == f"no page: {NotAllowed.sentence} (reply 02)"
