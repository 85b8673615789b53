"""Streams and circuits, read from texts of the control port."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import Clock

from tests.backends.tor.onion.staged import staged
from torsocks_tx.testing.tornet.client import WAIT_DEADLINE, StreamEvent, StreamWatch, live_streams

NEW = (
    "21 NEW 0 web.test:80 SOURCE_ADDR=127.0.0.1:40022 PURPOSE=USER"
    ' SOCKS_USERNAME="<torS0X>0" SOCKS_PASSWORD="a b" CLIENT_PROTOCOL=SOCKS5'
)
FIRST, SECOND, THIRD = ("$" + letter * 40 for letter in "ABC")


def test_stream_event_is_parsed() -> None:
    event = StreamEvent.parse(NEW)
    assert (event.stream_id, event.status, event.circuit_id) == (21, "NEW", 0)
    assert event.target == "web.test:80"
    assert (event.socks_username, event.socks_password) == ("<torS0X>0", "a b")
    closed = StreamEvent.parse("21 CLOSED 4 web.test:80 REASON=DONE")
    assert (closed.socks_password, closed.reason) == (None, "DONE")


async def test_live_streams_have_their_paths() -> None:
    control = staged()
    control.answers = {
        "GETINFO stream-status": f"5 SUCCEEDED 7 web.test:80\n6 NEW 0 {'a' * 56}.onion:80",
        "GETINFO circuit-status": (
            f"7 BUILT {FIRST}~auth0,{SECOND}~exit1,{THIRD}=exit2 PURPOSE=GENERAL\n"
            "8 LAUNCHED PURPOSE=HS_CLIENT_REND"
        ),
    }
    attached, waiting = await live_streams(control)
    assert (attached.stream_id, attached.circuit_id, attached.target) == (5, 7, "web.test:80")
    assert attached.path == ("auth0", "exit1", "exit2")
    assert attached.purpose == "GENERAL"
    assert (waiting.status, waiting.circuit_id, waiting.path) == ("NEW", 0, ())


async def test_client_without_streams_lists_none() -> None:
    assert await live_streams(staged()) == []


async def test_watch_records_until_it_is_closed() -> None:
    control = staged()
    watch = await StreamWatch(Clock(), control).open()
    control.send(f"STREAM {NEW}")
    control.send("STREAM 21 SUCCEEDED 4 web.test:80")
    control.send("STREAM 22 NEW 0 web.test:80")
    control.send("STREAM 22 SUCCEEDED 5 127.0.0.1:80")
    control.send("STREAM 23 SUCCEEDED 6 other.test:80")
    await watch.close()
    control.send("STREAM 24 SUCCEEDED 7 web.test:80")
    assert watch.circuits("web.test:80") == [4, 5]
    assert watch.circuits("web.test:80", "NEW") == [0, 0]
    assert len(watch.events) == 5


async def test_watch_waits_for_streams_until_its_deadline() -> None:
    control, clock = staged(), Clock()
    watch = await StreamWatch(clock, control).open()
    waiting = Deferred.fromCoroutine(watch.wait_for("SUCCEEDED", "web.test:80", count=2))
    control.send("STREAM 21 SUCCEEDED 4 web.test:80")
    control.send("STREAM 21 CLOSED 4 web.test:80")
    assert not waiting.called
    control.send("STREAM 22 SUCCEEDED 4 web.test:80")
    assert [event.stream_id for event in await waiting] == [21, 22]
    late = Deferred.fromCoroutine(watch.wait_for("FAILED", "web.test:80"))
    clock.advance(WAIT_DEADLINE)
    with pytest.raises(TimeoutError):
        await late
