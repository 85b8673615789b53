"""The settings in ``docs/recipes.md``, for the tests that run them."""

from __future__ import annotations

import re

from tests.support.processes import ROOT

PLACE = "127.0.0.1:1080"
"""Where the server is on the page."""

_BLOCK = re.compile(r"^```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes() -> dict[str, list[str]]:
    """Return the blocks of the page by their headings."""
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    _, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    return {each.partition("\n")[0]: _BLOCK.findall(each) for each in sections}


def recipe(title: str, number: int = 0, address: str = PLACE) -> str:
    """Return one block, for a server at this address."""
    block = recipes()[title][number]
    assert PLACE in block or address == PLACE
    return block.replace(PLACE, address)
