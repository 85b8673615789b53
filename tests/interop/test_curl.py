"""curl, unmodified, in every way that it speaks SOCKS."""

from __future__ import annotations

from functools import partial

import pytest

from tests.interop.conftest import BAD_ONION, Served
from tests.support.clients import IPV6, client
from tests.support.rows import rows
from tests.support.running import Ended, run

pytestmark = [pytest.mark.network, pytest.mark.clients("curl")]


async def curl(*arguments: str) -> Ended:
    """Run curl with its errors shown and no settings of the user's."""
    return await run(client("curl"), "-q", "-sS", "--max-time", "110", *arguments)


async def page(*arguments: str, words: str = "origin") -> None:
    """The page arrives."""
    (await curl(*arguments)).shows(words)


@rows(
    "R-02", "S-01", "S-04", "S-05", "S-06", "S-08", "S-13", "S-14", "S-15", "S-16", "S-17", "S-19"
)
@pytest.mark.parametrize(
    ("proxy", "host", "words"),
    [
        ("--socks4 {}", "203.0.113.9", "IPv4"),
        ("-x socks4a://{}", "web.test", "origin"),
        ("-x socks4a://alice@{}", "web.test", "origin"),
        ("--socks5-hostname {}", "web.test", "origin"),  # GSSAPI is offered too
        pytest.param("--socks5 {}", "[2001:db8::9]", "IPv6", marks=pytest.mark.clients(IPV6)),
        *(
            (f"-x socks5h://{user}@{{}}", "web.test", "origin")
            for user in ("alice:secret", ":", "alice:", ":secret", "%3CtorS0X%3E0:token")
        ),
    ],
)
async def test_a_page_arrives_by_every_version_and_login(
    served: Served, proxy: str, host: str, words: str
) -> None:
    await page(*proxy.format(served.address).split(), served.url(host), words=words)


@rows("S-17", "S-20")
async def test_unknown_format_of_extended_credentials_is_refused(served: Served) -> None:
    ended = await curl("-x", f"socks5h://%3CtorS0X%3E9:x@{served.address}", served.url())
    assert ended.status == 97
    assert "rejected by the SOCKS5 server" in ended.complaint


@rows("S-41", "S-42", "S-22")
async def test_reply_codes_depend_on_the_listener(served: Served) -> None:
    url = f"http://{BAD_ONION}/"
    plain = await curl("--socks5-hostname", served.address, url)
    extended = await curl("--socks5-hostname", served.extended, url)
    assert (plain.status, extended.status) == (97, 97)
    assert plain.complaint.rstrip().endswith("(1)")
    assert extended.complaint.rstrip().endswith("(246)")


@rows("S-22", "S-41")
async def test_reply_codes_for_a_name_that_does_not_exist(served: Served) -> None:
    for address in (served.address, served.extended):
        ended = await curl("--socks5-hostname", address, "http://nx.test/")
        assert ended.status == 97
        assert ended.complaint.rstrip().endswith("(4)")
    ended = await curl("--socks4a", served.address, "http://nx.test/")
    assert ended.status == 97
    assert "(91)" in ended.complaint


@rows("S-34", "S-35", "S-36")
async def test_the_page_for_a_port_used_as_an_http_proxy(served: Served) -> None:
    plain = await curl("-i", "-x", f"http://{served.address}", "http://canary.test/")
    assert plain.status == 0
    assert plain.text.startswith("HTTP/1.0 501 Tor is not an HTTP Proxy")
    assert "canary" not in plain.text


@rows("S-03")
async def test_an_http_proxy_behind_the_socks_proxy(served: Served) -> None:
    inner = f"http://web.test:{served.web}"
    through = ("--preproxy", f"socks5h://{served.address}", "-x", inner)
    ended = await curl(*through, "-w", "%{http_code}", "-o", "/dev/null", "http://x.test/")
    assert ended.status == 0, ended.complaint
    assert ended.text in ("200", "404")


@rows("S-03")
async def test_ten_megabytes_each_way(served: Served, tmp_path_factory: object) -> None:
    size = 10 * 1024 * 1024
    down = await curl(
        "--socks5-hostname", served.address, "-w", "%{size_download}", "-o", "/dev/null",
        served.url(path=f"/bytes/{size}"),
    )  # fmt: skip
    assert down.text == str(size), down.complaint
    body = bytes(range(256)) * (size // 256)
    up = await run(
        client("curl"), "-q", "-sS", "--socks5-hostname", served.address,
        "--data-binary", "@-", served.url(path="/echo"), stdin=body,
    )  # fmt: skip
    assert up.status == 0, up.complaint
    assert up.out == body


@rows("S-01", "S-07")
async def test_an_onion_service_by_each_version(served: Served) -> None:
    upper = served.onion.removesuffix(".onion").upper()
    for arguments in (
        ("--socks5-hostname", served.address, f"http://{served.onion}/"),
        ("--socks4a", served.address, f"http://{served.onion}/"),
        ("--socks5-hostname", served.address, "-H", "Host: x", f"http://www.{upper}.onion/"),
    ):
        (await served.stage.in_one_period(partial(curl, *arguments))).shows("origin")


@rows("S-06", "R-23")
async def test_names_and_credentials_too_long_for_curl(served: Served) -> None:
    long_name = ".".join(["a" * 60] * 5)
    await curl("--socks5-hostname", served.address, f"http://{long_name}/")
    await curl("-x", f"socks5h://{served.address}", "--proxy-user", "u" * 256 + ":p", served.url())
    await page("--socks5-hostname", served.address, served.url())
