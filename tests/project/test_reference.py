"""The tables of the documents are those that the code gives."""

from __future__ import annotations

import sys

from tests.support.processes import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import reference


def test_tables_match_the_code() -> None:
    for path in reference.TABLES:
        assert reference.filled(path) == path.read_text(encoding="utf-8"), "run `make docs`"


def test_reference_lists_every_option_and_flag() -> None:
    document = reference.DOCUMENT.read_text(encoding="utf-8")
    for option in reference.parse_help(reference.HELP):
        assert f"| `--{option.name}" in document
    for flag in reference.FLAGS:
        assert f"| `{flag.name}` |" in document
