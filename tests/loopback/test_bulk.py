"""Bytes in bulk, both ways at once, through the server and a fake tor."""

from __future__ import annotations

import hashlib
import os

import pytest

from tests.support.fakes import opened
from tests.support.ground import Ground
from tests.support.rows import rows

SIZE = 10 * 1024 * 1024


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@rows("S-01", "S-03")
@pytest.mark.parametrize("pipelined", [True, False])
async def test_ten_megabytes_each_way_at_once(ground: Ground, pipelined: bool) -> None:
    _, client, leg = await opened(ground, tor=True, pipelined=pipelined)
    up, down = os.urandom(SIZE), os.urandom(SIZE)
    assert leg.asked == (1, 3, b"example.com", 80)
    client.send(up)
    leg.send(down)
    assert digest(await leg.take(SIZE)) == digest(up)
    assert digest(await client.take(SIZE)) == digest(down)
    leg.close()
    assert await client.take_rest() == b""
    assert not leg.received
