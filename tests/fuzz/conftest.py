"""Keep the caches of hypothesis from slowing down later tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _quick_collections_afterwards() -> Iterator[None]:
    """Leave it out of the collection that ends every test."""
    yield
    gc.collect()
    gc.freeze()
