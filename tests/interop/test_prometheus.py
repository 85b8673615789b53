"""Debian's Prometheus reads ``/metrics``, and its own checker finds nothing wrong there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint

from tests.network.asking import becomes_true
from tests.status.test_site import Shown, shown
from tests.support.clients import client
from tests.support.processes import Program

__all__ = ["shown"]
pytestmark = pytest.mark.network


async def api(shown: Shown, port: int, path: str) -> Any:
    """Ask Prometheus, and return its data; nothing while it starts."""
    peer = await shown.ground.connect(TCP4ClientEndpoint(reactor, "127.0.0.1", port))
    peer.send(f"GET /api/v1/{path} HTTP/1.0\r\n\r\n".encode())
    head, _, body = (await peer.take_rest()).partition(b"\r\n\r\n")
    return json.loads(body)["data"] if b" 200 " in head.splitlines()[0] else {}


@pytest.mark.clients("prometheus", "promtool")
async def test_prometheus_scrapes_the_metrics(shown: Shown, tmp_path: Path) -> None:
    shown.counts.ended("F2")
    _, _, text = await shown.get("/metrics")
    command = [client("promtool"), "check", "metrics"]
    checked = subprocess.run(command, input=text, capture_output=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    target = f"127.0.0.1:{shown.status.port.getHost().port}"
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: it, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    options = (f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data")
    program = Program()
    program.start(
        [client("prometheus"), *options, "--web.listen-address=127.0.0.1:0"], dict(os.environ)
    )
    try:
        await program.complaint('msg="Listening on" address=')
        [place] = re.findall(rb'"Listening on" address=127.0.0.1:(\d+)', program.errors)

        async def has_sample() -> bool:
            query = 'query?query=torsocks_streams_total{listener="first",outcome="F2"}'
            samples = (await api(shown, int(place), query)).get("result", [])
            return [sample["value"][1] for sample in samples] == ["1"]

        await becomes_true(has_sample)
    finally:
        program.transport.signalProcess("TERM")
        await program.end()
