"""proxychains, git, apt and pip: programs that use a SOCKS proxy for several connections."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.web.server import Site
from twisted.web.static import File

from tests.interop.conftest import Served
from tests.interop.wheel import write_wheel
from tests.support.clients import client
from tests.support.rows import rows
from tests.support.running import run
from torsocks_tx.testing.tornet.servers import LOOPBACK

pytestmark = pytest.mark.network


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the URL at which exits find it."""
    root = tmp_path / "served"
    root.mkdir()
    site = Site(File(str(root)))
    site.noisy = False
    site.log = lambda request: None
    port = reactor.listenTCP(0, site, interface=LOOPBACK)
    yield root, f"http://web.test:{port.getHost().port}"
    pytest_twisted.blockon(port.stopListening())


@rows("S-05", "S-06", "S-17")
@pytest.mark.clients("proxychains4", "curl")
@pytest.mark.parametrize("proxy", ["socks5 {}", "socks5 {} alice secret", "socks4 {} alice"])
async def test_curl_under_proxychains(served: Served, tmp_path: Path, proxy: str) -> None:
    settings = tmp_path / "proxychains.conf"
    line = proxy.format(f"127.0.0.1 {served.port}")
    settings.write_text(f"strict_chain\nproxy_dns\n[ProxyList]\n{line}\n")
    ended = await run(
        client("proxychains4"), "-q", "-f", str(settings), client("curl"), "-q", "-sS", served.url()
    )
    assert ended.status == 0, ended.complaint
    assert "origin" in ended.text


@rows("S-03", "S-06")
@pytest.mark.clients("git")
async def test_git_lists_and_clones_a_repository(served: Served, files: tuple[Path, str]) -> None:
    root, url = files
    git = client("git")
    repository = root / "repository.git"
    identity = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    for name in ("AUTHOR", "COMMITTER"):
        identity |= {f"GIT_{name}_NAME": "A", f"GIT_{name}_EMAIL": "a@web.test"}
    for arguments in (
        ["init", "-q", "--bare", str(repository)],
        ["-C", str(repository), "update-server-info"],
    ):
        made = await run(git, *arguments, environment=identity)
        assert made.status == 0, made.complaint
    tree = await run(git, "-C", str(repository), "mktree", environment=identity)
    commit = await run(
        git, "-C", str(repository), "commit-tree", tree.text, "-m", "x", environment=identity
    )
    for arguments in (["update-ref", "refs/heads/main", commit.text], ["update-server-info"]):
        await run(git, "-C", str(repository), *arguments, environment=identity)
    proxy = f"http.proxy=socks5h://{served.address}"
    listed = await run(git, "-c", proxy, "ls-remote", f"{url}/repository.git", environment=identity)
    assert listed.status == 0, listed.complaint
    assert listed.text == f"{commit.text}\trefs/heads/main"
    by_environment = identity | {"ALL_PROXY": f"socks5h://{served.address}"}
    cloned = await run(
        git, "clone", "-q", f"{url}/repository.git", str(root / "clone"), environment=by_environment
    )
    assert cloned.status == 0, cloned.complaint


@rows("S-03", "S-17")
@pytest.mark.clients("apt-get")
@pytest.mark.parametrize("user", ["", "alice:secret@"])
async def test_apt_updates_its_lists(
    served: Served, files: tuple[Path, str], tmp_path: Path, user: str
) -> None:
    root, url = files
    (root / "Packages").write_text(
        "Package: nothing-at-all\nVersion: 1\nArchitecture: all\nMaintainer: a@web.test\n"
        "Filename: ./nothing.deb\nSize: 1\nSHA256: " + "0" * 64 + "\nDescription: nothing\n"
    )
    sources = tmp_path / "sources.list"
    sources.write_text(f"deb [trusted=yes] {url} ./\n")
    for name in ("state/lists/partial", "cache/archives/partial", "etc"):
        (tmp_path / name).mkdir(parents=True)
    settings = {
        "Acquire::http::Proxy": f"socks5h://{user}{served.address}",
        "APT::Sandbox::User": "root",
        "APT::Update::Post-Invoke": "",
        "Dir::Etc::SourceList": str(sources),
        "Dir::Etc::SourceParts": str(tmp_path / "etc"),
        "Dir::State": str(tmp_path / "state"),
        "Dir::Cache": str(tmp_path / "cache"),
        "Acquire::Languages": "none",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    ended = await run(client("apt-get"), *options, "update")
    assert ended.status == 0, ended.complaint
    assert re.search(r"Get:\d+ .* Packages \[\d+ B\]", ended.text), ended.text


@rows("S-03", "S-06")
async def test_pip_downloads_a_wheel(
    served: Served, files: tuple[Path, str], tmp_path: Path
) -> None:
    root, url = files
    wheel = write_wheel(root, "nothing_at_all")
    index = root / "simple" / "nothing-at-all"
    index.mkdir(parents=True)
    (index / "index.html").write_text(f'<!DOCTYPE html><a href="{url}/{wheel.name}">x</a>')
    ended = await run(
        sys.executable, "-m", "pip", "download", "--isolated", "--no-deps", "--no-cache-dir",
        "--disable-pip-version-check", "--proxy", f"socks5h://{served.address}",
        "--index-url", f"{url}/simple/", "--trusted-host", "web.test",
        "-d", str(tmp_path / "got"), "nothing-at-all",
        environment={"PIP_CONFIG_FILE": "/dev/null"},
    )  # fmt: skip
    assert ended.status == 0, ended.complaint + ended.text
    assert (tmp_path / "got" / wheel.name).exists()
