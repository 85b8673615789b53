"""The load generator: ``python -m bench.load``, one job and one answer a line, in JSON.

Blocking sockets and threads for bulk, where a system call moves much; one epoll loop for the
set-up of many connections, where it does not.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.connections import Held, rate
from bench.origin import ONE_BYTE, order
from bench.socks import Way, connect, take

HOLD: list[Held] = []


def bulk(way: Way, host: str, port: int, count: int, streams: int, chunk: int) -> dict[str, float]:
    """Download ``count`` bytes in all over ``streams`` streams; return the seconds it took."""
    each = count // streams
    sockets = [connect(way, host, port) for _ in range(streams)]

    def drain(stream: socket.socket) -> None:
        buffer, left = bytearray(256 * 1024), each
        while left:
            got = stream.recv_into(buffer)
            if not got:
                raise EOFError(f"{left} bytes are missing")
            left -= got

    threads = [threading.Thread(target=drain, args=(stream,)) for stream in sockets]
    began = time.perf_counter()
    for stream, thread in zip(sockets, threads, strict=True):
        stream.sendall(order(b"S", chunk, each))
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    for stream in sockets:
        stream.close()
    return {"seconds": seconds, "bytes": each * streams}


def race(
    way: Way, host: str, port: int, streams: int, seconds: float, sources: int = 1
) -> dict[str, float]:
    """Download by many streams at one time; return the share of the fastest that the slowest got.

    ``sources``: addresses that they come from. Those who were served before all streams were open
    do not count for more.
    """
    poll, buffer = select.epoll(), bytearray(64 * 1024)
    sockets = {}
    for number in range(streams):
        stream = connect(way, host, port, source=f"127.0.1.{1 + number % sources}")
        sockets[stream.fileno()] = stream
        poll.register(stream, select.EPOLLIN)
    for stream in sockets.values():
        stream.sendall(order(b"S", 64 * 1024, 1 << 40))
    got = dict.fromkeys(sockets, 0)
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < 1.5 * seconds:
        is_counted = passed > 0.5 * seconds
        for number, _ in poll.poll(-1, streams):
            got[number] += sockets[number].recv_into(buffer) * is_counted
    poll.close()
    for stream in sockets.values():
        stream.close()
    least, most = min(got.values()), max(got.values())
    return {"seconds": seconds, "bytes": sum(got.values()), "fairness": least / most}


def echoes(way: Way, host: str, port: int, count: int) -> dict[str, float]:
    """Send a byte by one stream and wait for its echo, again and again; return the waits."""
    waits = []
    with connect(way, host, port) as stream:
        stream.sendall(order(b"E", 1, count))
        for _ in range(count):
            began = time.perf_counter()
            stream.sendall(b"?")
            take(stream, 1)
            waits.append(time.perf_counter() - began)
            time.sleep(0.005)
    return {"p50": statistics.median(waits), "p90": sorted(waits)[count * 9 // 10]}


def exchanges(
    way: Way, host: str, port: int, count: int, optimistic: bool = True
) -> dict[str, float]:
    """Open streams one after the other; return the median seconds to the first echoed byte.

    ``optimistic``: the client speaks in the segment of its request, not after the reply.
    """
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        with connect(way, host, port, ONE_BYTE if optimistic else b"") as stream:
            if not optimistic:
                stream.sendall(ONE_BYTE)
            take(stream, 1)
        taken.append(time.perf_counter() - began)
    return {"p50": statistics.median(taken)}


def hold(way: Way, host: str, port: int, count: int) -> dict[str, float]:
    """Open ``count`` streams and keep them."""
    held = Held(way, host, port, count)
    HOLD.append(held)
    return {"open": held.open, "refused": held.refused}


def use(way: Way, host: str, port: int) -> dict[str, float]:
    """Echo a byte over every held stream, and close it; return how many worked."""
    return {"used": HOLD.pop().use()}


JOBS: dict[str, Callable[..., dict[str, float]]] = {
    "bulk": bulk,
    "race": race,
    "echoes": echoes,
    "exchanges": exchanges,
    "rate": rate,
    "hold": hold,
    "use": use,
}


def answer(job: dict[str, Any]) -> dict[str, float]:
    """Do one job; ``cpu`` is the CPU time of this process for it."""
    before = time.process_time()
    way = Way(job.pop("version"), tuple(job.pop("proxy")))
    result = JOBS[job.pop("job")](way, **job)
    return {**result, "cpu": time.process_time() - before}


def main() -> None:
    """Do jobs until standard input ends."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for line in sys.stdin:
        try:
            result: dict[str, Any] = answer(json.loads(line))
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
