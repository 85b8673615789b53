"""The first process of the container: makes options of the environment, and becomes the server.

TORSOCKS_OPTIONS: options, with quotes as in a shell. TORSOCKS_BRIDGES: bridges, one on each line.
Arguments are further options; the one argument ``health`` asks the server that runs how it is.
"""

from __future__ import annotations

import http.client
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

LISTEN = "tcp:1080:interface=0.0.0.0 AllowPublic"
"""Who reaches that is up to what publishes the port of the container."""

STATUS_PORT = 9180
OBFS4 = "obfs4 exec /usr/bin/obfs4proxy"


def options(environment: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """Return the options of the server."""
    given = [*shlex.split(environment.get("TORSOCKS_OPTIONS", "")), *arguments]
    words = ["--status", f"tcp:{STATUS_PORT}:interface=127.0.0.1"]
    if not any(word.partition("=")[0] == "--listen" for word in given):
        words += ["--listen", LISTEN]
    bridges = environment.get("TORSOCKS_BRIDGES", "").splitlines()
    lines = [f"Bridge {bridge.strip()}" for bridge in bridges if bridge.strip()]
    if lines:
        lines += ["UseBridges 1", f"ClientTransportPlugin {OBFS4}"]
    for line in lines:
        words += ["--tor-option", line]
    return words + given


def health() -> int:
    """Return 0 if the server says that it is ready, else 1."""
    asking = http.client.HTTPConnection("127.0.0.1", STATUS_PORT, timeout=5)
    try:
        asking.request("GET", "/health")
        answer = asking.getresponse()
        print(answer.read().decode().strip())
    except OSError as error:
        print(f"the server does not answer: {error}")
        return 1
    finally:
        asking.close()
    return 0 if answer.status == http.client.OK else 1


def main() -> None:
    """Do what the arguments say."""
    if sys.argv[1:] == ["health"]:
        raise SystemExit(health())
    program = str(Path(sys.executable).with_name("torsocks-tx"))
    os.execv(program, [program, *options(os.environ, sys.argv[1:])])


if __name__ == "__main__":
    main()
