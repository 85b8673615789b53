"""A server that may open few files: it says where it listens, and ends with its standard input.

Every stream is granted and echoed. ``python -m tests.loopback.crowded FILES tcp|unix:PATH``
"""

from __future__ import annotations

import resource
import sys

from twisted.internet import reactor, stdio
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure

from torsocks_tx.backends.memory import MemoryBackend, MemoryOutbound
from torsocks_tx.server.factory import SOCKSFactory
from torsocks_tx.server.listen import listen_function, parse_listener


class UntilTheEnd(Protocol):
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reactor.running:
            reactor.stop()


def echo(outbound: MemoryOutbound) -> None:
    outbound.on_write = outbound.receiver.data
    reactor.callLater(0, outbound.receiver.opened)


def main(files: int, where: str) -> None:
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    stdio.StandardIO(UntilTheEnd())
    place = "tcp:0:interface=127.0.0.1" if where == "tcp" else where
    listen = listen_function(reactor, parse_listener(place))
    host = listen(SOCKSFactory(MemoryBackend(echo))).getHost()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    print(f"listening {getattr(host, 'port', 0)}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
