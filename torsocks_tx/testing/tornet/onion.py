"""Onion services, and keys for client authorization (rend-spec-v3, control-spec)."""

from __future__ import annotations

import base64
import os
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

# txtorcon brings it.
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.defer import Deferred, TimeoutError

from torsocks_tx.backends.tor.control import Control, ControlError
from torsocks_tx.backends.tor.events import parse_event
from torsocks_tx.backends.tor.waiting import Waiters

UPLOAD_DEADLINE = 15.0
"""Seconds for the uploads of one service; they need about two. Then one more service is tried."""

UPLOAD_ATTEMPTS = 8
"""How many services are tried."""


@dataclass(frozen=True, slots=True)
class ClientKey:
    """The X25519 key of a client that an onion service admits; ``private`` is 32 bytes."""

    private: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> ClientKey:
        """Return a new random key."""
        return cls(os.urandom(32))

    @property
    def public_base32(self) -> str:
        """The public half as ``ADD_ONION ... ClientAuthV3=`` wants it."""
        key = X25519PrivateKey.from_private_bytes(self.private).public_key()
        return _base32(key.public_bytes(Encoding.Raw, PublicFormat.Raw))

    @property
    def private_base64(self) -> str:
        """The private half as ``ONION_CLIENT_AUTH_ADD`` wants it, behind ``x25519:``."""
        return base64.b64encode(self.private).decode("ascii")

    def auth_private(self, address: str) -> str:
        """Return the line of a ``.auth_private`` file for a service: see ``--onion-auth-dir``."""
        return f"{address.removesuffix('.onion')}:descriptor:x25519:{_base32(self.private)}"


def _base32(key: bytes) -> str:
    return base64.b32encode(key).decode("ascii").rstrip("=")


@dataclass(frozen=True, slots=True)
class OnionService:
    """A running onion service.

    Attributes:
        address: ``<56 characters>.onion``.
        virtual_port: the port that clients connect to.
        target_port: the port of 127.0.0.1 that they reach.
    """

    address: str
    virtual_port: int
    target_port: int
    _control: Control = field(repr=False)

    async def remove(self) -> None:
        """Remove the service; its descriptors stay at the directories until they expire."""
        await self._control.command(f"DEL_ONION {self.address.removesuffix('.onion')}")


async def add_onion_service(
    reactor: Any,
    control: Control,
    target_port: int,
    virtual_port: int = 80,
    client_auth_key: ClientKey | None = None,
) -> OnionService:
    """Create a service, and wait until its descriptors are at every directory."""
    flags, key = "DiscardPK", ""
    if client_auth_key is not None:
        flags, key = "DiscardPK,V3Auth", f" ClientAuthV3={client_auth_key.public_base32}"
    command = (
        f"ADD_ONION NEW:ED25519-V3 Flags={flags} Port={virtual_port},127.0.0.1:{target_port}{key}"
    )
    uploads = Uploads()
    await control.listen("HS_DESC", uploads.note)
    try:
        service = await _published(reactor, control, command, uploads)
    finally:
        await control.unlisten("HS_DESC", uploads.note)
    return OnionService(f"{service}.onion", virtual_port, target_port, control)


async def _published(reactor: Any, control: Control, command: str, uploads: Uploads) -> str:
    """Create services until the descriptors of one are uploaded; return its name.

    One that took too long may only be slow: it goes on beside the next one.
    """
    services: list[str] = []
    published = None
    try:
        while published is None:
            await wake(control)
            service = (await control.command(command)).partition("ServiceID=")[2].split()[0]
            services.append(service)
            uploading = Deferred.fromCoroutine(uploads.finished(services))
            try:
                published = await uploading.addTimeout(UPLOAD_DEADLINE, reactor)
            except TimeoutError:
                published = uploads.found_by_clients(services)
                if published is None and len(services) == UPLOAD_ATTEMPTS:
                    raise TimeoutError(f"no service was published: {uploads}") from None
    finally:
        for service in services:
            if service != published:
                await control.command(f"DEL_ONION {service}")
    return published


async def wake(control: Control) -> None:
    """Have tor build a circuit.

    A tor that missed descriptors of relays for a moment, as after a new consensus, does nothing for
    its onion services until it has built one more circuit, and builds none while it has enough.
    """
    with suppress(ControlError):  # it is still without them: the next attempt may find them
        await control.command("EXTENDCIRCUIT 0")


class Uploads:
    """Counts the uploads of descriptors, from HS_DESC events.

    A service makes two descriptors, for this time period and for a neighbouring one. A client asks
    for either of them, so both must be uploaded. UPLOADED does not say which one it is about, and
    tor reports no upload that is lost with its circuit.
    """

    def __init__(self) -> None:
        self._begun: dict[str, dict[str, int]] = defaultdict(dict)
        self._pending: dict[str, int] = defaultdict(int)
        self._changed: Waiters[None] = Waiters()

    def __repr__(self) -> str:
        """Return for each service how many uploads of each descriptor began, and are not over."""
        return ", ".join(
            f"{list(begun.values())} uploads of which {self._pending[service]} are not over"
            for service, begun in self._begun.items()
        )

    def note(self, text: str) -> None:
        """Take one HS_DESC event."""
        action, service, *others = parse_event(text).positional
        begun = self._begun[service]
        if action == "CREATED":
            begun.setdefault(others[-1], 0)
        elif action == "UPLOAD":
            begun[others[-1]] = begun.get(others[-1], 0) + 1
            self._pending[service] += 1
        elif action in ("UPLOADED", "FAILED"):
            self._pending[service] -= 1
        self._changed.fire(None)

    async def finished(self, services: list[str]) -> str:
        """Return the first of these of which every upload succeeded or failed."""
        while (service := self._first(services, lambda least, pending: pending <= 0)) is None:
            await self._changed.wait()
        return service

    def found_by_clients(self, services: list[str]) -> str | None:
        """Return the first of these of which each descriptor is at one directory at least.

        Clients that meet a directory without it ask the next one.
        """
        return self._first(services, lambda least, pending: pending < least)

    def _first(self, services: list[str], is_enough: Callable[[int, int], bool]) -> str | None:
        for service in services:
            least = min(self._begun[service].values(), default=0)
            if least and is_enough(least, self._pending[service]):
                return service
        return None
