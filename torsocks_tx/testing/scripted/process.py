"""A scripted server in its own process, for tests that block or have no reactor.

::

    with ScriptedProcess() as server:
        socket.create_connection((server.host, server.port))
        ...
        server.requests
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import Any

from torsocks_tx.backends.tor.process import python_command
from torsocks_tx.limits import check_arguments
from torsocks_tx.testing.scripted.server import ANY_PORT, METHODS, ScriptedRequest, from_json

DEADLINE = 30.0
"""Seconds to wait for any answer of the process."""


class ScriptedProcess:
    """A server that runs while this context is entered, at most until this process ends.

    Args:
        listen: where, as an endpoint string of Twisted.
        methods: see ``ScriptedServer``.
        users: the passwords by user name, as text; see ``ScriptedServer``.

    Attributes:
        host: the IP address where it listens.
        port: the TCP port.
    """

    def __init__(
        self,
        listen: str = ANY_PORT,
        *,
        methods: Iterable[int] = METHODS,
        users: Mapping[str, str] | None = None,
    ) -> None:
        check_arguments(str, listen=listen)
        check_arguments(Iterable, methods=methods)
        check_arguments(Mapping, None, users=users)
        self.host = ""
        self.port = 0
        self._arguments = ["--json", f"--listen={listen}"]
        self._arguments.append("--methods=" + ",".join(f"{method:02x}" for method in methods))
        self._arguments += [f"--user={name}:{word}" for name, word in (users or {}).items()]
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: list[ScriptedRequest] = []
        self._read = b""
        self._marks = 0

    def __enter__(self) -> ScriptedProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process, and wait until it listens."""
        command = [*python_command("torsocks_tx.testing.scripted"), *self._arguments]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe)
        try:
            where = self._next()
        except BaseException:
            self.stop()
            raise
        self.host, self.port = where["host"], where["port"]

    def stop(self) -> None:
        """End the process; harmless when called again."""
        process, self._process = self._process, None
        if process is None:
            return
        # The pipes are closed on leaving, and the end of its standard input ends the server.
        with process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()

    @property
    def requests(self) -> list[ScriptedRequest]:
        """The requests so far, oldest first; every answered one is among them."""
        assert self._process is not None, "start the server first"
        assert self._process.stdin is not None
        self._marks += 1
        self._process.stdin.write(b"%d\n" % self._marks)
        self._process.stdin.flush()
        while "mark" not in (line := self._next()):
            self._requests.append(from_json(line))
        return self._requests

    def forget(self) -> None:
        """Clear the list of requests."""
        self.requests.clear()

    def _next(self) -> dict[str, Any]:
        """Return the next line of the process."""
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + DEADLINE
        while b"\n" not in self._read:
            left = max(end - time.monotonic(), 0)
            ready, _, _ = select.select([descriptor], [], [], left)
            if not ready:
                raise TimeoutError(f"the scripted server did not answer within {DEADLINE:g} s")
            data = os.read(descriptor, 65536)
            if not data:
                raise RuntimeError("the scripted server has ended; its standard error says why")
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
