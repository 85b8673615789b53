"""Clients that ask for a stream, send early data and leave: ``python -m tests.support.attack``.

Arguments: the port on 127.0.0.1, and for how many seconds at least. They come from six addresses,
from each 200 at least, send less than the bound of early data, as much, or more, and close or reset
at any moment. How many there were is printed.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import sys
import threading
import time

REQUEST = b"\5\1\0\5\1\0\3\4test\0\x50"
EARLY = (0, 1000, 64 * 1024, 70_000)
BURST, THREADS, LEAST = 12, 6, 200
WITH_RESET = struct.pack("ii", 1, 0)


def attack(port: int, until: float, address: str, counts: list[int]) -> None:
    """Be one address of many clients, in bursts."""
    dice = random.Random(address)
    count = 0
    while time.monotonic() < until or count < LEAST:
        burst = []
        for _ in range(BURST):
            with contextlib.suppress(OSError):
                client = socket.socket()
                burst.append(client)
                client.settimeout(1)
                client.bind((address, 0))
                client.connect(("127.0.0.1", port))
                client.setblocking(False)
                client.send(REQUEST + bytes(dice.choice(EARLY)))
                count += 1
        time.sleep(dice.random() * 0.03)
        for client in burst:
            if dice.random() < 0.6:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, WITH_RESET)
            client.close()
    counts.append(count)


def main(port: int, seconds: float) -> None:
    """Attack, and say how many there were."""
    counts: list[int] = []
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=attack, args=(port, until, f"127.0.0.{number + 2}", counts))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(counts))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
