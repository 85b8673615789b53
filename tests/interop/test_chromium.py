"""Chromium, headless: a page through the proxy, and the page for HTTP requests."""

from __future__ import annotations

import shlex
import struct
import zlib
from pathlib import Path

import pytest

from tests.interop.conftest import Served
from tests.support.clients import client
from tests.support.recipes import recipe
from tests.support.rows import rows
from tests.support.running import Ended, run

pytestmark = [pytest.mark.network, pytest.mark.clients("chromium")]


# Nothing that calls home, and no look-ups on this machine.
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip


async def chromium(profile: Path, *arguments: str) -> Ended:
    """Run Chromium with a profile of its own."""
    return await run(client("chromium"), *QUIET, f"--user-data-dir={profile}", *arguments)


@rows("S-06", "S-16")
async def test_chromium_gets_a_page(served: Served, tmp_path: Path) -> None:
    program, profile, *settings = shlex.split(
        recipe("Chromium", address=served.address).replace("\\\n", "")
    )
    assert (program, profile.partition("=")[0]) == ("chromium", "--user-data-dir")
    ended = await chromium(tmp_path, *settings, "--dump-dom", served.url())
    assert "origin" in ended.text, ended.complaint


@rows("S-34", "S-35", "S-36")
async def test_chromium_with_the_port_as_an_http_proxy_gets_the_page(
    served: Served, tmp_path: Path
) -> None:
    proxy = f"--proxy-server=http://{served.address}"
    shot = tmp_path / "page.png"
    show = (f"--screenshot={shot}", "--window-size=800,600", "--dump-dom", "http://canary.test/")
    dom = await chromium(tmp_path / "profile", proxy, *show)
    assert "This is a SOCKS proxy, not an HTTP proxy" in dom.text
    assert "canary" not in dom.text
    width, height, shades = look_at(shot.read_bytes())
    assert (width, height) == (800, 600)
    # A blank page, or one without its style, has only a few.
    assert shades > 20


def look_at(png: bytes) -> tuple[int, int, int]:
    """The width and height of a picture, and how many different lines of pixels it has."""
    width, height = struct.unpack("!II", png[16:24])
    position, compressed = 8, b""
    while position < len(png):
        length, kind = struct.unpack("!I4s", png[position : position + 8])
        if kind == b"IDAT":
            compressed += png[position + 8 : position + 8 + length]
        position += length + 12
    rows_of_pixels = zlib.decompress(compressed)
    stride = len(rows_of_pixels) // height
    lines = {rows_of_pixels[start : start + stride] for start in range(0, height * stride, stride)}
    return width, height, len(lines)
