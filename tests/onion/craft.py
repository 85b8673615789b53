"""Descriptors of onion services made by hand: sound ones, and ones with a flaw (rend-spec-v3).

They are posted with HSPOST, for this time period and its neighbours: a run that crosses the border
between two finds them all the same.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from stem.client.datatype import LinkByFingerprint, LinkByIPv4
from stem.descriptor.hidden_service import (
    HiddenServiceDescriptorV3,
    InnerLayer,
    IntroductionPointV3,
    OuterLayer,
)
from twisted.internet import reactor
from twisted.internet.defer import Deferred, TimeoutError

from torsocks_tx.backends.tor.control import Control

DEADLINE = 90.0
TRIES = 4

PERIOD_MINUTES = 8
"""24 voting intervals of 20 s, as the private network has them."""

_OFFSET_MINUTES = 4
_BASE_POINT = (
    "(15112221349535400772501151409588531511454012693041857206046113283949847762202,"
    " 46316835694926478169428394003475163141307993866256225615783033603165251855960)"
)


_JUNK = b"junk\n" * 100


class Flaw(Enum):
    """What is wrong with a descriptor."""

    NONE = "nothing"
    RANDOM_OUTER = "the superencrypted part is random"
    JUNK_OUTER = "the superencrypted part decrypts to junk"
    JUNK_INNER = "the encrypted part decrypts to junk"
    OLD_HANDSHAKE = "create2-formats 1"


@dataclass(frozen=True)
class Relay:
    """A relay as an introduction point names it."""

    name: str
    fingerprint: str
    address: str
    or_port: int
    ntor_key: bytes


_Point = tuple[Relay, Ed25519PrivateKey]


class Service:
    """The keys of an onion service that nobody runs."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self._public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def address(self) -> str:
        """Its address, with ``.onion``."""
        body = self._public + b"\x03"
        checksum = hashlib.sha3_256(b".onion checksum" + body).digest()[:2]
        encoded = base64.b32encode(self._public + checksum + b"\x03").decode("ascii")
        return f"{encoded.lower()}.onion"

    def descriptors(self, points: Sequence[Relay], flaw: Flaw = Flaw.NONE) -> list[str]:
        """The descriptors for this time period and its neighbours.

        They name the same introductions: what tor has found out about them holds in the next
        period, too, and a test sees nothing of its beginning.
        """
        period = time_period(time.time())
        keys = [(relay, Ed25519PrivateKey.generate()) for relay in points]
        return [self._descriptor(period + step, keys, flaw) for step in (-1, 0, 1)]

    def _descriptor(self, period: int, points: Sequence[_Point], flaw: Flaw) -> str:
        signing_key = Ed25519PrivateKey.generate()  # signs the introduction points too
        layers: dict[str, Any] = {"inner_layer": _inner_layer(points, flaw, signing_key)}
        if flaw is Flaw.RANDOM_OUTER:
            layers = {"outer_layer": _RandomOuter()}
        elif flaw is Flaw.JUNK_OUTER:
            layers = {"outer_layer": OuterLayer(_JUNK)}
        nonce = _blinding_nonce(self._public, period)
        content = HiddenServiceDescriptorV3.content(
            identity_key=self._key, signing_key=signing_key, blinding_nonce=nonce, **layers
        )
        return str(content.decode("ascii"))


def time_period(now: float) -> int:
    """Return the number of the time period at this Unix time (rend-spec-v3, 2.2.1)."""
    return (int(now) // 60 - _OFFSET_MINUTES) // PERIOD_MINUTES


def _blinding_nonce(public: bytes, period: int) -> bytes:
    period_parameters = period.to_bytes(8, "big") + PERIOD_MINUTES.to_bytes(8, "big")
    return hashlib.sha3_256(
        b"Derive temporary signing key\0"
        + public
        + _BASE_POINT.encode("ascii")
        + b"key-blind"
        + period_parameters
    ).digest()


def _inner_layer(points: Sequence[_Point], flaw: Flaw, signing_key: Ed25519PrivateKey) -> Any:
    if flaw is Flaw.JUNK_INNER:
        return InnerLayer(_JUNK)
    introduction_points = [_introduction_point(*point, signing_key) for point in points]
    attributes = {"create2-formats": "1"} if flaw is Flaw.OLD_HANDSHAKE else None
    return InnerLayer(InnerLayer.content(attributes, introduction_points=introduction_points))


def _introduction_point(
    relay: Relay, auth_key: Ed25519PrivateKey, signing_key: Ed25519PrivateKey
) -> IntroductionPointV3:
    """A live relay with keys of an introduction that it knows nothing of."""
    return IntroductionPointV3.create_for_link_specifiers(
        [
            LinkByIPv4(relay.address, relay.or_port),
            LinkByFingerprint(bytes.fromhex(relay.fingerprint)),
        ],
        expiration=(datetime.now(UTC) + timedelta(hours=2)).replace(tzinfo=None),
        onion_key=relay.ntor_key,
        auth_key=auth_key,
        signing_key=signing_key,
    )


class _RandomOuter:
    """Random bytes in place of the outer layer."""

    def _encrypt(self, *_: Any) -> bytes:
        body = base64.b64encode(os.urandom(2000)).decode("ascii")
        lines = "\n".join(body[i : i + 64] for i in range(0, len(body), 64))
        return f"-----BEGIN MESSAGE-----\n{lines}\n-----END MESSAGE-----".encode("ascii")


async def post(
    control: Control, address: str, descriptors: Sequence[str], relays: Sequence[Relay]
) -> None:
    """Give the descriptors to these relays, and return when they have accepted them.

    tor does not say that an upload was lost with its circuit: it is sent again where nothing is
    heard.
    """
    name = address.removesuffix(".onion")
    uploads = _Uploads(name, len(descriptors), [relay.fingerprint for relay in relays])
    await control.listen("HS_DESC", uploads.note)
    try:
        for _ in range(TRIES):
            servers = " ".join(f"SERVER={fingerprint}" for fingerprint in uploads.begin())
            for text in descriptors:
                lines = text.strip().replace("\n", "\r\n")
                head = f"+HSPOST {servers} HSADDRESS={name}"
                await control.protocol.queue_command(f"{head}\r\n{lines}\r\n.")
            with suppress(TimeoutError):
                await uploads.done.addTimeout(DEADLINE, reactor)
                return
        raise AssertionError(f"not accepted by {uploads.begin()}")
    finally:
        await control.unlisten("HS_DESC", uploads.note)


class _Uploads:
    """Counts the descriptors of one service that each directory has accepted or had already."""

    def __init__(self, name: str, each: int, fingerprints: Sequence[str]) -> None:
        self.done: Deferred[None] = Deferred()
        self._name = name
        self._each = each
        self._left = dict.fromkeys(fingerprints, each)

    def begin(self) -> list[str]:
        """Begin to count; return the directories that lack one."""
        self.done = Deferred()
        missing = [fingerprint for fingerprint, left in self._left.items() if left > 0]
        self._left = dict.fromkeys(missing, self._each)
        return missing

    def note(self, text: str) -> None:
        action, name, _, directory, *_ = text.split()
        fingerprint = directory[1:41]
        if name != self._name or fingerprint not in self._left:  # the host has other services
            return
        if action == "UPLOADED" or text.endswith("REASON=UPLOAD_REJECTED"):
            self._left[fingerprint] -= 1
            if not self.done.called and all(left <= 0 for left in self._left.values()):
                self.done.callback(None)


async def relays(control: Control) -> list[Relay]:
    """The relays of the consensus, as a directory authority knows them: it has all their keys."""
    found = []
    for line in (await control.get_info("ns/all")).splitlines():
        if line.startswith("r "):
            _, name, identity, *_, address, or_port, _ = line.split()
            fingerprint = base64.b64decode(identity + "=").hex().upper()
            found.append((name, fingerprint, address, int(or_port)))
    return [
        Relay(name, fingerprint, address, port, await _ntor_key(control, fingerprint))
        for name, fingerprint, address, port in sorted(found)
    ]


async def _ntor_key(control: Control, fingerprint: str) -> bytes:
    text = await control.get_info(f"desc/id/{fingerprint}")
    for line in text.splitlines():
        if line.startswith("ntor-onion-key "):
            key = line.split()[1]
            return base64.b64decode(key + "=" * (-len(key) % 4))
    raise AssertionError("a relay without an ntor key")
