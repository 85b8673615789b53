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

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_SQRT_MINUS_1 = pow(2, (_P - 1) // 4, _P)

_Point = tuple[int, int, int, int]
"""Extended coordinates (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z (RFC 8032, section 5.1.4)."""


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
    point = _decode(key)
    if point is None or _is_identity(point):
        return False
    return _is_identity(_multiply(_L, point))


def _decode(key: bytes) -> _Point | None:
    """Decode a point (RFC 8032, section 5.1.3); None if the bytes are not one."""
    number = int.from_bytes(key, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if y >= _P:
        return None
    x_squared = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(x_squared, (_P + 3) // 8, _P)
    if (x * x - x_squared) % _P:
        x = x * _SQRT_MINUS_1 % _P
    if (x * x - x_squared) % _P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


def _is_identity(point: _Point) -> bool:
    x, y, z, _ = point
    return x % _P == 0 and (y - z) % _P == 0


def _add(p: _Point, q: _Point) -> _Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = 2 * p[3] * q[3] * _D % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _multiply(number: int, point: _Point) -> _Point:
    result: _Point = (0, 1, 1, 0)
    while number:
        if number & 1:
            result = _add(result, point)
        point = _add(point, point)
        number >>= 1
    return result
