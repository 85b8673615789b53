"""Every object given to the reactor has the whole interface of a descriptor.

Descriptor numbers are used again within one turn of the reactor: any object may be told of an
event that was meant for the one before it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

from twisted.internet.interfaces import IReadDescriptor, IReadWriteDescriptor, IWriteDescriptor
from zope.interface.verify import verifyClass

import torsocks_tx


def descriptors() -> Iterator[type]:
    """Every class of this package that a reactor can watch."""
    for module in pkgutil.walk_packages(torsocks_tx.__path__, "torsocks_tx."):
        if module.name.endswith(("__main__", "scrapy_handler")):  # Scrapy is optional
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(kind) and kind.__module__ == module.name:
                names = set(dir(kind))
                watched = IReadDescriptor.implementedBy(kind) or IWriteDescriptor.implementedBy(
                    kind
                )
                if watched or names & {"doRead", "doWrite"}:
                    yield kind


def test_every_descriptor_provides_its_whole_interface() -> None:
    found = list(descriptors())
    assert found
    for kind in found:
        assert verifyClass(IReadWriteDescriptor, kind), kind
