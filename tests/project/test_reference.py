"""The tables of the documents are those that the code gives."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import torsocks_tx
from tests.support.clients import client
from tests.support.processes import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import pictures
import reference

DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/**/*.md")]


def test_tables_match_the_code() -> None:
    for path in reference.TABLES:
        assert reference.filled(path) == path.read_text(encoding="utf-8"), "run `make docs`"


def test_reference_lists_every_option_and_flag() -> None:
    document = reference.DOCUMENT.read_text(encoding="utf-8")
    for option in reference.parse_help(reference.HELP):
        assert f"| `--{option.name}" in document
    for flag in reference.FLAGS:
        assert f"| `{flag.usage}` |" in document


@pytest.mark.clients("mandoc")
def test_the_manual_page_has_no_mistake_of_its_language() -> None:
    command = [client("mandoc"), "-T", "lint", "-W", "warning", reference.MANUAL]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (checked.stdout, checked.returncode) == ("", 0)


def test_the_manual_page_names_every_variable_of_the_environment() -> None:
    rooms = ("twistd", "server", "backends")
    paths = [path for room in rooms for path in (ROOT / "torsocks_tx" / room).rglob("*.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in paths)
    names = set(re.findall(r"environ\w*(?:\.\w+)?[\[(]\"([A-Z_]+)\"", code))
    assert {"PATH", "XDG_STATE_HOME"} < names
    manual = reference.MANUAL.read_text(encoding="utf-8").partition("ENVIRONMENT")[2]
    assert {name for name in names if name not in manual} == set()


@pytest.mark.parametrize("path", pictures.PICTURES, ids=lambda path: path.stem)
def test_pictures_show_what_the_code_decides_and_what_was_measured(path: Path) -> None:
    drawn = path.read_text(encoding="utf-8")
    assert pictures.PICTURES[path]() == drawn, "run `make docs`"
    picture = ElementTree.fromstring(drawn)
    assert [child.tag.rpartition("}")[2] for child in picture[:2]] == ["title", "desc"]
    assert "prefers-color-scheme:dark" in drawn
    assert len(drawn) < 20_000


def test_api_page_names_all_that_is_public() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", text))))
    public = set(torsocks_tx.__all__)
    for name in torsocks_tx.__all__:
        thing = getattr(torsocks_tx, name)
        if dataclasses.is_dataclass(thing):
            public |= {field.name for field in dataclasses.fields(thing)}
    assert {name for name in public if name[0] != "_"} - named == set()


def test_lines_of_the_log_in_the_guide_are_those_of_the_code() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `([^`]+)`", guide.partition("## What the log says")[2], re.MULTILINE)
    assert len(lines) > 10
    # Texts of the code may be written in two pieces, and have fields.
    code = "".join(path.read_text() for path in (ROOT / "torsocks_tx").rglob("*.py"))
    code = re.sub(r'"\s+f?"', "", code)
    for line in lines:
        for text in re.split(r"\.\.\.|\bN\b|\b\d+\b|[()]", line):
            assert text.strip(" ;:,") in code, line


def anchors(path: Path) -> set[str]:
    """Return the names of a document's headings, as links have them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_between_documents_lead_somewhere() -> None:
    links = [
        (path, *match)
        for path in DOCUMENTS
        for match in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", path.read_text())
    ]
    assert len(links) > 50
    for path, place, anchor in links:
        target = (path.parent / place).resolve() if place else path
        # The site has no page for a directory.
        found = target.is_file() if path.parent == ROOT / "docs" else target.exists()
        assert found, (path.name, place)
        assert not anchor or anchor in anchors(target), (path.name, place, anchor)
