"""Keep the caches of hypothesis from slowing down later tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _quick_collections_afterwards() -> Iterator[None]:
    """Exclude them from the garbage collection after every test."""
    yield
    gc.collect()
    gc.freeze()
