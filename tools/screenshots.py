"""Takes the pictures of the status page that the documents show: ``docs/pictures/status-*.png``.

A private Tor network, our server on it, and streams that come, stay and fail: two minutes. It needs
Chromium, tor and the extras ``test`` and ``dev``; flags need Debian's fonts-noto-color-emoji.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import socks
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.onion.craft import Service  # noqa: E402
from tests.support.browser import QUIET, Browser  # noqa: E402

IMAGES = ROOT / "docs" / "pictures"
SECONDS = 120
"""How long there are streams before the pictures are taken."""

LOOPBACK = "tcp:0:interface=127.0.0.1"
BAD = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzazad.onion"
"""An onion address with a wrong checksum."""


@contextlib.contextmanager
def running(*command: str) -> Iterator[Any]:
    """Run a program of ours; it ends by SIGTERM."""
    arguments = [sys.executable, "-W", "ignore", "-m", *command]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process.stdout
        finally:
            process.terminate()


def line_with(output: Any, pattern: str) -> str:
    """Return what the group of a pattern is in the first line that has it."""
    for line in output:
        if found := re.search(pattern, line):
            return found[1]
    raise SystemExit(f"no line has {pattern!r}")


@contextlib.contextmanager
def server(*arguments: str) -> Iterator[tuple[int, str]]:
    """Run ``torsocks-tx``; yield its SOCKS port and the URL of its status page."""
    options = ("--listen", f"{LOOPBACK} ExtendedErrors", "--status", LOOPBACK)
    with running("torsocks_tx", *options, *arguments) as output:
        found = [line_with(output, r"(?:SOCKS5|status page) at \S*?:(\d+)") for _ in range(2)]
        # Nobody reads on, and its log is short.
        yield int(found[0]), f"http://127.0.0.1:{found[1]}/"


def connect(port: int, host: str, to: int, user: str) -> socket.socket:
    """Open a stream, with a circuit for each user."""
    client: Any = socks.socksocket()
    client.set_proxy(socks.SOCKS5, "127.0.0.1", port, rdns=True, username=user, password="x")
    client.settimeout(60)
    client.connect((host, to))
    opened: socket.socket = client
    return opened


def fetch(port: int, facts: Any, number: int) -> None:
    """Fetch some bytes; some requests go to a place that is not there."""
    chance = random.Random(number)
    host, to = ("web.test", facts["origins"]["web"])
    match number % 60:
        case 5:
            host, to = Service().address, 80
        case 23 | 40:
            host, to = BAD, 80
        case 9 | 38:
            host, to = facts["onion"], 80
        case 11 | 31 | 51:
            host = "nx.test"
    with (
        contextlib.suppress(OSError, socks.ProxyError),
        connect(port, host, to, f"user{number % 4}") as client,
    ):
        page = f"/bytes/{chance.randrange(1, 900) * 1000}"
        client.sendall(f"GET {page} HTTP/1.0\r\n\r\n".encode())
        while client.recv(65536):
            pass


def traffic(port: int, facts: Any, over: threading.Event) -> None:
    """Make streams until it is over; some of them stay till then."""
    stay: list[socket.socket] = []
    with ThreadPoolExecutor(6) as pool:
        for number in itertools.count():
            if number % 40 == 1 and len(stay) < 9:
                echo = facts["origins"]["echo"]
                stay.append(connect(port, "web.test", echo, f"user{number % 7}"))
            pool.submit(fetch, port, facts, number)
            if over.wait(random.choice((0.05, 0.2, 0.6))):
                break
    for client in stay:
        client.close()


def take(
    browser: Browser, url: str, name: str, width: int, height: int, scheme: str = "light"
) -> None:
    """Take one picture."""
    browser.open(url, width, scheme)
    browser.until("updates", "Live")
    browser.until("state", "10 % · " if name == "starting" else "Ready")
    path = IMAGES / f"status-{name}.png"
    browser.shoot(str(path), height)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


def main() -> None:
    """Take all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as directory:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*QUIET]
        )
        browser = Browser(chromium)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            bridge = f"Bridge 127.0.0.1:{silent.getsockname()[1]}"
            options = ("--tor-option", "UseBridges 1", "--tor-option", bridge)
            with server(*options, "--tor-data-directory", f"{directory}/tor") as (_, url):
                take(browser, url, "starting", 1000, 450)
        network = ("--countries", "de=2,nl=2,fr=2", "--onion", "--json")
        with running("torsocks_tx.testing.tornet", *network) as output:
            facts = json.loads(line_with(output, r"^(\{.*\})$"))
            with server("--tor", facts["clients"][0]["control"]) as (port, url):
                over = threading.Event()
                users = threading.Thread(target=traffic, args=(port, facts, over))
                users.start()
                try:
                    time.sleep(SECONDS)
                    take(browser, url, "light", 1200, 800)
                    take(browser, url, "dark", 1200, 800, "dark")
                    take(browser, url, "narrow", 360, 1000)
                finally:
                    over.set()
                    users.join()
        chromium.close()


if __name__ == "__main__":
    main()
