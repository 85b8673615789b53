"""``python -m torsocks_tx``, or ``torsocks-tx``: the server of ``twistd torsocks`` by itself.

It runs in the foreground and logs to the terminal: no pidfile, no plugins of Twisted.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.usage import UsageError

from torsocks_tx.twistd.options import Options
from torsocks_tx.twistd.tap import makeService


def main() -> None:
    """Serve until SIGINT or SIGTERM, which end this with status 0."""
    options = Options()
    options.synopsis = f"Usage: torsocks-tx {Options.synopsis}"
    try:
        options.parseOptions()
    except UsageError as error:
        sys.exit(f"torsocks-tx: {error}")
    from twisted.internet import reactor as installed

    reactor: Any = installed
    service: Any = makeService(options)
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    service.privilegedStartService()
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


if __name__ == "__main__":
    main()
