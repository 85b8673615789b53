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
    script = str(ROOT / "tests" / "support" / "browser.py")
    program.start([sys.executable, script, client("chromium")], dict(os.environ))
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


async def test_page_is_live_accessible_and_has_its_button(
    served: Served, chromium: Browser, tmp_path: Path
) -> None:
    assert (await curl("-x", f"socks5h://{served.address}", served.url())).status == 0
    url = served.status_page
    for width, scheme, script in ((360, "dark", False), (360, "light", True), (1200, "dark", True)):
        text = await look(chromium, url, width, scheme, script)
        assert "Ready Clients are served." in text
        assert "ExtendedErrors" in text
        for secret in ("web.test", served.onion, "203.0.113.9"):
            assert secret not in text
    # What happens later comes by itself.
    assert "exit" in await chromium.do("until", "circuits", "general")
    before = await chromium.do("until", "outcomes", "open")
    await curl("-x", f"socks5h://{served.address}", f"http://{BAD_ONION}/")
    assert "F6" in await chromium.do("until_not", "outcomes", before)
    assert "have fresh circuits" in await chromium.do("press")
    await served.twistd.said("status page: ")
    await look(chromium, url, 360, "light", script=False)
    # On a slow machine the 10 seconds may be over.
    said = await chromium.do("press")
    assert "Fresh circuits come in at most 10 seconds" in said or "have fresh circuits" in said
    await check_start(chromium, tmp_path)


async def check_start(chromium: Browser, directory: Path) -> None:
    """Check what the page shows while tor starts: a bridge does not answer it."""
    loopback = "tcp:0:interface=127.0.0.1"
    listen = ("--listen", loopback, "--status", loopback)
    data = ("--tor-data-directory", str(directory / "tor"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bridge = f"Bridge 127.0.0.1:{silent.getsockname()[1]}"
        options = ("--tor-option", "UseBridges 1", "--tor-option", bridge)
        twistd = Twistd(*listen, *data, *options, directory=directory)
        await twistd.up()
        text = await look(chromium, f"http://{twistd.status_page}/", 360, "light")
        assert "Starting Clients wait until it is ready." in text
        await chromium.do("until", "state", "10 % · ")
        await twistd.stop()
