"""Keys of onion clients, against RFC 7748's own numbers; a service's uploads, from events."""

from __future__ import annotations

import base64

from twisted.internet.defer import Deferred

from torsocks_tx.testing.onion import ClientKey, Uploads, x25519_public

SERVICE = "a" * 56


def test_a_public_key() -> None:
    """RFC 7748 section 6.1: Bob."""
    private = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
    public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert x25519_public(bytes.fromhex(private)).hex() == public


def test_iterating_from_the_base_point() -> None:
    """RFC 7748 section 5.2: the first of the iterations."""
    nine = bytes([9, *[0] * 31])
    expected = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert x25519_public(nine).hex() == expected


def test_a_key_as_the_control_port_wants_it() -> None:
    key = ClientKey(bytes(range(32)))
    assert base64.b64decode(key.private_base64) == key.private
    assert base64.b32decode(key.public_base32 + "====") == x25519_public(key.private)
    assert len(key.public_base32) == 52
    assert ClientKey.generate() != ClientKey.generate()
    assert "private" not in repr(key)


def events(uploads: Uploads, *lines: str) -> None:
    for line in lines:
        action, *rest = line.split()
        uploads.note(" ".join([action, SERVICE, "UNKNOWN", *rest]))


def test_a_service_is_up_when_both_descriptors_are_everywhere() -> None:
    uploads = Uploads()
    up = Deferred.fromCoroutine(uploads.finished(SERVICE))
    events(uploads, "CREATED UNKNOWN first", "CREATED UNKNOWN second")
    events(uploads, "UPLOAD $A~a first HSDIR_INDEX=0", "UPLOAD $B~b first HSDIR_INDEX=1")
    events(uploads, "UPLOADED $A~a", "UPLOADED $B~b")
    assert not up.called, "only the first descriptor"
    events(uploads, "UPLOAD $A~a second HSDIR_INDEX=0", "UPLOAD $B~b second HSDIR_INDEX=1")
    events(uploads, "UPLOADED $A~a")
    assert not up.called, "one is on its way"
    events(uploads, "FAILED $B~b second REASON=UPLOAD_REJECTED")
    assert up.called


def test_other_services_do_not_count() -> None:
    uploads = Uploads()
    events(uploads, "CREATED UNKNOWN first", "UPLOAD $A~a first", "UPLOADED $A~a")
    up = Deferred.fromCoroutine(uploads.finished("b" * 56))
    assert not up.called
    cancelled: list[object] = []
    up.addErrback(cancelled.append)
    up.cancel()
    assert cancelled
