"""A server speaks the examples in docs/proposal-229.md byte by byte."""

from __future__ import annotations

import re

import pytest

from tests.support.processes import ROOT
from tests.support.rows import rows
from tests.support.stage import Stage
from tests.support.tables import octets

TEXT = (ROOT / "docs" / "proposal-229.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```text\n(C: 05.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def frames(line: str) -> bytes:
    """Return the bytes of a line of an example, without the comment."""
    digits = re.match(r"[CS]: *((?:[0-9A-F]{2})+(?: +(?:[0-9A-F]{2})+)*)(?:  |$)", line)
    return octets(digits.group(1)) if digits else b""


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 5


@rows("P-06", "P-08", "P-11", "P-14", "P-18", "P-20")
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_server_speaks_the_examples(example: str) -> None:
    stage = Stage()
    said, expected = b"", b""
    closes = False
    for line in example.splitlines():
        if line == "S: closes":
            closes = True
        elif line.startswith("C: "):
            stage.say(b"")
            assert said == expected
            said, expected = stage.say(frames(line)), b""
            if stage.backend.outbounds:
                stage.backend.outbounds[0].receiver.opened()
                said += stage.transport.take()
        else:
            assert frames(line) != b""
            expected += frames(line)
    assert said == expected
    assert stage.closes is closes
