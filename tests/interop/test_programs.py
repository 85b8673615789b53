"""proxychains, git, apt and pip: programs that use a SOCKS proxy for several connections."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.web.server import Site
from twisted.web.static import File

from tests.interop.conftest import Served
from tests.support.clients import client
from tests.support.recipes import recipe
from tests.support.rows import rows
from tests.support.running import Ended, run
from torsocks_tx.testing.tornet.servers import LOOPBACK

pytestmark = pytest.mark.network


def site_of(root: Path) -> Site:
    """Make a directory, and what serves its files without a word."""
    root.mkdir()
    site = Site(File(str(root)))
    site.noisy = False
    site.log = lambda request: None
    return site


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the URL at which exits find it."""
    root = tmp_path / "served"
    port = reactor.listenTCP(0, site_of(root), interface=LOOPBACK)
    yield root, f"http://web.test:{port.getHost().port}"
    pytest_twisted.blockon(port.stopListening())


@rows("S-05", "S-06", "S-17")
@pytest.mark.clients("proxychains4", "curl")
@pytest.mark.parametrize("proxy", ["socks5 {}", "socks5 {} alice secret", "socks4 {} alice"])
async def test_curl_under_proxychains(served: Served, tmp_path: Path, proxy: str) -> None:
    settings = tmp_path / "proxychains.conf"
    line = proxy.format(f"127.0.0.1 {served.port}")
    settings.write_text(f"strict_chain\nproxy_dns\ntcp_read_time_out 110000\n[ProxyList]\n{line}\n")
    ended = await run(
        client("proxychains4"), "-q", "-f", str(settings), client("curl"), "-q", "-sS", served.url()
    )
    ended.shows("origin")


async def bare_repository(place: Path) -> tuple[dict[str, str], str]:
    """Make a repository with one commit; return the environment for git, and the commit."""
    git = client("git")
    environment = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    for name in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{name}_NAME": "A", f"GIT_{name}_EMAIL": "a@web.test"}

    async def made(*arguments: str) -> str:
        ended = await run(git, "--git-dir", str(place), *arguments, environment=environment)
        assert ended.status == 0, ended.complaint
        return ended.text

    place.mkdir()
    await made("init", "-q", "--bare")
    commit = await made("commit-tree", await made("mktree"), "-m", "x")
    await made("update-ref", "refs/heads/main", commit)
    await made("update-server-info")
    return environment, commit


@rows("S-03", "S-06")
@pytest.mark.clients("git")
async def test_git_lists_and_clones_a_repository(served: Served, files: tuple[Path, str]) -> None:
    root, url = files
    environment, commit = await bare_repository(root / "repository.git")
    git, repository = client("git"), f"{url}/repository.git"
    settings = root / "gitconfig"
    settings.write_text(recipe("git", address=served.address))
    by_recipe = environment | {"GIT_CONFIG_GLOBAL": str(settings)}
    listed = await run(git, "ls-remote", repository, environment=by_recipe)
    assert listed.status == 0, listed.complaint
    assert listed.text == f"{commit}\trefs/heads/main"
    by_environment = environment | {"ALL_PROXY": f"socks5h://{served.address}"}
    cloned = await run(
        git, "clone", "-q", repository, str(root / "clone"), environment=by_environment
    )
    assert cloned.status == 0, cloned.complaint


async def apt_update(root: Path, url: str, tmp_path: Path, proxy: dict[str, str]) -> Ended:
    """Have apt-get fetch the list of packages that ``root`` serves at ``url``."""
    (root / "Packages").write_text(
        "Package: nothing-at-all\nVersion: 1\nArchitecture: all\nMaintainer: a@web.test\n"
        "Filename: ./nothing.deb\nSize: 1\nSHA256: " + "0" * 64 + "\nDescription: nothing\n"
    )
    sources = tmp_path / "sources.list"
    sources.write_text(f"deb [trusted=yes] {url} ./\n")
    for name in ("state/lists/partial", "cache/archives/partial", "etc"):
        (tmp_path / name).mkdir(parents=True)
    settings = {
        "APT::Sandbox::User": "root",
        "APT::Update::Post-Invoke": "",
        "Dir::Etc::SourceList": str(sources),
        "Dir::Etc::SourceParts": str(tmp_path / "etc"),
        "Dir::State": str(tmp_path / "state"),
        "Dir::Cache": str(tmp_path / "cache"),
        "Acquire::Languages": "none",
        **proxy,
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    return await run(client("apt-get"), *options, "update")


@rows("S-03", "S-17")
@pytest.mark.clients("apt-get")
@pytest.mark.parametrize("user", ["", "apt:x@"])
async def test_apt_updates_its_lists(
    served: Served, files: tuple[Path, str], tmp_path: Path, user: str
) -> None:
    found = re.findall(r'(\S+) "(.*)";', recipe("apt", address=served.address))
    proxy = {name: url.replace("apt:x@", user) for name, url in found}
    assert list(proxy) == ["Acquire::http::Proxy", "Acquire::https::Proxy"]
    ended = await apt_update(*files, tmp_path, proxy)
    assert ended.status == 0, ended.complaint
    assert re.search(r"Get:\d+ .* Packages \[\d+ B\]", ended.text), ended.text


def write_wheel(directory: Path, name: str) -> Path:
    """Write the smallest wheel that pip takes."""
    path = directory / f"{name}-1-py3-none-any.whl"
    info = f"{name}-1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        wheel = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", wheel)
        archive.writestr(f"{info}/RECORD", "")
    return path


@rows("S-03", "S-06")
async def test_pip_downloads_a_wheel(
    served: Served, files: tuple[Path, str], tmp_path: Path
) -> None:
    root, url = files
    wheel = write_wheel(root, "nothing_at_all")
    index = root / "simple" / "nothing-at-all"
    index.mkdir(parents=True)
    (index / "index.html").write_text(f'<!DOCTYPE html><a href="{url}/{wheel.name}">x</a>')
    settings = tmp_path / "pip.conf"
    settings.write_text(recipe("pip", address=served.address))
    ended = await run(
        sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir",
        "--disable-pip-version-check", "--index-url", f"{url}/simple/",
        "--trusted-host", "web.test", "-d", str(tmp_path / "got"), "nothing-at-all",
        environment={"PIP_CONFIG_FILE": str(settings)},
    )  # fmt: skip
    assert ended.status == 0, ended.complaint + ended.text
    assert (tmp_path / "got" / wheel.name).exists()
