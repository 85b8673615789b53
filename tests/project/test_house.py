"""The measures of the package: what they count, and their bounds."""

from __future__ import annotations

import re
from pathlib import Path

from tools.house import BOUNDS, PACKAGE, measure, modules, private_uses, rooms, single_importer

FILES = {
    "package/__init__.py": "",
    "package/errors.py": "from typing import (\n    Any,\n)\nx = 1\n",
    "package/room/__init__.py": "",
    "package/room/small.py": "class Small:\n    def __init__(self):\n        self._own = 1\n",
    "package/room/long.py": "import torsocks_tx.room.small\n" + "x = 1\n" * 100,
    "package/room/breach.py": (
        "from torsocks_tx.room import long\n"
        "from twisted.internet.tcp import _BasicBase\n"
        "def f(port, small):\n"
        "    small._own = port._realPortNumber\n"
        "    port.doRead = f\n"
        "    return port.doRead == f\n"
    ),
    "tests/test_it.py": "\n" * 7,
}


def write(root: Path) -> Path:
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "package"


def test_the_package_is_within_its_bounds() -> None:
    assert {name: it for name, it in measure().items() if it > BOUNDS[name]} == {}


def test_measures_count_what_they_name(tmp_path: Path) -> None:
    assert list(measure(write(tmp_path), tmp_path / "tests").values()) == [
        114,  # lines
        6,  # modules
        2,  # on the top floor
        7,  # lines of tests
        53,  # import lines, of 1,000: 6 of 114
        1,
        1,
        1,
    ]
    known = modules(tmp_path / "package")
    assert single_importer(known) == ["room.small"]
    assert private_uses(known) == {"room.breach": {"_BasicBase", "_realPortNumber"}}
    assert rooms(known) == {"(top)": (2, 4), "room": (4, 110)}


def test_debug_lines_are_made_only_where_they_are_asked_for() -> None:
    # Twisted's log files have every level, with or without --debug.
    calls = {path.name for path in PACKAGE.rglob("*.py") if "log.debug(" in path.read_text()}
    assert calls == {"protocol.py", "channel.py", "transport.py"}


def test_failures_are_logged_without_the_text_of_the_exception() -> None:
    # That may quote what a client sent.
    calls = [
        (path.name, call)
        for path in PACKAGE.rglob("*.py")
        for call in re.findall(r"_log\.failure\((?:[^()]|\((?:[^()]|\(\))*\))*\)", path.read_text())
    ]
    assert len(calls) > 10
    assert [call for call in calls if "without_text(" not in call[1]] == []
