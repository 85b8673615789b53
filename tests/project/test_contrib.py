"""What is in ``contrib/``: files that users copy."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.clients import client
from tests.support.processes import ROOT
from torsocks_tx.twistd.options import Options

HAPROXY = ROOT / "contrib" / "haproxy"


@pytest.mark.network
@pytest.mark.clients("haproxy")
def test_haproxy_takes_its_configuration_without_a_warning() -> None:
    command = [client("haproxy"), "-c", "-f", str(HAPROXY / "haproxy.cfg")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_servers_of_the_compose_file_are_those_of_haproxy(tmp_path: Path) -> None:
    compose = (HAPROXY / "compose.yaml").read_text()
    text = re.search(r'\["torsocks-tx",.*?\]', compose, re.DOTALL)
    assert text is not None
    _, *arguments = json.loads(text[0])
    secret = arguments.index("/secret/isolation")
    arguments[secret] = str(tmp_path / "secret")
    with pytest.raises(SystemExit):
        Options().parseOptions(["--new-isolation-secret", arguments[secret]])
    options = Options()
    options.parseOptions(arguments)
    (listener,) = options.listeners
    assert [str(each.network_address) for each in listener.policy.proxy_protocol or ()] == [
        "172.30.0.2"
    ]
    addresses = re.findall(r"(\w+):\n.*?ipv4_address: ([0-9.]+)", compose, re.DOTALL)
    balancer, *servers = [address for _, address in addresses]
    config = (HAPROXY / "haproxy.cfg").read_text()
    assert balancer == "172.30.0.2"
    assert re.findall(r"^    server \w+ ([0-9.]+):1080 port 9180$", config, re.M) == servers
    assert len(servers) == 3
