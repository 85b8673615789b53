"""Measures the shape of the package: how much of it there is, and what the house rules count.

``python tools/house.py`` prints the figures beside their bounds; a test keeps the bounds.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "torsocks_tx"

# Each is kept by a test. Lower them as the package shrinks.
BOUNDS = {
    "lines": 25_310,
    "modules": 128,
    # __init__, interfaces, errors, limits; __main__ for python -m
    "modules on the top floor": 5,
    "lines of tests": 41_010,
    "import lines, of 1,000": 74,
    "small modules with one importer": 1,
    "methods of instances replaced": 0,
    "modules that name something private": 0,
}
SMALL = 100
OURS = "torsocks_tx"
DYNAMIC = {"import_module", "__import__", "namedAny", "namedModule"}
REPLACED = re.compile(r"\.(?:doRead|doWrite|connectionLost)\s*=(?!=)")


@dataclass(frozen=True)
class Module:
    """One module: its dotted name below the package, its text, and what it imports of ours."""

    name: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return self.text.count("\n")

    @property
    def is_root(self) -> bool:
        """Whether it is a package's ``__init__``."""
        return self.name == "__init__" or self.name.endswith(".__init__")

    @property
    def import_lines(self) -> int:
        """How many of its lines import something."""
        nodes = [n for n in ast.walk(self.tree) if isinstance(n, ast.Import | ast.ImportFrom)]
        return sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes)

    @property
    def place(self) -> str:
        """Its name without ``__init__``; "" for the package itself."""
        return self.name.removesuffix("__init__").removesuffix(".")

    def imports(self) -> Iterator[str]:
        """Yield the absolute dotted names that it imports; not those under ``if __main__``."""
        own = [OURS, *filter(None, self.place.split("."))]
        kept = [each for each in self.tree.body if "__main__" not in _condition(each)]
        for node in ast.walk(ast.Module(kept, [])):
            match node:
                case ast.Import(names):
                    yield from (alias.name for alias in names)
                case ast.ImportFrom(module, names, level):
                    start = own[: len(own) - level + self.is_root] if level else []
                    base = ".".join([*start, *filter(None, [module])])
                    yield from (f"{base}.{alias.name}" for alias in names)
                case ast.Call(function, [ast.Constant(str(name)), *_]):
                    if ast.unparse(function).rpartition(".")[2] in DYNAMIC:
                        yield name

    def private_names(self) -> set[str]:
        """Return the private names that it takes from elsewhere: imported, or of some object."""
        found = {alias.name for node in ast.walk(self.tree)
                 if isinstance(node, ast.ImportFrom) for alias in node.names}  # fmt: skip
        found |= {node.attr for node in ast.walk(self.tree) if isinstance(node, ast.Attribute)}
        return {name for name in found if re.match(r"_[a-zA-Z]", name)}

    def own_private_names(self) -> set[str]:
        """Return the private names that it defines, its slots among them."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    found.add(node.name)
                case ast.Attribute(ctx=ast.Store()):
                    found.add(node.attr)
                case ast.Name(ctx=ast.Store()):
                    found.add(node.id)
                case ast.Constant(value=str(text)):
                    found.add(text)
        return found


def _condition(node: ast.stmt) -> str:
    return ast.unparse(node.test) if isinstance(node, ast.If) else ""


def is_within(name: str, package: str) -> bool:
    """Whether a dotted name is this package or below it."""
    return name == package or name.startswith(package + ".")


def graph(known: list[Module]) -> dict[str, set[str]]:
    """Return, for the place of each module, the places of those that it imports."""
    places = {module.place for module in known}
    found: dict[str, set[str]] = {place: set() for place in places}
    for module in known:
        for target in filter(lambda name: is_within(name, OURS), module.imports()):
            below = target.removeprefix(OURS).removeprefix(".")
            while below and below not in places:  # ``from module import name``
                below = below.rpartition(".")[0]
            found[module.place].add(below)
    return found


def modules(package: Path = PACKAGE) -> list[Module]:
    """Return every module of the package."""
    found = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        found.append(Module(name, text, ast.parse(text)))
    return found


def single_importer(known: list[Module]) -> list[str]:
    """Return the small modules that only one other imports."""
    importers = Counter(name for targets in graph(known).values() for name in targets)
    return [
        module.name
        for module in known
        if not module.is_root and module.lines < SMALL and importers[module.name] == 1
    ]


def private_uses(known: list[Module]) -> dict[str, set[str]]:
    """Return the modules that use private names which nothing of ours defines, with the names."""
    ours = {"_exit"}.union(*(module.own_private_names() for module in known))  # os._exit
    found = {module.name: module.private_names() - ours for module in known}
    return {name: names for name, names in found.items() if names}


def measure(package: Path = PACKAGE, tests: Path = ROOT / "tests") -> dict[str, int]:
    """Return the figures by the names that their bounds have."""
    known = modules(package)
    lines = sum(module.lines for module in known)
    imports = sum(module.import_lines for module in known)
    figures = (
        lines,
        len(known),
        sum("." not in module.name for module in known),
        sum(path.read_text(encoding="utf-8").count("\n") for path in tests.rglob("*.py")),
        round(1000 * imports / max(lines, 1)),
        len(single_importer(known)),
        sum(len(REPLACED.findall(module.text)) for module in known),
        len(private_uses(known)),
    )
    return dict(zip(BOUNDS, figures, strict=True))


def rooms(known: list[Module]) -> Mapping[str, tuple[int, int]]:
    """Return how many modules and lines each folder has."""
    found: dict[str, tuple[int, int]] = {}
    for module in known:
        room = module.name.rpartition(".")[0].replace(".", "/") or "(top)"
        count, lines = found.get(room, (0, 0))
        found[room] = (count + 1, lines + module.lines)
    return found


def main() -> None:
    """Print it all."""
    known = modules()
    print(f"{'folder':<24}{'modules':>8}{'lines':>8}")
    for room, (count, lines) in rooms(known).items():
        print(f"{room:<24}{count:>8}{lines:>8}")
    print(f"\n{'figure':<40}{'is':>8}{'at most':>9}")
    for name, figure in measure().items():
        mark = "  <- too much" if figure > BOUNDS[name] else ""
        print(f"{name:<40}{figure:>8}{BOUNDS[name]:>9}{mark}")
    print(f"\nsmall modules with one importer: {', '.join(single_importer(known))}")
    private = [f"{name} ({', '.join(names)})" for name, names in private_uses(known).items()]
    print(f"modules that name something private: {'; '.join(private)}")


if __name__ == "__main__":
    main()
