"""HTTP as a client sees it, by the client's side of h11: the oracle for what we answer."""

from __future__ import annotations

from typing import NamedTuple

import h11


class Answer(NamedTuple):
    """One answer: its status, its headers by their names in lower case, its body."""

    status: int
    headers: dict[str, str]
    body: bytes


def answers_in(data: bytes, method: str = "CONNECT") -> list[Answer]:
    """Read every answer in these bytes; AssertionError for bytes that are none."""
    found = []
    while data:
        answer, data = read_answer(data, method)
        found.append(answer)
    return found


def read_answer(data: bytes, method: str = "CONNECT") -> tuple[Answer, bytes]:
    """Read one answer; return it, and the bytes behind it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="a:1", headers=[("Host", "a:1")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    head = client.next_event()
    assert isinstance(head, h11.Response), "no head of an answer"
    headers = {name.decode(): value.decode() for name, value in head.headers}
    assert len(headers) == len(head.headers.raw_items()), "a header twice"
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage | type):
        assert isinstance(event, h11.Data)
        body += event.data
    assert event is h11.PAUSED or isinstance(event, h11.EndOfMessage), "no end of an answer"
    return Answer(head.status_code, headers, body), client.trailing_data[0]
