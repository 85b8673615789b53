#!/usr/bin/env python3
"""A program in tor's place: it opens its control socket and says that it is bootstrapped.

The option ``Nickname`` of its torrc tells what else it does: see ``main``. It opens no SocksPort.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

INFO = {
    "version": "0.4.9.11",
    "status/bootstrap-phase": 'NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"',
    "signal/names": "RELOAD",
    "events/names": "STATUS_CLIENT CONF_CHANGED",
}


def options_of(path: str) -> dict[str, str]:
    lines = Path(path).read_text().splitlines()
    pairs = (line.split(" ", 1) for line in lines)
    return {name: value.strip('"') for name, value in pairs}


def answer(line: str) -> str:
    if line.startswith("PROTOCOLINFO"):
        return "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250 OK"
    if line.startswith("GETINFO "):
        key = line.removeprefix("GETINFO ")
        return f"250-{key}={INFO[key]}\r\n250 OK"
    return "250 OK"


def serve(listener: socket.socket, behaviour: str) -> None:
    """Answer one connection until it ends."""
    peer, _ = listener.accept()
    with peer, peer.makefile("rb") as lines:
        for raw in lines:
            line = raw.decode().strip()
            peer.sendall(f"{answer(line)}\r\n".encode())
            print(f"Jan 01 00:00:00.000 [notice] {line}", flush=True)
            if behaviour == "dying" and "status/bootstrap-phase" in line:
                os.kill(os.getpid(), signal.SIGKILL)


def main(torrc: str) -> None:
    """Do as ``Nickname`` says: ``dying`` after a moment, or ``mute`` (no control socket)."""
    options = options_of(torrc)
    behaviour = options.get("Nickname", "")
    if behaviour == "mute":
        signal.pause()
    path = options["ControlPort"].removeprefix('unix:"')
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        serve(listener, behaviour)


if __name__ == "__main__":
    main(sys.argv[sys.argv.index("-f") + 1])
