"""Fills the last column of ``docs/conformance.md`` from the marks in the tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.project.test_conformance import DOCUMENT, TESTS, marks_in_tests  # noqa: E402


def main() -> None:
    """Rewrite the document."""
    tests = marks_in_tests(TESTS).tests

    def fill(match: re.Match[str]) -> str:
        row, words = match.group(1), match.group(2)
        proofs = sorted(f"`{name}`" for name, named in tests.items() if row in named)
        return f"| {row} | {words.strip()} | {' '.join(proofs)} |"

    text = DOCUMENT.read_text(encoding="utf-8")
    filled = re.sub(r"^\| ([SRP]-\d+) \|(.*)\|[^|]*\|$", fill, text, flags=re.MULTILINE)
    DOCUMENT.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
