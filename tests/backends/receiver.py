"""The receiver of a stream in tests of backends."""

from __future__ import annotations

from zope.interface import implementer

from torsocks_tx.errors import Refused
from torsocks_tx.interfaces import IReceiver


@implementer(IReceiver)
class Receiver:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def opened(self) -> None:
        self.heard.append("opened")

    def refused(self, reason: Refused) -> None:
        self.heard.append(reason)

    def data(self, data: bytes) -> None:
        self.heard.append(data)

    def eof(self) -> None:
        self.heard.append("eof")

    def lost(self, clean: bool) -> None:
        self.heard.append(("lost", clean))
