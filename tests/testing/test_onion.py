"""Client authorization keys, by the test vectors of RFC 7748, and uploads of descriptors."""

from __future__ import annotations

import base64
from pathlib import Path

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import Clock

from tests.backends.tor.onion.staged import StagedControl
from torsocks_tx.backends.tor.onion.client_auth import ClientAuthKey, parse_key
from torsocks_tx.testing.tornet.onion import (
    UPLOAD_ATTEMPTS,
    UPLOAD_DEADLINE,
    ClientKey,
    OnionService,
    Uploads,
    add_onion_service,
)

SERVICE = "a" * 56


def test_client_key_is_encoded_for_the_control_port() -> None:
    """The keys of Bob in RFC 7748 section 6.1."""
    private = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
    public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    key = ClientKey(bytes.fromhex(private))
    assert base64.b64decode(key.private_base64) == key.private
    assert base64.b32decode(key.public_base32 + "====").hex() == public
    assert len(key.public_base32) == 52
    address = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad"
    for given in (address, f"{address}.onion"):
        line = key.auth_private(given)
        assert parse_key(line, Path()) == ClientAuthKey(address, key.private, Path())
    assert ClientKey.generate() != ClientKey.generate()
    assert "private" not in repr(key)


def events(uploads: Uploads, *lines: str) -> None:
    for line in lines:
        action, *rest = line.split()
        uploads.note(" ".join([action, SERVICE, "UNKNOWN", *rest]))


def test_service_is_ready_when_both_descriptors_are_uploaded() -> None:
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


def test_uploads_of_other_services_are_ignored() -> None:
    uploads = Uploads()
    events(uploads, "CREATED UNKNOWN first", "UPLOAD $A~a first", "UPLOADED $A~a")
    up = Deferred.fromCoroutine(uploads.finished("b" * 56))
    assert not up.called
    cancelled: list[object] = []
    up.addErrback(cancelled.append)
    up.cancel()
    assert cancelled


class Host(StagedControl):
    """Makes services that are named ``1``, ``2`` and so on."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.count = 0

    async def command(self, line: str) -> str:
        await super().command(line)
        self.count += line.startswith("ADD_ONION")
        return f"ServiceID={self.count}\n"

    def adding(self) -> Deferred[OnionService]:
        return Deferred.fromCoroutine(add_onion_service(self.clock, self, 8080))  # type: ignore[arg-type]

    def upload(self, service: str, action: str) -> None:
        self.send(f"HS_DESC {action} {service} UNKNOWN $A~a first")

    @property
    def removed(self) -> list[str]:
        return [line.split()[1] for line in self.commands if line.startswith("DEL_ONION")]


def test_a_service_whose_upload_is_lost_is_replaced() -> None:
    host = Host()
    adding = host.adding()
    host.upload("1", "UPLOAD")
    host.clock.advance(UPLOAD_DEADLINE)
    host.upload("2", "UPLOAD")
    assert host.removed == ["1"]
    host.upload("2", "UPLOADED")
    service: list[OnionService] = []
    adding.addCallback(service.append)
    assert (service[0].address, service[0].target_port) == ("2.onion", 8080)
    assert not host.listeners["HS_DESC"]
    assert not host.clock.getDelayedCalls()


def test_service_of_which_one_upload_is_lost_is_taken_after_the_deadline() -> None:
    host = Host()
    adding = host.adding()
    host.upload("1", "UPLOAD")
    host.upload("1", "UPLOAD")
    host.upload("1", "UPLOADED")
    assert not adding.called
    host.clock.advance(UPLOAD_DEADLINE)
    assert adding.called
    assert not host.removed


def test_service_that_is_never_published_raises_timeout() -> None:
    host = Host()
    adding = host.adding()
    for number in range(UPLOAD_ATTEMPTS):
        host.upload(str(number + 1), "UPLOAD")
        host.clock.advance(UPLOAD_DEADLINE)
    failed: list[BaseException] = []
    adding.addErrback(lambda failure: failed.append(failure.value))
    assert isinstance(failed[0], TimeoutError)
    assert "[1] uploads of which 1 are not over" in str(failed[0])
    assert host.removed == [str(number + 1) for number in range(UPLOAD_ATTEMPTS)]
    assert not host.listeners["HS_DESC"]
