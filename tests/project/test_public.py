"""The public names: how they are imported, and that they are all that a user's program needs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import subprocess
import sys
import typing
from collections.abc import Iterator
from typing import Any

import pytest

import torsocks_tx

MODULES = [
    "torsocks_tx",
    "torsocks_tx.errors",
    "torsocks_tx.web",
    "torsocks_tx.pt",
    "torsocks_tx.testing.scripted",
    "torsocks_tx.testing.tornet",
]
# Of what users get ready-made, as they do not call its constructor, and what the workers of the
# program share.
INTERNAL = {
    "torsocks_tx": {"Epoch", "FreshCircuits", "Listener", "Tries"},
    "torsocks_tx.testing.tornet": {"Control", "Watchdog"},
}


def public(module: str) -> dict[str, Any]:
    imported = importlib.import_module(module)
    names = getattr(imported, "__all__", [name for name in vars(imported) if name[0] != "_"])
    return {name: getattr(imported, name) for name in names}


USE_EACH_NAME = """
import importlib, json, sys
for module, names in json.loads(sys.argv[1]):
    for name in names:
        getattr(importlib.import_module(module), name)
        if "twisted.internet.reactor" in sys.modules:
            sys.exit(f"the use of {module}.{name} installs a reactor")
from twisted.internet import asyncioreactor
asyncioreactor.install()
"""


def test_no_public_name_installs_a_reactor() -> None:
    names = json.dumps([(module, list(public(module))) for module in MODULES])
    command = [sys.executable, "-c", USE_EACH_NAME, names]
    subprocess.run(command, check=True, timeout=600)


def test_every_public_name_is_listed_with_its_module() -> None:
    homes = torsocks_tx._HOMES
    listed = [name for names in homes.values() for name in names.split()]
    assert sorted(listed) == sorted(torsocks_tx.__all__)
    for home, names in homes.items():
        module = importlib.import_module(f"torsocks_tx.{home}")
        for name in names.split():
            assert getattr(torsocks_tx, name) is getattr(module, name)


def test_a_misspelt_name_is_an_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Nonsense' from 'torsocks_tx'"):
        exec("from torsocks_tx import Nonsense")


def classes_in(hint: Any) -> Iterator[type]:
    """Yield the classes of the package that a type hint names."""
    for part in hint if isinstance(hint, list) else typing.get_args(hint):
        yield from classes_in(part)
    if inspect.isclass(hint) and hint.__module__.startswith("torsocks_tx"):
        yield hint


def hints_of(thing: Any) -> dict[str, Any]:
    """Return the type hints of what a user writes to make or to call it."""
    if inspect.isclass(thing) and not dataclasses.is_dataclass(thing):
        thing = thing.__init__
    ours = str(getattr(thing, "__module__", "")).startswith("torsocks_tx")
    written = inspect.isfunction(thing) or inspect.isclass(thing)
    try:
        return typing.get_type_hints(thing) if ours and written else {}
    except TypeError:  # interfaces of zope.interface 5.5 have no |
        return {}


def test_all_that_a_public_signature_names_is_public() -> None:
    known = {id(thing) for module in MODULES for thing in public(module).values()}
    missing = [
        f"{kind.__module__}.{kind.__name__}, in {module}.{name}"
        for module in MODULES
        for name, thing in public(module).items()
        for kind in {*classes_in(list(hints_of(thing).values())), *classes_in(thing)}
        if id(kind) not in known and kind.__name__ not in INTERNAL.get(module, ())
    ]
    assert missing == []
