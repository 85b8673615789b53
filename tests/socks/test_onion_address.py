"""Which addresses of onion services are valid. The addresses were made with SHA3-256."""

from __future__ import annotations

import pytest

from tests.support.names import ONION
from tests.support.rows import rows
from tests.support.tables import table
from torsocks_tx.errors import InvalidOnionAddress
from torsocks_tx.socks.onion_address import check_onion, has_public_key

VALID = table(
    ("an address", ONION),
    ("capitals", ONION.upper()),
    ("a subdomain", "www." + ONION),
    ("two subdomains", "1.2." + ONION),
)
INVALID = table(
    ("checksum", "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzazad.onion"),
    ("version 4", "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswvadqe.onion"),
    ("not base32: 1", "1" + ONION[1:]),
    ("not base32: 8", "8" + ONION[1:]),
    ("not ASCII", "\xb5" + ONION[1:]),
    ("padding", "=" * 56 + ".onion"),
    ("55 characters", ONION[1:]),
    ("57 characters", "a" + ONION),
    ("version 2", "facebookcorewwwi.onion"),
    ("no label", ".onion"),
    ("the address as a subdomain", ONION.replace(".onion", ".www.onion")),
)
TWISTED = "7murux6t2nde67aapdvajizyvekj7vkq74ybir7qxhm2izivijkhygad.onion"
"""The key of ONION plus a point of order 4."""

NOT_KEYS = table(
    ("identity", "aeaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaahmjqd.onion"),
    ("order 4", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaam2dqd.onion"),
    ("not on the curve", "aiaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab3did.onion"),
    ("a torsion component", TWISTED),
)


@rows("S-49")
@pytest.mark.parametrize("host", VALID)
def test_valid_addresses(host: str) -> None:
    check_onion(host)
    assert has_public_key(host)


@rows("S-49")
@pytest.mark.parametrize("host", NOT_KEYS)
def test_an_address_whose_key_no_service_can_have(host: str) -> None:
    check_onion(host)
    assert not has_public_key(host)


@rows("S-49")
@pytest.mark.parametrize("host", INVALID)
def test_invalid_addresses(host: str) -> None:
    with pytest.raises(InvalidOnionAddress) as caught:
        check_onion(host)
    assert host[:3] not in str(caught.value).replace(".onion", "")
