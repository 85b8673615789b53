"""Recordings of the events of tor's control port while one onion service was tried.

The first lines, marked ``#``, say what the attempt came to; then one event per line. The address
stands as 56 times ``a``, the token as ``TOKEN``, each relay as its name and nothing more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from torsocks_tx.backends.tor.control import Control

EVENTS = ("HS_DESC", "CIRC", "CIRC_MINOR")
ADDRESS = "a" * 56
TOKEN = "TOKEN"

_RELAY = re.compile(r"\$[0-9A-F]{40}~(\w+)")
_NOISE = re.compile(r" (?:TIME_CREATED|OLD_TIME_CREATED|HSDIR_INDEX|BUILD_FLAGS)=\S+")
_PASSWORD = re.compile(r'SOCKS_PASSWORD="[^"]*"')


@dataclass
class Recording:
    """The events: ``plain`` is tor's own code, ``code`` the right one, ``key`` whether tor held
    a client authorization key."""

    plain: int
    code: int
    key: bool
    events: list[tuple[str, str]] = field(default_factory=list)

    def dump(self) -> str:
        """The text of the file."""
        head = [f"# plain {self.plain:02X}", f"# code {self.code:02X}", f"# key {self.key}"]
        return "\n".join([*head, *(f"{name} {text}" for name, text in self.events)]) + "\n"


def load(path: Path) -> Recording:
    """Read one file."""
    facts: dict[str, str] = {}
    events = []
    for line in path.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(" ")
        if name == "#":
            key, _, value = rest.partition(" ")
            facts[key] = value
        else:
            events.append((name, rest))
    return Recording(
        int(facts["plain"], 16), int(facts["code"], 16), facts["key"] == "True", events
    )


class Recorder:
    """Records the events about one address on one control connection."""

    def __init__(self, control: Control, address: str) -> None:
        self.events: list[tuple[str, str]] = []
        self._control = control
        self._address = address.removesuffix(".onion")
        self._listeners = {name: self._listener(name) for name in EVENTS}

    async def begin(self) -> None:
        """Begin to listen."""
        for name, listener in self._listeners.items():
            await self._control.listen(name, listener)

    async def end(self) -> None:
        """Record what is still on its way, and stop listening."""
        await self._control.get_info("version")
        for name, listener in self._listeners.items():
            await self._control.unlisten(name, listener)

    def has(self, words: str) -> bool:
        """Whether an event with these words was recorded."""
        return any(words in text for _, text in self.events)

    def _listener(self, name: str):  # type: ignore[no-untyped-def]
        def note(text: str) -> None:
            if self._address in text:
                self.events.append((name, self._anonymous(text)))

        return note

    def _anonymous(self, text: str) -> str:
        text = text.replace(self._address, ADDRESS)
        text = _PASSWORD.sub(f'SOCKS_PASSWORD="{TOKEN}"', text)
        return _NOISE.sub("", _RELAY.sub(r"\1", text))
