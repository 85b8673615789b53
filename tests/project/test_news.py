"""The news fragments, from which towncrier writes the next part of CHANGELOG.md."""

from __future__ import annotations

import re
import tomllib

from tests.support.processes import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["towncrier"]


def test_every_news_fragment_has_a_kind_and_text() -> None:
    kinds = "|".join(kind["directory"] for kind in SETTINGS["type"])
    for path in (ROOT / SETTINGS["directory"]).iterdir():
        if path.name != ".gitignore":
            assert re.fullmatch(rf"(\d+|\+[\w-]+)\.({kinds})\.md", path.name), path.name
            assert path.read_text("utf-8").strip(), path.name


def test_changelog_marks_where_the_next_release_goes() -> None:
    text = (ROOT / SETTINGS["filename"]).read_text("utf-8")
    assert text.count(SETTINGS["start_string"]) == 1
    assert "[Unreleased]" not in text
