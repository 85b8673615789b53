"""Which addresses of onion services are valid (rend-spec-v3, section 6), decided without tor.

    base32( PUBKEY 32 | CHECKSUM 2 | VERSION 1 ) ".onion"        VERSION 03
    CHECKSUM = SHA3-256( ".onion checksum" | PUBKEY | VERSION )[:2]

PUBKEY must be a point of ed25519's prime-order group. Labels before the last two are a subdomain.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from functools import lru_cache

from torsocks_tx.errors import InvalidOnionAddress

_CHARACTERS = 56
_VERSION = 3

# The curve of ed25519, -x² + y² = 1 + D x² y² modulo P, and the order of its group (RFC 8032).
_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P


def check_onion(host: str) -> None:
    """Raise ``InvalidOnionAddress`` if ``host``, whose last label is ``onion``, has a wrong form.

    Case does not matter. The text of the exception does not quote the address. The public key in it
    is not checked, since that takes longer: see ``has_public_key``.
    """
    label = _label(host)
    if len(label) != _CHARACTERS:
        raise InvalidOnionAddress("not 56 characters before .onion")
    try:
        decoded = base64.b32decode(label.upper())
    except (binascii.Error, ValueError):
        raise InvalidOnionAddress("not base32") from None
    key, checksum, version = decoded[:32], decoded[32:34], decoded[34]
    digest = hashlib.sha3_256(b".onion checksum" + key + bytes([version])).digest()
    if digest[:2] != checksum:
        raise InvalidOnionAddress("the checksum does not match")
    if version != _VERSION:
        raise InvalidOnionAddress("an unknown version")


def has_public_key(host: str) -> bool:
    """Whether an address that ``check_onion`` accepts holds a key that a service can have.

    It must be a point of prime order, and not the identity. This takes 2 ms; the answers for the
    1,024 addresses used last are cached.
    """
    return _is_public_key(base64.b32decode(_label(host).upper())[:32])


def _label(host: str) -> str:
    labels = host.lower().split(".")
    return labels[-2] if len(labels) >= 2 else ""


@lru_cache(maxsize=1024)
def _is_public_key(key: bytes) -> bool:
    y = int.from_bytes(key, "little") & ((1 << 255) - 1)
    x_squared = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    # Not a square: no point of the curve. 0: the identity, or the point of order 2.
    if y >= _P or pow(x_squared, (_P - 1) // 2, _P) != 1:
        return False
    return _is_identity_times(_L, (1 + y) * pow(1 - y, -1, _P) % _P)


def _is_identity_times(number: int, u: int) -> bool:
    """Whether a point becomes the identity, multiplied by a number (RFC 7748, section 5).

    ``u``: the point's coordinate on the Montgomery form of the curve. The sign of x is not in it,
    and changes no order.
    """
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in f"{number:b}":
        if bit == "1":
            x2, z2, x3, z3 = x3, z3, x2, z2
        plus, minus = x2 + z2, x2 - z2
        one, two = (x3 - z3) * plus, (x3 + z3) * minus
        x3, z3 = (one + two) ** 2 % _P, u * (one - two) ** 2 % _P
        squared, subtracted = plus * plus % _P, minus * minus % _P
        x2 = squared * subtracted % _P
        z2 = (squared - subtracted) * (squared + 121665 * (squared - subtracted)) % _P
        if bit == "1":
            x2, z2, x3, z3 = x3, z3, x2, z2
    return z2 == 0
