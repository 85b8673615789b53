"""Says in ``docs/conformance.md`` which tests prove each requirement, as their marks say it.

The document has a table of three columns: a row's identifier, the row in our own words, and at most
three files below ``tests/``. Every test of every row stands in ``build/conformance-index.md``,
which ``make docs`` writes too. A test names its rows by ``@rows("S-04")``, on itself or on its
class, or for a whole module by ``pytestmark = rows("S-04")``.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeGuard

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
DOCUMENT = ROOT / "docs" / "conformance.md"
INDEX = ROOT / "build" / "conformance-index.md"
LINE = re.compile(r"^\| ([A-Z]-\d+) \|(.*)\|[^|]*\|$", re.MULTILINE)

# One file of each kind, if there is one: by unmodified clients or real tor, over real sockets, and
# of the module itself.
KINDS = (("interop", "network"), ("loopback", "fuzz", "project", "testing"), ())


class Marks(NamedTuple):
    """What the tests say: the rows that each test names, and what is wrong with the marks."""

    tests: dict[str, set[str]]
    mistakes: list[str]


def row_calls(nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    """Yield the calls of rows() within these nodes."""
    for node in nodes:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call) and ast.unparse(inner.func).rpartition(".")[2] == "rows":
                yield inner


def identifiers(call: ast.Call) -> set[str]:
    """Return the rows that a call names; raise ValueError if they are not written out."""
    if not call.args or not all(isinstance(a, ast.Constant) for a in call.args) or call.keywords:
        raise ValueError(f"line {call.lineno}: rows() wants identifiers, written out")
    return {str(argument.value) for argument in call.args if isinstance(argument, ast.Constant)}


def is_test(node: ast.stmt) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Whether pytest would take this for a test."""
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


def proofs_of(row: str, tests: Mapping[str, set[str]]) -> list[str]:
    """Return the files that prove a row best: of each kind the one with the most tests of it."""
    counted = Counter(name.partition("::")[0] for name, rows in tests.items() if row in rows)
    best: dict[tuple[str, ...], str] = {}
    for file, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
        kind = next((kind for kind in KINDS if file.partition("/")[0] in kind), ())
        best.setdefault(kind, file)
    return sorted(best.values())


def filled(text: str, tests: Mapping[str, set[str]]) -> str:
    """Return the document with its last column as the marks have it."""

    def fill(match: re.Match[str]) -> str:
        files = " ".join(f"`{file}`" for file in proofs_of(match[1], tests))
        return f"| {match[1]} | {match[2].strip()} | {files} |"

    return LINE.sub(fill, text)


def index(tests: Mapping[str, set[str]]) -> str:
    """Return the list of all tests of each row."""
    lines = ["# Every test of every requirement", ""]
    for row in sorted(set().union(*tests.values())):
        lines += [f"## {row}", "", *(f"- `{n}`" for n in sorted(tests) if row in tests[n]), ""]
    return "\n".join(lines)


def main() -> None:
    """Write both."""
    tests = marks_in_tests(TESTS).tests
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(filled(text, tests), encoding="utf-8")
    INDEX.parent.mkdir(exist_ok=True)
    INDEX.write_text(index(tests), encoding="utf-8")


if __name__ == "__main__":
    main()
