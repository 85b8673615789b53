"""The first moments of a daemon: wait until it is guarded, then become it.

Run as ``python -I -S daemon_process.py PROGRAM ARGUMENT...`` by
:mod:`torsocks_tx.backends.tor.watchdog`, never imported. It makes a session of its own, so that a
Ctrl-C at the terminal reaches the owner alone, and waits for one byte on standard input. If the
owner dies before it could have this process guarded, that input ends and so does this process.
"""

from __future__ import annotations

import os
import sys

_CANNOT_EXECUTE = 127


def main(arguments: list[str]) -> int:
    """Wait for the word to go, then replace this process with the program."""
    os.setsid()
    if not os.read(0, 1):
        return 0
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    try:
        os.execv(arguments[0], arguments)
    except OSError as error:
        print(f"{arguments[0]}: {error.strerror}", file=sys.stderr)
        return _CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
