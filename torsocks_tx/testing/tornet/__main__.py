"""The command ``python -m torsocks_tx.testing.tornet``: a private Tor network until told to stop.

Facts go to standard output, once the network is up; progress and errors go to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure

from torsocks_tx.backends.tor.daemon import TorNotFound, find_tor
from torsocks_tx.backends.tor.events import printable
from torsocks_tx.backends.tor.process import WatchdogError
from torsocks_tx.testing.tornet.network import PrivateNetwork
from torsocks_tx.testing.tornet.node import NetworkError, all_of
from torsocks_tx.testing.tornet.torrc import make_exits

NAME = "tornet"
DESCRIPTION = """\
Run a private Tor network on this machine's loopback interface: real tor daemons (4
authorities, exits, clients), a name server, and servers to connect to. It is up
after about 18 seconds. Nothing leaves the machine, and nothing is left behind: not
after Ctrl-C, not after SIGTERM, not after SIGKILL.
"""
EPILOG = """\
What there is to reach, through a client's SocksPort:
  http://web.test:WEB/  the web server by name, over IPv4 (web6.test: IPv6, both.test:
                        both). Pages: / (says which), /bytes/N, and POST /echo
  203.0.113.9, 2001:db8::9
                        the same servers by address: the clients map these two to
                        127.0.0.1 and ::1
  doc.test, doc6.test, docs.test
                        names that resolve to those two addresses, for clients that look
                        a name up and then connect to the address, such as torsocks. They
                        cannot be connected to by name: the exits reach loopback only
  exit.test             with --countries: the same servers at the exit's own address; the
                        web server's page / says which exit it was
  --onion               an onion service, port 80, with the web server behind it

Exit status: 0 after a stop; 1 if the network does not come up, or is stopped before.
"""

_READ_SIZE = 65536


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; raises ``SystemExit`` with its exit status."""
    options = _parser().parse_args(arguments)
    try:
        for program in ("tor", "tor-gencert"):
            find_tor(name=program)
    except TorNotFound as error:
        _complain(error)
    # After the command line is checked: this installs a reactor.
    react(_run, (options,))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m torsocks_tx.testing.{NAME}",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--clients", type=_count, default=1, metavar="N", help="client daemons (default: 1)")
    add(
        "--countries",
        type=_countries,
        default={},
        metavar="CC=N,...",
        help="so many exits in each country, such as de=3,fr=3 (default: 5 without a country)",
    )
    add("--onion", action="store_true", help="offer the web server as an onion service too")
    add("--json", action="store_true", help="print the facts as one line of JSON")
    add(
        "--directory",
        type=Path,
        help="where all files go: a short path that does not exist yet (default: a new one"
        " among the temporary files); removed at the end",
    )
    add("--run-for", type=_seconds, metavar="SECONDS", help="stop by itself after so long")
    add(
        "--stop-with-stdin",
        action="store_true",
        help="stop when standard input ends, such as when the program that holds it is gone",
    )
    return parser


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 20:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 20")
    return count


def _countries(text: str) -> dict[str, int]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    try:
        countries = {code: int(count) for code, _, count in pairs}
        make_exits(countries)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not like de=3,fr=3") from None
    return countries


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return seconds


def _complain(error: object) -> NoReturn:
    print(f"{NAME}: {error}", file=sys.stderr)
    raise SystemExit(1)


async def _run(reactor: Any, options: argparse.Namespace) -> None:
    await deferLater(reactor, 0)  # a reactor that runs has set its own handlers of signals
    network = PrivateNetwork(
        reactor, options.directory, clients=options.clients, countries=options.countries
    )
    signals = signal.SIGINT, signal.SIGTERM, signal.SIGHUP

    def end(number: int, frame: object) -> None:
        # Stopping has its own deadlines; a second Ctrl-C must not interrupt it.
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        reactor.callFromThread(lambda: serving.cancel())

    for each in signals:
        signal.signal(each, end)
    serving = Deferred.fromCoroutine(_serve(reactor, network, options))
    try:
        await serving
    finally:
        await network.stop()


async def _serve(reactor: Any, network: PrivateNetwork, options: argparse.Namespace) -> None:
    """Start the network, print its facts, and wait until it is to end."""
    try:
        facts = await _start(network, options.onion)
    except (NetworkError, WatchdogError) as error:
        _complain(error)
    except CancelledError:
        _complain("stopped before the network was up")
    print(json.dumps(facts) if options.json else describe(facts), flush=True)
    over: Deferred[None] = Deferred()
    if options.run_for is not None:
        reactor.callLater(options.run_for, over.cancel)
    if options.stop_with_stdin:
        _StandardInput(reactor, over.cancel).startReading()
    with suppress(CancelledError):
        await over


async def _start(network: PrivateNetwork, with_onion: bool) -> dict[str, Any]:
    await network.start(_show_progress)
    if not with_onion:
        return network.facts() | {"onion": None}
    onion = await network.add_onion_service(network.web.port)
    # A reader of the facts may connect at once.
    await all_of(client.reach_exits({}, onion.address, 80) for client in network.clients)
    return network.facts() | {"onion": onion.address}


class _StandardInput(FileDescriptor):
    """Reads standard input to its end.

    ``StandardIO`` would make standard output non-blocking as well, for all who write to it.
    """

    def __init__(self, reactor: Any, at_end: Callable[[], None]) -> None:
        super().__init__(reactor)
        self._at_end = at_end

    def fileno(self) -> int:
        return 0

    def doRead(self) -> Exception | None:
        return None if os.read(0, _READ_SIZE) else ConnectionDone()

    def connectionLost(self, reason: Failure) -> None:
        self._at_end()


def _show_progress(text: str) -> None:
    print(f"{NAME}: {text}", file=sys.stderr, flush=True)


def describe(facts: Mapping[str, Any]) -> str:
    """Return the text for a person of :meth:`PrivateNetwork.facts` and ``onion``."""
    origins = facts["origins"]
    lines = ["The private Tor network is up; Ctrl-C ends it.", ""]
    for client in facts["clients"]:
        plain, extended = (
            ":".join(map(str, client[key])) for key in ("socks_tcp", "socks_extended")
        )
        lines += [
            f"{client['name']:10} SOCKS    {plain}",
            f"{'':10}          unix:{printable(client['socks_unix'])}",
            f"{'':10}          {extended} (ExtendedErrors)",
            f"{'':10} control  {client['control']}",
        ]
    lines.append(f"{'servers':10} web {origins['web']}, echo {origins['echo']},")
    lines.append(f"{'':10} speaks first {origins['banner']}")
    for exit in facts["exits"]:
        if exit["country"]:
            lines.append(f"{exit['name']:10} in {exit['country']}, {exit['address']}")
    for name, addresses in facts["names"].items():
        lines.append(f"{name:10} {', '.join(addresses)}")
    if facts["onion"]:
        lines.append(f"{'onion':10} http://{facts['onion']}/")
    host, port = facts["clients"][0]["socks_tcp"]
    lines += ["", f"Try: curl -x socks5h://{host}:{port} http://web.test:{origins['web']}/"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
