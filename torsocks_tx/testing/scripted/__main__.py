"""``python -m torsocks_tx.testing.scripted``: a scripted SOCKS server as a program.

For a person it prints what it is asked. For a program (``--json``) it prints JSON, one object on
each line, and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet import stdio
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import connectionDone
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from torsocks_tx.testing.scripted.names import GRAMMAR
from torsocks_tx.testing.scripted.server import ANY_PORT, ScriptedRequest, ScriptedServer, to_json

JSON_HELP = """\
for programs: print {"host": ..., "port": ...} once the server listens, then one JSON object for
each request. Ends when standard input, a pipe, does; a line written there comes back as {"mark":
...} behind all requests before it"""


def _methods(text: str) -> list[int]:
    words = [word for word in text.split(",") if word]
    if not set(words) <= {"00", "02"}:
        raise argparse.ArgumentTypeError(f"{text} is not 02, 00, both with a comma, or empty")
    return [int(word, 16) for word in words]


def _user(text: str) -> tuple[bytes, bytes]:
    name, colon, password = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text} has no colon between a name and a password")
    return name.encode(), password.encode()


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m torsocks_tx.testing.scripted",
        description="A scripted SOCKS4, SOCKS4a and SOCKS5 server, to test SOCKS clients against.",
        epilog=GRAMMAR,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--listen",
        metavar="ENDPOINT",
        default=ANY_PORT,
        help="where, as an endpoint of Twisted (default: %(default)s, a free port)",
    )
    made.add_argument(
        "--methods",
        type=_methods,
        default="02,00",
        metavar="XX,XX",
        help="the SOCKS5 methods to take, first choice first: 02 (user name and password) and 00"
        ' (none); "" takes none, and answers FF (default: %(default)s)',
    )
    made.add_argument(
        "--user",
        type=_user,
        action="append",
        metavar="NAME:PASSWORD",
        help="accept only these credentials, and answer others with 01 01 (may be repeated)",
    )
    made.add_argument("--json", action="store_true", help=JSON_HELP)
    return made


def _place(address: Any) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


class _Person:
    """Prints for a person; ends by a signal only."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def started(self, address: Any) -> None:
        where = _place(address) if hasattr(address, "port") else str(address)
        print(f"HTTP CONNECT, SOCKS4, SOCKS4a and SOCKS5, scripted, at {where}. Ctrl-C ends it.")
        print(f"Try: curl --socks5-hostname {where} http://delay-2s.reply-05.test/\n")
        print(GRAMMAR, flush=True)

    def requested(self, request: ScriptedRequest) -> None:
        named = "" if request.credentials is None else f" as {request.credentials.username!r}"
        line = f"{request.version.name} {request.command.name} {_place(request.address)}{named}"
        print(line + (f"  ({request.mistake})" if request.mistake else ""), flush=True)


class _Program(LineOnlyReceiver):
    """Writes JSON for a program; ends when standard input does."""

    delimiter = b"\n"

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def _say(self, value: dict[str, Any]) -> None:
        self.sendLine(json.dumps(value).encode("ascii"))

    def started(self, address: Any) -> None:
        self._say({"host": getattr(address, "host", None), "port": getattr(address, "port", None)})

    def requested(self, request: ScriptedRequest) -> None:
        self._say(to_json(request))

    def lineReceived(self, line: bytes) -> None:
        self._say({"mark": line.decode("latin-1")})

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)


async def _run(reactor: Any, options: argparse.Namespace) -> None:
    output: _Person | _Program = _Person()
    if options.json:
        output = _Program()
        stdio.StandardIO(output, reactor=reactor)
    users = None if options.user is None else dict(options.user)
    try:
        server = ScriptedServer(
            reactor,
            options.listen,
            methods=options.methods,
            users=users,
            on_request=output.requested,
        )
        output.started(await server.start())
    except (ValueError, CannotListenError) as error:
        raise SystemExit(f"cannot listen at {options.listen}: {error}") from None
    await output.ended
    await server.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until interrupted, or to the end of standard input."""
    options = parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    react(_run, (options,))


if __name__ == "__main__":
    main()
