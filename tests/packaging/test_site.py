"""The documentation site is built without a warning, and has every public name and no other."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from tests.packaging.conftest import ROOT
from tests.project.test_public import MODULES, public


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    pytest.importorskip("sphinx")
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "--keep-going"]
    built = subprocess.run(
        [*command, "-d", place / "doctrees", ROOT / "docs", place / "html"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert (built.returncode, built.stdout) == (0, "")
    return place / "html"


def defined(module: str) -> dict[str, Any]:
    """Return the public names of a module that lists none: those that it defines itself."""
    names = public(module)
    if hasattr(importlib.import_module(module), "__all__"):
        return names
    return {name: thing for name, thing in names.items() if thing.__module__ == module}


def test_the_reference_has_every_public_name_and_no_other(site: Path) -> None:
    from sphinx.util.inventory import InventoryFile  # it may be missing

    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, path: path)
    kinds = [f"py:{kind}" for kind in ("class", "data", "exception", "function", "interface")]
    described = {name: id(resolve_name(name)) for kind in kinds for name in inventory[kind]}
    wanted = {
        f"{module}.{name}": id(thing)
        for module in MODULES
        for name, thing in defined(module).items()
    }
    assert len(wanted) > 100
    assert {name for name, thing in wanted.items() if thing not in described.values()} == set()
    assert {name for name, thing in described.items() if thing not in wanted.values()} == set()
