"""The status page in Chromium, while unmodified clients use the server on a private Tor network."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.interop.conftest import BAD_ONION, Served
from tests.interop.test_curl import curl
from tests.support.clients import client
from tests.support.processes import ROOT, Program
from tests.support.running import Twistd

pytestmark = [pytest.mark.network, pytest.mark.clients("chromium", "playwright", "curl")]


class Browser(Program):
    """The program that looks, and its answers."""

    async def do(self, name: str, *arguments: object) -> Any:
        self.transport.write(json.dumps([name, *arguments]).encode() + b"\n")
        return json.loads(await self.line())


@pytest_twisted.async_yield_fixture
async def chromium() -> AsyncIterator[Browser]:
    program = Browser()
    arguments = [
        sys.executable,
        "-W",
        "ignore",
        str(ROOT / "tests" / "support" / "browser.py"),
        client("chromium"),
    ]
    program.start(arguments, dict(os.environ))
    yield program
    program.transport.closeStdin()
    await program.end()
    assert program.status == 0, program.errors


async def look(chromium: Browser, url: str, width: int, scheme: str, script: bool = True) -> str:
    """Open the page, and check that nothing is wrong with it; return its text."""
    await chromium.do("open", url, width, scheme, script)
    seen = await chromium.do("look")
    assert (seen["width"], seen["wrong"], seen["said"]) == (width, [], [])
    text: str = seen["text"]
    return text


async def test_page_shows_streams_failures_and_circuits_as_they_come(
    served: Served, chromium: Browser
) -> None:
    assert (await curl("-x", f"socks5h://{served.address}", served.url())).status == 0
    url = served.status_page
    for width, scheme, script in ((360, "dark", False), (360, "light", True), (1200, "dark", True)):
        text = await look(chromium, url, width, scheme, script)
        assert "Ready Clients are served." in text
        assert "ExtendedErrors" in text
        assert "open" in text
        for secret in ("web.test", served.onion, "203.0.113.9"):
            assert secret not in text
    # What happens later comes by itself, and by the keyboard there are fresh circuits.
    await chromium.do("until", "updates", "Live")
    ended = await curl("-x", f"socks5h://{served.address}", f"http://{BAD_ONION}/")
    assert ended.status != 0
    await chromium.do("until", "outcomes", "F6")
    assert "general" in await chromium.do("until", "circuits", "exit")
    assert "fresh circuits" in await chromium.do("press")
    await served.twistd.said("status page: ")
    await look(chromium, url, 360, "light", script=False)
    assert "fresh circuits" in await chromium.do("press")


async def test_page_shows_the_progress_of_a_tor_that_starts(
    chromium: Browser, tmp_path: Path
) -> None:
    loopback = "tcp:0:interface=127.0.0.1"
    listen = ("--listen", loopback, "--status", loopback)
    data = ("--tor-data-directory", str(tmp_path / "tor"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bridge = f"Bridge 127.0.0.1:{silent.getsockname()[1]}"
        options = ("--tor-option", "UseBridges 1", "--tor-option", bridge)
        twistd = Twistd(*listen, *data, *options, directory=tmp_path)
        await twistd.up()
        text = await look(chromium, f"http://{twistd.status_page}/", 360, "light")
        assert "Starting Tor is not ready yet: clients wait." in text
        assert "%" in await chromium.do("until", "state", "%")
        await twistd.stop()
