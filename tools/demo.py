"""Shows the features with real clients, on a private Tor network: ``make demo``.

It prints one line for each step: the request, and its result. The exit status is 0 only if every
step succeeded.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demo_steps import STEPS, Demo, StepFailed
from twisted.internet import reactor, task
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, gatherResults
from twisted.internet.protocol import ProcessProtocol

from torsocks_tx.testing.tornet import PrivateNetwork

GREEN, RED, DIM, PLAIN = ("\033[32m", "\033[31m", "\033[2m", "\033[0m")
if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
    GREEN = RED = DIM = PLAIN = ""


class Server(ProcessProtocol):
    """``twistd torsocks`` as a user would start it."""

    transport: Any = None

    def __init__(self) -> None:
        self.address: Deferred[str] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self.output = ""

    def outReceived(self, data: bytes) -> None:
        """Find the address in the line that names it."""
        self.output += data.decode(errors="replace")
        found = re.search(r"SOCKS5 at (127\.0\.0\.1:\d+)", self.output)
        if found and not self.address.called:
            self.address.callback(found.group(1))

    errReceived = outReceived

    def processEnded(self, reason: Any) -> None:
        """Fire ``ended``, and fail ``address`` if it never listened."""
        if not self.address.called:
            self.address.errback(StepFailed(f"twistd torsocks ended early:\n{self.output[-2000:]}"))
        self.ended.callback(None)

    async def stop(self) -> None:
        """Stop the server, and wait until it has ended."""
        if not self.ended.called:
            self.transport.signalProcess("TERM")
        await self.ended


async def walk(demo: Demo) -> bool:
    """Run every step and print its result; return whether all succeeded."""
    held = True
    for title, step in STEPS:
        began = time.monotonic()
        try:
            answer, colour, mark = await step(demo), GREEN, "ok  "
        except CancelledError:
            raise
        except Exception as error:
            held = False
            answer, colour, mark = f"{error or type(error).__name__}", RED, "FAIL"
        took = f"{DIM}{time.monotonic() - began:6.2f} s{PLAIN}"
        print(f"{colour}{mark}{PLAIN} {took}  {title:<68} -> {answer}", flush=True)
    return held


class Stage:
    """The network and the server, so that both can be stopped at any moment."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.network = PrivateNetwork(reactor, countries={"de": 3, "fr": 2})
        self.server: Server | None = None

    def start_server(self) -> Server:
        """Start ``twistd torsocks`` on the network's first client."""
        twistd = str(Path(sys.executable).with_name("twistd"))
        arguments = [
            twistd,
            "-n",
            "--pidfile=",
            "torsocks",
            "--listen",
            "tcp:0:interface=127.0.0.1 ExtendedErrors ClientParameters",
        ]
        arguments += ["--tor", self.network.client.control_endpoint, "--shutdown-grace", "1"]
        self.server = Server()
        command = [sys.executable, *arguments]
        print(f"{DIM}$ twistd {shlex.join(arguments[3:])}{PLAIN}", flush=True)
        reactor.spawnProcess(self.server, sys.executable, command, os.environ, str(self.scratch))
        return self.server

    async def end(self) -> None:
        """Stop both; harmless when called again."""
        if self.server is not None:
            await self.server.stop()
        await self.network.stop()


async def play(stage: Stage) -> bool:
    """Start everything, and run the steps."""
    print("Starting a private Tor network on this machine; it takes about 15 s.", flush=True)
    began = time.monotonic()

    def progress(text: str) -> None:
        if sys.stdout.isatty():
            print(
                f"\r\033[K{DIM}{time.monotonic() - began:5.1f} s  {text}{PLAIN}", end="", flush=True
            )

    await stage.network.start(progress)
    onion = await stage.network.add_onion_service(stage.network.web.port)
    progress(f"{len(stage.network.daemons)} tor daemons are up")
    print(flush=True)
    address = await stage.start_server().address
    return await walk(Demo(stage.network, address, onion.address))


async def main(_reactor: Any) -> None:
    """Run the demo; stop everything afterwards, also when interrupted."""
    # Until the reactor runs it does not handle Ctrl-C: start nothing before.
    await task.deferLater(reactor, 0)
    with tempfile.TemporaryDirectory(prefix="torsocks_tx-demo-") as scratch:
        stage = Stage(Path(scratch))
        playing = ensureDeferred(play(stage))
        ended: Deferred[None] = Deferred()

        def interrupted() -> Deferred[Any]:
            playing.cancel()
            return gatherResults([ended])

        trigger = reactor.addSystemEventTrigger("before", "shutdown", interrupted)
        held: bool | None
        try:
            held = await playing
        except CancelledError:
            print("\nStopped.", flush=True)
            held = None
        finally:
            await stage.end()
            if not ended.called:
                ended.callback(None)
        if reactor.running:
            reactor.removeSystemEventTrigger(trigger)
    if held is not None:
        print("Every step succeeded." if held else "Not every step succeeded.", flush=True)
    if not held:
        raise SystemExit(1)


if __name__ == "__main__":
    for _program in ("tor", "tor-gencert", "curl", "torsocks", "tor-resolve"):
        if shutil.which(_program) is None:
            sys.exit(f"{_program} is not installed: apt-get install tor torsocks curl")
    task.react(main)
