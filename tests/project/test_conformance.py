"""``docs/conformance.md`` against the marks of the tests, read from the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.conformance import DOCUMENT, LINE, TESTS, Marks, filled, index, marks_in_tests, proofs_of


def numbered(letter: str, *ranges: tuple[int, int]) -> list[str]:
    return [f"{letter}-{n:02}" for first, last in ranges for n in range(first, last + 1)]


EXPECTED = (
    numbered("S", (1, 51))
    + numbered("R", (1, 8), (10, 13), (20, 34))
    + numbered("P", (1, 40))
    + numbered("H", (1, 21))
)


def test_every_requirement_has_words_and_a_test_and_the_document_says_which() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    marks = marks_in_tests(TESTS)
    rows = LINE.findall(text)
    assert marks.mistakes == []
    assert sorted(identifier for identifier, _ in rows) == sorted(EXPECTED)
    assert [identifier for identifier, words in rows if not words.strip()] == []
    assert set().union(*marks.tests.values()) == set(EXPECTED)
    assert filled(text, marks.tests) == text, "run make docs"


def test_a_row_is_proved_by_one_file_of_each_kind_that_has_the_most_tests_of_it() -> None:
    tests = {
        "interop/test_curl.py::test_b": {"S-01"},
        "network/test_outage.py::test_a": {"S-01", "S-02"},
        "network/test_outage.py::test_b": {"S-01"},
        "socks/test_b.py::test": {"S-01"},
        "server/test_a.py::test": {"S-01"},
        "loopback/test_a.py::TestA::test": {"S-01"},
    }
    best = ["loopback/test_a.py", "network/test_outage.py", "server/test_a.py"]
    assert proofs_of("S-01", tests) == best
    text = "| row | words |\n| S-02 | with \\| a bar | `gone.py` |\n| S-03 |  |  |\n"
    assert filled(text, tests) == (
        "| row | words |\n| S-02 | with \\| a bar | `network/test_outage.py` |\n| S-03 |  |  |\n"
    )
    assert "## S-02\n\n- `network/test_outage.py::test_a`\n" in index(tests)


MODULE = """
import pytest
from tests.support.rows import rows
pytestmark = [pytest.mark.network, rows("S-01")]

@rows("S-02", "R-01")
@pytest.mark.parametrize("x", [1, pytest.param(2, marks=rows("S-03"))])
def test_plain(x): ...

async def test_async(): ...

@rows("S-04")
class TestGroup:
    @rows("S-05")
    def test_inner(self): ...
    def helper(self): ...
"""
FOUND = {
    "deep/test_it.py::test_plain": {"S-01", "S-02", "S-03", "R-01"},
    "deep/test_it.py::test_async": {"S-01"},
    "deep/test_it.py::TestGroup::test_inner": {"S-01", "S-04", "S-05"},
}


def marks_of(root: Path, text: str) -> Marks:
    (root / "deep").mkdir()
    (root / "deep" / "test_it.py").write_text(text)
    return marks_in_tests(root)


def test_marks_are_found_where_pytest_would_find_them(tmp_path: Path) -> None:
    assert marks_of(tmp_path, MODULE) == Marks(FOUND, [])


NO_TEST = "deep/test_it.py, line 1: rows() marks no test"
WANTS = "deep/test_it.py, line 1: rows() wants identifiers, written out"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("@rows('S-01')\ndef helper(): ...\n", NO_TEST),
        ("CASES = [rows('S-01')]\n", NO_TEST),
        ("@rows(ROW)\ndef test(): ...\n", WANTS),
        ("@rows()\ndef test(): ...\n", WANTS),
    ],
)
def test_a_mark_that_proves_nothing_is_a_mistake(text: str, mistake: str, tmp_path: Path) -> None:
    assert marks_of(tmp_path, text).mistakes == [mistake]
