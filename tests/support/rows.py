"""Names the requirement rows that a test proves: ``@rows("S-04", "R-29")``.

``docs/conformance.md`` lists every row with its tests; ``test_conformance.py`` compares the two.
"""

from __future__ import annotations

import pytest


def rows(*identifiers: str) -> pytest.MarkDecorator:
    """Mark a test as a proof of the rows with these identifiers."""
    return pytest.mark.rows(*identifiers)
