"""The shape of the package: which modules may import which, and how long code may be.

Read from the source: nothing is imported to find out.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tools.house import graph, is_within, modules

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "torsocks_tx"

# A module imports only from its own ring and from those before it.
# Patterns of names below the package; "" is the package itself.
RINGS: tuple[tuple[str, ...], ...] = (
    ("errors", "limits", "socks", "socks.*", "http", "http.*"),
    ("policy", "policy.*", "pt.spec", "status", "status.html", "status.page", "status.registry"),
    ("interfaces", "relay", "relay.*"),
    ("client", "client.*"),
    ("web", "web.*"),
    ("backends", "backends.*"),
    ("server", "server.*"),
    ("pt", "pt.channel", "pt.managed", "pt.transport"),
    ("status.report", "status.site", "status.pages", "status.metrics"),
    ("testing", "testing.*"),
    ("twistd", "twistd.*"),
    ("", "__main__"),
)
PURE_RINGS = 2
IMPURE = ("twisted", "zope")
# ``SOCKSError`` is a ``ConnectError``, which applications catch; the module imports no reactor.
ALLOWED = ("errors", "twisted.internet.error")
ONLY_IMPORTER_OF_TXTORCON = "backends.tor"

MODULE_LINES, CLASS_LINES, FUNCTION_LINES = 400, 200, 40


def rank(module: str) -> int:
    """Return the ring of a module, named below the package ("" is the package itself)."""
    found = [i for i, ring in enumerate(RINGS) if any(fnmatchcase(module, p) for p in ring)]
    assert len(found) == 1, f"{module!r} has {len(found)} places in RINGS; give it the right one"
    return found[0]


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return one cycle of a graph as the names along it, or nothing."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if found := visit(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next(filter(None, (visit(name, []) for name in sorted(graph))), [])


def foreign_breach(module: str, target: str) -> str:
    """Return why this import of another project is forbidden, or nothing."""
    allowed = module == ALLOWED[0] and is_within(target, ALLOWED[1])
    impure = any(is_within(target, top) for top in IMPURE) and not allowed
    if rank(module) < PURE_RINGS and impure:
        return f"{module} is pure, but imports {target}"
    if is_within(target, "txtorcon") and not is_within(module, ONLY_IMPORTER_OF_TXTORCON):
        return f"{module} imports {target}; only {ONLY_IMPORTER_OF_TXTORCON} may"
    return ""


def breaches_of(package: Path) -> list[str]:
    """Return every breach of the rings, each in one sentence."""
    known = modules(package)
    ours = graph(known)
    ranks = {module: rank(module) for module in ours}
    found = [
        f"{module or PACKAGE} imports {target or PACKAGE}, which is further out"
        for module, targets in sorted(ours.items())
        for target in sorted(targets)
        if rank(target) > ranks[module]
    ]
    foreign = (
        foreign_breach(module.place, target) for module in known for target in module.imports()
    )
    found += filter(None, foreign)
    if cycle := cycle_in(ours):
        found.append("a cycle: " + " -> ".join(name or PACKAGE for name in cycle))
    return found


def lines_of_code(node: ast.AST, lines: Sequence[str]) -> int:
    """Return how many lines of code it has, without blank lines and docstrings."""
    start, end = node.lineno, node.end_lineno  # type: ignore[attr-defined]
    count = sum(1 for line in lines[start - 1 : end] if line.strip())
    for inner in ast.walk(node):
        documented = isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(inner) is not None:
            text = inner.body[0]
            written = lines[text.lineno - 1 : text.end_lineno]
            count -= sum(1 for line in written if line.strip())
    return count


def too_long_in(text: str, where: str) -> list[str]:
    """Return every module, class and function that is too long."""
    found = []
    if (lines := text.count("\n")) > MODULE_LINES:
        found.append(f"{where}: {lines} lines, of {MODULE_LINES}")
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        limit = CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES
        if (lines := lines_of_code(node, text.splitlines())) > limit:
            found.append(f"{where}:{node.lineno} {node.name}: {lines} lines, of {limit}")
    return found


def test_modules_import_only_inwards() -> None:
    assert len(modules(ROOT / PACKAGE)) > 10
    assert breaches_of(ROOT / PACKAGE) == []


def test_modules_classes_and_functions_are_short() -> None:
    places = [ROOT / PACKAGE, ROOT / "twisted", ROOT / "tools", ROOT / "examples", ROOT / "bench"]
    paths = [path for place in places for path in sorted(place.rglob("*.py"))]
    assert len(paths) > 10
    assert [
        breach
        for path in paths
        for breach in too_long_in(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ] == []


BREACHES = {
    "outwards": (
        {"errors": "import torsocks_tx.server"},
        "errors imports server, which is further out",
    ),
    "outwards, relative": ({"errors": "from . import relay"}, "errors imports relay"),
    "outwards, from a package": ({"http/__init__": "from .. import relay"}, "http imports relay"),
    "the package itself": (
        {"server": "from torsocks_tx import Thing"},
        "server imports torsocks_tx",
    ),
    "inside a function": (
        {"relay": "def f():\n from torsocks_tx.backends.tor import leg"},
        "relay imports backends.tor.leg",
    ),
    "impure": ({"policy": "from zope.interface import Interface"}, "policy is pure, but imports"),
    "impure, dynamic": (
        {"http/a": "import importlib\nimportlib.import_module('twisted.python')"},
        "http.a is pure, but imports twisted.python",
    ),
    "txtorcon": (
        {"testing/net": "import txtorcon.socks"},
        "testing.net imports txtorcon.socks; only",
    ),
    "cycle": (
        {"http/a": "from . import b", "http/b": "from torsocks_tx.http.a import c"},
        "a cycle: http.a -> http.b -> http.a",
    ),
}
SOUND = {
    "__init__": "from torsocks_tx.server import Factory",
    "errors": "import enum, zopefish",
    "http/__init__": "",
    "http/a": "from .. import errors\nfrom . import b",
    "http/b": "from torsocks_tx.errors import Refused",
    "relay": "from twisted.internet import defer",
    "backends/__init__": "",
    "backends/tor/__init__": "from . import leg",
    "backends/tor/leg": "import txtorcon\nfrom ...errors import Refused",
    "server": "from .backends import tor",
    "testing/__init__": "from torsocks_tx.backends.tor.leg import Leg",
    "twistd": "from torsocks_tx import testing",
    "policy": "",
}


def write_package(root: Path, modules: dict[str, str]) -> Path:
    for name, text in modules.items():
        path = root / PACKAGE / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / PACKAGE


@pytest.mark.parametrize("case", BREACHES)
def test_forbidden_import_is_reported(case: str, tmp_path: Path) -> None:
    change, complaint = BREACHES[case]
    breaches = breaches_of(write_package(tmp_path, {**SOUND, **change}))
    assert breaches[0].startswith(complaint)


def test_allowed_imports_are_not_reported(tmp_path: Path) -> None:
    assert breaches_of(write_package(tmp_path, SOUND)) == []


def test_module_without_a_ring_is_reported(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="'elsewhere' has 0 places in RINGS"):
        breaches_of(write_package(tmp_path, {**SOUND, "elsewhere": ""}))


def test_long_code_is_reported() -> None:
    function = "def f():\n" + "    x = 1\n" * FUNCTION_LINES
    class_ = "class C:\n" + "    x = 1\n" * CLASS_LINES
    assert too_long_in(function, "a.py") == ["a.py:1 f: 41 lines, of 40"]
    assert too_long_in(class_, "a.py") == ["a.py:1 C: 201 lines, of 200"]
    assert too_long_in("x = 1\n" * (MODULE_LINES + 1), "a.py") == ["a.py: 401 lines, of 400"]
    assert too_long_in("x = 1\n" * MODULE_LINES, "a.py") == []
