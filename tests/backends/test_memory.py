"""The backend for tests: what it records, and how a script answers."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from zope.interface.verify import verifyObject

from tests.backends.ends import Receiver
from tests.support.relaying import ISOLATION, REQUEST
from torsocks_tx.backends.memory import MemoryBackend
from torsocks_tx.interfaces import IBackend, IOutbound
from torsocks_tx.socks.messages import Address


def test_a_stream_without_a_script_waits_for_the_test() -> None:
    backend, receiver = MemoryBackend(), Receiver()
    outbound = backend.open(REQUEST, ISOLATION, receiver)
    assert verifyObject(IBackend, backend)
    assert verifyObject(IOutbound, outbound)
    assert backend.outbounds == [outbound]
    assert (outbound.request, outbound.isolation) == (REQUEST, ISOLATION)
    assert receiver.heard == []
    outbound.write(b"a")
    outbound.write(b"b")
    assert outbound.written == b"ab"


def test_script_gets_what_is_written() -> None:
    said: list[bytes] = []
    backend = MemoryBackend(lambda outbound: setattr(outbound, "on_write", said.append))
    backend.open(REQUEST, ISOLATION, Receiver()).write(b"a")
    assert said == [b"a"]


def test_calls_on_a_stream_are_recorded_in_order() -> None:
    receiver = Receiver()
    outbound = MemoryBackend().open(REQUEST, ISOLATION, receiver)
    producer = object()
    outbound.register_producer(producer)  # type: ignore[arg-type]
    assert outbound.producer is producer
    outbound.unregister_producer()
    assert outbound.producer is None
    outbound.pauseProducing()
    outbound.resumeProducing()
    outbound.stopProducing()
    outbound.lose_write()
    outbound.abort()
    assert receiver.heard == []
    outbound.close()
    assert outbound.events == ["pause", "resume", "lose_write", "abort", "close"]
    assert receiver.heard == [("lost", True)]


def test_look_ups_wait_or_are_answered_by_a_function() -> None:
    waiting = MemoryBackend()
    answer = waiting.resolve(REQUEST, ISOLATION)
    assert isinstance(answer, Deferred)
    assert waiting.lookups == [(REQUEST, ISOLATION, answer)]
    found: list[Address] = []
    answering = MemoryBackend(look_up=lambda request: succeed(Address.of("192.0.2.1")))
    answering.resolve(REQUEST, ISOLATION).addCallback(found.append)
    answering.resolve_ptr(REQUEST, ISOLATION).addCallback(found.append)
    assert found == [Address.of("192.0.2.1")] * 2
