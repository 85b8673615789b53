"""``docs/conformance.md`` against the tests, both ways, as both are written: nothing is run for it.

The document has a table of three columns: a row's identifier, the row in our own words, and the
tests that prove it, each between backticks as a path below ``tests/`` with the test's name:
``wire/test_socks4.py::test_vectors`` or ``test_server.py::TestLimits::test_deadline``.
A test says the same with ``@rows("S-04")``, on itself or on its class, or for a whole module by
``pytestmark = rows("S-04")``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeGuard

import pytest

TESTS = Path(__file__).resolve().parents[1]
DOCUMENT = TESTS.parent / "docs" / "conformance.md"


def numbered(letter: str, *ranges: tuple[int, int]) -> set[str]:
    return {f"{letter}-{n:02}" for first, last in ranges for n in range(first, last + 1)}


EXPECTED = (
    numbered("S", (1, 51)) | numbered("R", (1, 8), (10, 13), (20, 34)) | numbered("P", (1, 40))
)


class Row(NamedTuple):
    """One line of the document's table."""

    identifier: str
    words: str
    tests: tuple[str, ...]


class Marks(NamedTuple):
    """What the tests say: the rows that each test names, and what is wrong with the marks."""

    tests: dict[str, set[str]]
    mistakes: list[str]


def rows_in_document(text: str) -> list[Row]:
    """Return the rows of every table line that begins with an identifier."""
    lines = re.findall(r"^\|\s*([A-Z]-\d+)\s*\|(.*)\|([^|]*)\|\s*$", text, re.MULTILINE)
    return [
        Row(i, words.strip(), tuple(re.findall(r"`([^`]+)`", cell))) for i, words, cell in lines
    ]


def row_calls(nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    for node in nodes:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call) and ast.unparse(inner.func).rpartition(".")[2] == "rows":
                yield inner


def identifiers(call: ast.Call) -> set[str]:
    if not call.args or not all(isinstance(a, ast.Constant) for a in call.args) or call.keywords:
        raise ValueError(f"line {call.lineno}: rows() wants identifiers, written out")
    return {str(argument.value) for argument in call.args if isinstance(argument, ast.Constant)}


def is_test(node: ast.stmt) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, functions) and node.name.startswith("test")


class _Collector:
    """Walks one module's classes and functions as pytest would collect them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.tests: dict[str, set[str]] = {}
        self.used: set[ast.Call] = set()

    def rows_of(self, nodes: Iterable[ast.AST]) -> set[str]:
        calls = list(row_calls(nodes))
        self.used.update(calls)
        return set().union(*map(identifiers, calls))

    def walk(self, body: Sequence[ast.stmt], prefix: str, inherited: set[str]) -> None:
        own = inherited | self.rows_of(
            node.value
            for node in body
            if isinstance(node, ast.Assign) and "pytestmark" in map(ast.unparse, node.targets)
        )
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                marks = own | self.rows_of(node.decorator_list)
                self.walk(node.body, f"{prefix}::{node.name}", marks)
            elif is_test(node):
                marks = own | self.rows_of(node.decorator_list)
                self.tests[f"{prefix}::{node.name}"] = marks


def marks_in_tests(root: Path) -> Marks:
    """Return every test below a directory with the rows that it names."""
    found = Marks({}, [])
    for path in sorted(root.rglob("test_*.py")):
        where = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        collector = _Collector(where)
        try:
            collector.walk(tree.body, where, set())
        except ValueError as problem:
            found.mistakes.append(f"{where}, {problem}")
            continue
        found.tests.update(collector.tests)
        stray = set(row_calls([tree])) - collector.used
        lines = ", ".join(str(call.lineno) for call in sorted(stray, key=lambda call: call.lineno))
        if stray:
            found.mistakes.append(f"{where}, line {lines}: rows() marks no test")
    return found


def disagreements(document: Sequence[Row], marks: Marks, expected: set[str]) -> list[str]:
    """Return how the document, the tests and the expected rows differ, one sentence for each."""
    listed = [row.identifier for row in document]
    found = list(marks.mistakes)
    found += [f"{i} is listed twice" for i in sorted({i for i in listed if listed.count(i) > 1})]
    found += [f"{i} is not in the document" for i in sorted(expected - set(listed))]
    found += [f"{i} is in the document, but not expected" for i in sorted(set(listed) - expected)]
    for row in document:
        if not row.words:
            found.append(f"{row.identifier} has no words")
        if not row.tests:
            found.append(f"{row.identifier} has no test")
        for test in row.tests:
            if test not in marks.tests:
                found.append(f"{row.identifier} names {test}, which does not exist")
            elif row.identifier not in marks.tests[test]:
                found.append(f"{row.identifier} names {test}, which does not name it")
    for test, named in marks.tests.items():
        found += [
            f"{test} names {i}, which is not in the document" for i in sorted(named - set(listed))
        ]
    return found


def test_the_document_and_the_tests_agree() -> None:
    document = rows_in_document(DOCUMENT.read_text(encoding="utf-8"))
    assert disagreements(document, marks_in_tests(TESTS), EXPECTED) == []


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


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("@rows('S-01')\ndef helper(): ...\n", "deep/test_it.py, line 1: rows() marks no test"),
        ("CASES = [rows('S-01')]\n", "deep/test_it.py, line 1: rows() marks no test"),
        (
            "@rows(ROW)\ndef test(): ...\n",
            "deep/test_it.py, line 1: rows() wants identifiers, written out",
        ),
        (
            "@rows()\ndef test(): ...\n",
            "deep/test_it.py, line 1: rows() wants identifiers, written out",
        ),
    ],
)
def test_a_mark_that_proves_nothing_is_a_mistake(text: str, mistake: str, tmp_path: Path) -> None:
    assert marks_of(tmp_path, text).mistakes == [mistake]


def test_rows_are_read_from_the_table() -> None:
    text = (
        "| id | words | tests |\n|---|---|---|\n"
        "| S-01 | with \\| a bar | `a.py::t`, `b.py::u` |\n| R-02 | | |\n"
    )
    assert rows_in_document(text) == [
        Row("S-01", "with \\| a bar", ("a.py::t", "b.py::u")),
        Row("R-02", "", ()),
    ]


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([Row("S-01", "w", ("t",))], "S-02 is not in the document"),
        (
            [Row("S-01", "w", ("t",)), Row("S-02", "w", ("t",)), Row("S-02", "w", ("t",))],
            "S-02 is listed twice",
        ),
        ([Row("S-01", "w", ("t",)), Row("S-02", "", ("t",))], "S-02 has no words"),
        ([Row("S-01", "w", ("t",)), Row("S-02", "w", ())], "S-02 has no test"),
        (
            [Row("S-01", "w", ("t",)), Row("S-02", "w", ("v",))],
            "S-02 names v, which does not exist",
        ),
        (
            [Row("S-01", "w", ("u", "t")), Row("S-02", "w", ("t",))],
            "S-01 names u, which does not name it",
        ),
        (
            [Row("S-01", "w", ("t",)), Row("S-02", "w", ("t",)), Row("S-03", "w", ("x",))],
            "S-03 is in the document, but not expected",
        ),
    ],
)
def test_a_disagreement_is_seen(document: list[Row], complaint: str) -> None:
    marks = Marks({"t": {"S-01", "S-02"}, "u": set(), "x": {"S-03"}}, [])
    assert complaint in disagreements(document, marks, {"S-01", "S-02"})


def test_a_row_that_only_a_test_knows_is_seen() -> None:
    marks = Marks({"t": {"S-01", "S-99"}}, [])
    assert disagreements([Row("S-01", "w", ("t",))], marks, {"S-01"}) == [
        "t names S-99, which is not in the document"
    ]
