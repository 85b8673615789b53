"""Onion services, and keys for client authorization (rend-spec-v3, control-spec)."""

from __future__ import annotations

import base64
import os
from collections import defaultdict
from collections.abc import Collection
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

UPLOAD_DEADLINE = 20.0
"""Seconds for the uploads of one service; they need about two. Then another service is tried."""

UPLOAD_ATTEMPTS = 6
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
    """Create a service, and wait until clients can find it."""
    flags, key = "DiscardPK", ""
    if client_auth_key is not None:
        flags, key = "DiscardPK,V3Auth", f" ClientAuthV3={client_auth_key.public_base32}"
    port = f"{virtual_port},127.0.0.1:{target_port}"
    command = f"ADD_ONION NEW:ED25519-V3 Flags={flags} Port={port}{key}"
    service = service_id(await publish(reactor, control, command))
    return OnionService(f"{service}.onion", virtual_port, target_port, control)


async def publish(
    reactor: Any, control: Control, command: str, without: Collection[str] = ()
) -> str:
    """Add a service by this ``ADD_ONION``, and wait for its descriptors; return tor's answer.

    A service whose uploads do not end is replaced. ``without``: fingerprints of directories whose
    uploads do not count.
    """
    uploads = Uploads(without)
    await control.listen("HS_DESC", uploads.note)
    try:
        for _ in range(UPLOAD_ATTEMPTS):
            await wake(control)
            answer = await control.command(command)
            uploading = Deferred.fromCoroutine(uploads.finished(service_id(answer)))
            try:
                await uploading.addTimeout(UPLOAD_DEADLINE, reactor)
            except TimeoutError:
                if not uploads.is_found(service_id(answer)):
                    await control.command(f"DEL_ONION {service_id(answer)}")
                    continue
            return answer
    finally:
        await control.unlisten("HS_DESC", uploads.note)
    raise TimeoutError(f"no service was published: {uploads}")


def service_id(answer: str) -> str:
    """Return the address, without .onion, in tor's answer to ``ADD_ONION``."""
    return answer.partition("ServiceID=")[2].split()[0]


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

    def __init__(self, without: Collection[str] = ()) -> None:
        self._without = without
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
        if any(fingerprint in text for fingerprint in self._without):
            return
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

    async def finished(self, service: str) -> None:
        """Return when every upload of this one succeeded or failed."""
        while not (self._least(service) and self._pending[service] <= 0):
            await self._changed.wait()

    def is_found(self, service: str) -> bool:
        """Whether each descriptor is at one directory at least: clients ask one after the other."""
        return self._pending[service] < self._least(service)

    def _least(self, service: str) -> int:
        return min(self._begun[service].values(), default=0)
