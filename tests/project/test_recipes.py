"""The recipes for programs that are not run here: their settings, and what they send.

Those for git, ssh, apt, pip and Chromium are run in ``tests/interop``.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.clients import client
from tests.support.names import ONION
from tests.support.peers import GRANTED, named, until
from tests.support.recipes import PLACE, recipe, recipes
from tests.support.running import Twistd, run
from tests.support.stage import Stage
from tests.support.transports import FakeTransport

RUN_IN_INTEROP = {"git", "ssh", "apt", "pip", "Chromium"}
RUN_HERE = {
    "Docker": 2,
    "Bitcoin Core": 1,
    "Electrum": 1,
    "Firefox": 1,
    "One key for each tab": 2,
    "A socket file for one group": 1,
    "A log file, and SIGHUP": 2,
}


def test_every_recipe_is_run_by_a_test() -> None:
    found = {title: len(blocks) for title, blocks in recipes().items()}
    assert found == RUN_HERE | dict.fromkeys(RUN_IN_INTEROP, 1)


def test_settings_of_docker_are_those_that_it_documents() -> None:
    daemon = json.loads(recipe("Docker"))["proxies"]
    assert set(daemon) == {"http-proxy", "https-proxy", "no-proxy"}
    containers = json.loads(recipe("Docker", 1))["proxies"]["default"]
    assert set(containers) == {"httpProxy", "httpsProxy", "allProxy", "noProxy"}
    assert daemon["no-proxy"] == containers["noProxy"]
    for name in ("http-proxy", "https-proxy"):
        assert urlsplit(daemon[name]).scheme == "socks5"
        assert urlsplit(daemon[name]).netloc.endswith(f"@{PLACE}")


def test_settings_of_bitcoin_core_are_its_own() -> None:
    parser = configparser.ConfigParser()
    parser.read_string("[main]\n" + recipe("Bitcoin Core"))
    assert dict(parser["main"]) == {"proxy": PLACE, "proxyrandomize": "1", "listen": "0"}


@pytest.mark.parametrize(
    ("host", "literal"),
    [
        ("seed.test", None),
        (ONION, None),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
    ],
)
def test_bitcoin_core_isolates_each_peer_by_a_login_of_its_own(
    host: str, literal: str | None
) -> None:
    """It sends every address as a name, and step by step; user and password are the same."""
    keys = []
    for login in (b"c0ffee-0", b"c0ffee-1"):
        stage = Stage()
        assert stage.say(b"\5\2\0\2") == b"\5\2"
        assert stage.say(b"\1\x08" + login + b"\x08" + login) == b"\1\0"
        assert stage.say(named(host, 8333)) == b""
        [outbound] = stage.backend.outbounds
        assert outbound.request.address.literal().is_ip is (literal is not None)
        outbound.receiver.opened()
        assert stage.transport.take() == GRANTED, "it takes an IPv4 address and a port"
        keys.append(outbound.isolation.credentials)
    assert keys[0] != keys[1]


class Segments(FakeTransport):
    """Notes each write by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.segments: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.segments.append(data)
        super().write(data)


def test_electrum_finds_tor_and_isolates_by_random_logins() -> None:
    """It asks for 0.0.0.0 along with the greeting, and reads once; then it trusts in isolation."""
    assert re.findall(r"setconfig (\S+) (\S+)", recipe("Electrum")) == [
        ("proxy", f"socks5:{PLACE}"),
        ("enable_proxy", "true"),
    ]
    transport = Segments()
    stage = Stage(transport=transport)
    stage.say(b"\5\1\0" + named("0.0.0.0", 0, 0xF0))
    assert transport.segments == [b"\5\0" + b"\5\0\0\1" + bytes(6)]
    keys = []
    for letter in (b"a", b"b"):
        stage = Stage()
        assert stage.say(b"\5\2\0\2") == b"\5\2"
        assert stage.say(b"\1\x40" + letter * 64 + b"\x40" + letter * 64) == b"\1\0"
        stage.say(named("electrum.test", 50002))
        [outbound] = stage.backend.outbounds
        keys.append(outbound.isolation.credentials)
    assert keys[0] != keys[1]


def test_answer_to_a_look_up_that_takes_time_does_not_hold_back_the_greeting() -> None:
    transport = Segments()
    Stage(transport=transport).say(b"\5\1\0" + named("web.test", 0, 0xF0))
    assert transport.segments == [b"\5\0"]


def test_profile_of_firefox_is_of_settings_that_keep_all_in_the_proxy() -> None:
    lines = recipe("Firefox").splitlines()
    found = [re.fullmatch(r'user_pref\("([a-z0-9._A-Z-]+)", (.+)\);', line) for line in lines]
    settings = {match[1]: json.loads(match[2]) for match in found if match is not None}
    assert len(settings) == len(lines)
    assert f"{settings['network.proxy.socks']}:{settings['network.proxy.socks_port']}" == PLACE
    assert settings["network.proxy.type"] == 1
    assert settings["network.proxy.failover_direct"] is False


TABS = """
let listener;
globalThis.browser = {proxy: {onRequest: {addListener: (found, filter) => { listener = found; }}}};
require("vm").runInThisContext(require("fs").readFileSync(0, "utf8"));
const tabs = [["firefox-default", 1], ["firefox-default", 2], ["firefox-container-1", 1]];
const asked = tabs.map(([cookieStoreId, tabId]) => listener({cookieStoreId, tabId}));
console.log(JSON.stringify([...asked, listener({cookieStoreId: "firefox-default", tabId: 1})]));
"""


@pytest.mark.clients("node")
def test_extension_gives_each_tab_a_login_of_its_own() -> None:
    manifest = json.loads(recipe("One key for each tab"))
    assert manifest["background"]["scripts"] == ["background.js"]
    done = subprocess.run(
        [client("node"), "-e", f"globalThis.crypto ??= require('crypto').webcrypto;{TABS}"],
        input=recipe("One key for each tab", 1),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *tabs, again = json.loads(done.stdout)
    logins = {(each["username"], each["password"]) for each in tabs}
    assert len(logins) == 3
    assert again == tabs[0]
    for each in tabs:
        assert (each["type"], each["proxyDNS"], f"{each['host']}:{each['port']}") == (
            *("socks", True),
            PLACE,
        )
        assert len(each["username"]) < 256


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that others may pass, with a path short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="recipe-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.clients("logrotate", "setpriv")
async def test_socket_file_is_for_its_group_and_the_log_file_is_rotated(directory: Path) -> None:
    group = 54321 if os.geteuid() == 0 else [os.getegid(), *os.getgroups()][-1]
    place, log = directory / "run", directory / "log"
    place.mkdir()
    os.chown(place, -1, group)
    place.chmod(0o2750)
    server = recipe("A socket file for one group").splitlines()[-1].split()
    assert server[0] == "torsocks-tx"
    arguments = [word.replace("/run/torsocks", str(place)) for word in server[1:]]
    program = str(Path(sys.executable).with_name("torsocks-tx"))
    shell = ["/bin/sh", "-c", f'exec "$@" >>{log} 2>&1', "sh", program, *arguments]
    twistd = Twistd(directory=directory, command=[*shell, "--backend", "direct"])
    await until(lambda: log.exists() and "clients at one time" in log.read_text(), 0.05)
    status = (place / "socks").stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, group)
    if os.geteuid() == 0:
        for gid, may in ((group, True), (65534, False)):
            connect = f"import socket; socket.socket(socket.AF_UNIX).connect('{place}/socks')"
            become = ("--reuid=65534", f"--regid={gid}", "--clear-groups")
            ended = await run(client("setpriv"), *become, "/usr/bin/env", "python3", "-c", connect)
            assert (ended.status == 0) is may, ended.complaint
    settings = directory / "logrotate.conf"
    settings.write_text(recipe("A log file, and SIGHUP").replace("/var/log/torsocks/log", str(log)))
    rotating = ("-f", "-s", str(directory / "state"), str(settings))
    directory.chmod(0o700)  # else logrotate asks for a user
    ended = await run(client("logrotate"), *rotating)
    assert ended.status == 0, ended.complaint
    assert "clients at one time" in Path(f"{log}.1").read_text()
    assert recipe("A log file, and SIGHUP", 1).startswith("kill -HUP ")
    twistd.transport.signalProcess(signal.SIGHUP)
    await until(lambda: "SIGHUP: " in log.read_text(), 0.05)
    assert log.read_bytes().count(b"\n") == 1
    assert b"\0" not in log.read_bytes()
    assert await twistd.stop() in (0, -signal.SIGTERM)
