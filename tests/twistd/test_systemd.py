"""The units of ``contrib/systemd``, by systemd's own tools, and sockets that systemd passes."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint

from tests.support.clients import client
from tests.support.peers import PeerFactory
from tests.support.processes import ROOT
from tests.support.running import Twistd, run

UNITS = ROOT / "contrib" / "systemd"
SERVICE, INSTANCE = UNITS / "torsocks-tx.service", UNITS / "torsocks-tx@.service"
EXPOSURE = "25"
"""In tenths: systemd counts up to 100 where nothing is confined."""


@pytest.mark.clients("systemd-analyze")
async def test_systemd_finds_no_fault_in_the_units_and_little_exposure(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("torsocks-tx")
    names = [SERVICE.name, INSTANCE.name.replace("@", "@work"), "torsocks-tx.socket"]
    for source, name in zip((SERVICE, INSTANCE, UNITS / "torsocks-tx.socket"), names, strict=True):
        text = source.read_text()
        for option in ("ExecStart", "ExecStartPre"):
            text = text.replace(f"\n{option}=torsocks-tx ", f"\n{option}={program} ")
        (tmp_path / name).write_text(text)
    analyze = client("systemd-analyze")
    files = [str(tmp_path / name) for name in names]
    verified = await run(analyze, "verify", "--man=no", *files)
    assert (verified.status, verified.text + verified.complaint) == (0, "")
    options = ("--offline=true", "--no-pager", f"--threshold={EXPOSURE}")
    judged = await run(analyze, "security", *options, *files[:2])
    assert judged.status == 0, judged.text


def test_an_instance_is_the_same_service_with_places_of_its_own() -> None:
    lines = SERVICE.read_text().replace("torsocks-tx.conf", "%i.conf").splitlines()
    of_instance = INSTANCE.read_text().replace("torsocks-tx-%i", "torsocks-tx").splitlines()
    different = {line for line in {*lines} ^ {*of_instance} if not line.startswith("#")}
    assert {line.partition("=")[0] for line in different} == {"Description", "EnvironmentFile"}


@pytest.mark.clients("systemd-socket-activate")
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sockets_that_systemd_passes_are_the_default(tmp_path: Path, workers: str) -> None:
    place, page = tmp_path / "socks", tmp_path / "page"
    status = ("--status", "systemd:domain=UNIX:index=2")
    options = ("--backend", "direct", "--workers", workers, *status)
    held = socket.create_server(("127.0.0.1", 0))
    server = Twistd(
        directory=tmp_path,
        listeners=2,
        inherited=held.fileno(),  # systemd's program passes it on
        command=(
            *(client("systemd-socket-activate"), "-E", f"PYTHONPATH={ROOT}"),
            # Names as systemd gives them, and Twisted wants.
            *("-l", str(place), "-l", str(page), "--fdname=one:two:page"),
            *(sys.executable, "-m", "torsocks_tx", *options),
        ),
    )
    await server.said(f"Listening on {place}")
    # systemd starts the server when the first client is there.
    first = await UNIXClientEndpoint(reactor, str(place)).connect(PeerFactory())
    second = await TCP4ClientEndpoint(reactor, *held.getsockname()).connect(PeerFactory())
    for peer in (first, second):
        peer.send(b"\5\1\0")
        assert await peer.take(2) == b"\5\0", server.output
        peer.close()
    assert len(server.addresses) == 2, server.output
    assert server.status_page == f"unix:{page}"
    assert await server.stop() == 0
    assert "Traceback" not in server.output
    assert place.exists()
    held.close()
