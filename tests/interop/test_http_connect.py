"""Unmodified clients that use the port as an HTTP proxy, by CONNECT."""

from __future__ import annotations

import re
import ssl
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from tests.interop.conftest import BAD_ONION, Served
from tests.interop.test_chromium import QUIET, chromium
from tests.interop.test_curl import curl
from tests.interop.test_programs import apt_update, bare_repository, site_of
from tests.support.certificates import certificate
from tests.support.clients import IPV6, client
from tests.support.rows import rows
from tests.support.running import Ended, run
from torsocks_tx.testing.tornet import PrivateNetwork
from torsocks_tx.testing.tornet.servers import LOOPBACK

pytestmark = [
    pytest.mark.network,
    # Twisted itself is behind the newest pyOpenSSL.
    pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning"),
]

PAGE = b"GET / HTTP/1.0\r\n\r\n"


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory that is served by https, and its URL: exits find it."""
    root = tmp_path / "served"
    site = site_of(root)
    (root / "index.html").write_text("<title>secure origin</title>")
    own, _ = certificate("web.test")
    port = reactor.listenSSL(0, site, own.options(), interface=LOOPBACK)
    yield root, f"https://web.test:{port.getHost().port}"
    pytest_twisted.blockon(port.stopListening())


@rows("H-01", "H-02", "H-09", "H-17")
@pytest.mark.clients("curl")
@pytest.mark.parametrize(
    "proxy",
    [
        ("-x", "http://{0}"),
        ("--proxy1.0", "{0}"),
        ("-x", "http://alice:secret@{0}"),
        ("-x", "http://tor-iso:token@{1}", "--proxy-anyauth"),
        ("-x", "http://{0}", "--proxy-header", "Tor-Stream-Isolation: token"),
        ("-x", "http://{0}", "--proxy-header", "Tor-Family-Preference: ipv4-preferred"),
    ],
)
@pytest.mark.parametrize(
    "host",
    ["web.test", "203.0.113.9", pytest.param("[2001:db8::9]", marks=pytest.mark.clients(IPV6))],
)
async def test_curl_tunnels(served: Served, proxy: tuple[str, ...], host: str) -> None:
    # The other listener asks: curl sends its login on the same connection then.
    arguments = [word.format(served.address, served.extended) for word in proxy]
    (await curl("--proxytunnel", *arguments, served.url(host))).shows("origin")


@rows("H-01")
@pytest.mark.clients("curl")
async def test_curl_fetches_by_https_and_an_onion_service(
    served: Served, secure: tuple[Path, str]
) -> None:
    proxy = {"https_proxy": f"http://{served.address}", "CURL_HOME": "/nowhere"}
    ended = await run(client("curl"), "-q", "-sSk", f"{secure[1]}/", environment=proxy)
    assert "secure origin" in ended.text, ended.complaint
    visit = ("--proxytunnel", "-x", f"http://{served.address}", f"http://{served.onion}/")
    (await served.stage.in_one_period(partial(curl, *visit))).shows("origin")


@rows("H-14", "H-15", "H-16")
@pytest.mark.clients("curl")
@pytest.mark.parametrize(
    ("url", "status", "token"),
    [("http://nx.test/", 503, "host-unreachable"),
     (f"http://{BAD_ONION}/", 400, "onion-invalid-address")],
)  # fmt: skip
async def test_curl_reads_why_a_request_failed(
    served: Served, url: str, status: int, token: str
) -> None:
    ended = await curl("--proxytunnel", "-v", "-x", f"http://{served.address}", url)
    assert ended.status == 56
    assert f"HTTP/1.1 {status} " in ended.complaint
    assert f"Tor-Request-Failed: torsocks_tx/{token}" in ended.complaint
    assert "Via: tor/1.0 tor-network (torsocks_tx " in ended.complaint
    assert "Proxy-Status: torsocks_tx; error=" in ended.complaint


@rows("H-10")
@pytest.mark.clients("curl")
async def test_curl_reads_that_this_tor_cannot_keep_to_one_family(served: Served) -> None:
    ended = await curl(
        "--proxytunnel", "-v", "-x", f"http://{served.address}",
        "--proxy-header", "Tor-Family-Preference: ipv6-only", served.url(),
    )  # fmt: skip
    assert "HTTP/1.1 501 " in ended.complaint
    assert "Tor has no SocksPort with the flags that this connection needs." in ended.complaint


@rows("H-06", "H-07")
@pytest.mark.clients("curl")
async def test_curl_asks_for_the_capabilities(served: Served) -> None:
    ended = await curl("-i", "-X", "OPTIONS", f"http://{served.address}/")
    assert "Tor-Capabilities: Proxy-Authorization Tor-Stream-Isolation " in ended.text
    other = await curl("-X", "OPTIONS", "-H", "Host: web.test", f"http://{served.address}/")
    assert (other.status, other.text) == (52, "")


@rows("H-01", "H-02", "H-18")
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(each, marks=pytest.mark.clients(each.split()[0]))
        for each in (
            "ncat --proxy {} --proxy-type http web.test {}",
            "ncat --proxy {} --proxy-type http --proxy-auth tor-iso:token web.test {}",
            "nc.openbsd -N -X connect -x {} web.test {}",
        )
    ],
)
async def test_netcats_tunnel(served: Served, command: str) -> None:
    name, *arguments = command.format(served.address, served.web).split()
    (await run(client(name), *arguments, stdin=PAGE)).shows("origin")


@rows("H-01")
@pytest.mark.clients("git")
async def test_git_clones_by_https(served: Served, secure: tuple[Path, str]) -> None:
    root, url = secure
    environment, _ = await bare_repository(root / "repository.git")
    settings = ("-c", f"http.proxy=http://{served.address}", "-c", "http.sslVerify=false")
    clone = ("clone", "-q", f"{url}/repository.git", str(root / "clone"))
    cloned = await run(client("git"), *settings, *clone, environment=environment)
    assert cloned.status == 0, cloned.complaint


@rows("H-01", "H-09")
@pytest.mark.clients("apt-get")
async def test_apt_updates_its_lists_by_https(
    served: Served, secure: tuple[Path, str], tmp_path: Path
) -> None:
    root, url = secure
    proxy = {
        "Acquire::https::Proxy": f"http://alice:secret@{served.address}",
        "Acquire::https::Verify-Peer": "false",
        "Acquire::https::Verify-Host": "false",
    }
    ended = await apt_update(root, url, tmp_path, proxy)
    assert ended.status == 0, ended.complaint
    assert re.search(r"Get:\d+ .* Packages \[\d+ B\]", ended.text), ended.text


@rows("H-01")
@pytest.mark.parametrize("user", ["", "tor-iso:token@"])
async def test_urllib_fetches_by_https(served: Served, secure: tuple[Path, str], user: str) -> None:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({"https": f"http://{user}{served.address}"}),
        urllib.request.HTTPSHandler(context=trusting),
    )

    def fetch() -> bytes:
        with opener.open(f"{secure[1]}/", timeout=110) as answer:
            text: bytes = answer.read()
            return text

    assert b"secure origin" in await deferToThread(fetch)


@rows("H-01")
@pytest.mark.clients("chromium")
async def test_chromium_gets_a_page_by_https(
    served: Served, secure: tuple[Path, str], tmp_path: Path
) -> None:
    ended = await chromium(
        tmp_path / "profile", f"--proxy-server=http://{served.address}",
        "--ignore-certificate-errors", "--dump-dom", f"{secure[1]}/",
    )  # fmt: skip
    assert "secure origin" in ended.text, ended.complaint


async def check_circuits(
    network: PrivateNetwork, url: str, fetch: Callable[[str], Awaitable[Ended]]
) -> None:
    """Check that a page arrives with each of two passwords, and that only one of them shares."""

    async def circuits_of(password: str) -> set[int]:
        watch = await network.client.watch_streams()
        ended = await fetch(password)
        await watch.close()
        assert "secure origin" in ended.text, ended.complaint
        return set(watch.circuits(url.removeprefix("https://")))

    first = await circuits_of("one")
    other = await circuits_of("two")
    assert first
    assert other
    for _ in range(3):
        again = await circuits_of("one")
        assert not (first | again) & other
        if again & first:
            return
        first = again  # tor had given up the circuit
    pytest.fail("one login had four circuits")


PLAYWRIGHT = """
import sys
from playwright.sync_api import sync_playwright
browser, url, server, password, *arguments = sys.argv[1:]
with sync_playwright() as playwright:
    chromium = playwright.chromium.launch(
        executable_path=browser,
        timeout=110_000,
        args=arguments,
        proxy={"server": server, "username": "tor-iso", "password": password},
    )
    page = chromium.new_page(ignore_https_errors=True)
    page.goto(url, timeout=110_000)
    print(page.title())
    chromium.close()
"""


@rows("H-08", "H-17")
@pytest.mark.clients("chromium", "playwright")
async def test_logins_of_chromium_by_playwright_have_circuits_of_their_own(
    served: Served, secure: tuple[Path, str], private_network: PrivateNetwork
) -> None:
    async def fetch(password: str) -> Ended:
        program = (sys.executable, "-W", "ignore", "-c", PLAYWRIGHT, client("chromium"))
        return await run(*program, f"{secure[1]}/", f"http://{served.extended}", password, *QUIET)

    await check_circuits(private_network, secure[1], fetch)


UNDICI = """
const [undici, page, uri, password] = process.argv.slice(2);
const { ProxyAgent, fetch } = require(undici);
const token = "Basic " + Buffer.from("tor-iso:" + password).toString("base64");
const dispatcher = new ProxyAgent({ uri, token, requestTls: { rejectUnauthorized: false } });
fetch(page, { dispatcher })
  .then((answer) => answer.text())
  .then((text) => { console.log(text); return dispatcher.close(); });
"""


@rows("H-01", "H-08")
@pytest.mark.clients("node", "undici")
async def test_tokens_of_undici_have_circuits_of_their_own(
    served: Served, secure: tuple[Path, str], tmp_path: Path, private_network: PrivateNetwork
) -> None:
    script, undici = tmp_path / "fetch.js", client("undici")
    script.write_text(UNDICI)

    async def fetch(password: str) -> Ended:
        arguments = (undici, f"{secure[1]}/", f"http://{served.address}", password)
        libraries = {"NODE_PATH": str(Path(undici).parent)}
        return await run(client("node"), str(script), *arguments, environment=libraries)

    await check_circuits(private_network, secure[1], fetch)


AIOHTTP = """
import aiohttp, asyncio, sys
async def main():
    page, proxy = sys.argv[1:]
    async with aiohttp.ClientSession() as session:
        async with session.get(page, proxy=proxy, ssl=False) as answer:
            print(await answer.text())
asyncio.run(main())
"""
SCRAPY = """
import scrapy, sys
from scrapy.crawler import CrawlerProcess
class Titles(scrapy.Spider):
    name = "titles"
    async def start(self):
        yield scrapy.Request(sys.argv[1], meta={"proxy": sys.argv[2]})
    def parse(self, response):
        print(response.text)
process = CrawlerProcess({"LOG_LEVEL": "ERROR", "TELNETCONSOLE_ENABLED": False})
process.crawl(Titles)
process.start()
"""


@rows("H-01", "H-09")
@pytest.mark.clients("scrapy")  # it brings aiohttp
@pytest.mark.parametrize("program", [AIOHTTP, SCRAPY], ids=["aiohttp", "scrapy"])
async def test_python_clients_tunnel_with_a_login(
    served: Served, secure: tuple[Path, str], program: str
) -> None:
    proxy = f"http://tor-iso:token@{served.address}"
    ended = await run(sys.executable, "-W", "ignore", "-c", program, f"{secure[1]}/", proxy)
    assert "secure origin" in ended.text, ended.complaint
