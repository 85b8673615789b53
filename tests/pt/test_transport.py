"""What an author of a transport is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor

from tests.support.tables import at, table
from torsocks_tx.errors import InvalidBridge, ProtocolError
from torsocks_tx.pt.dialing import Dialer
from torsocks_tx.pt.transport import Setting, Target, arguments_of
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Credentials, KeyValues, Request

PLACE = at("192.0.2.1", 4000)


def request(credentials: Credentials | None = None, pairs: KeyValues | None = None) -> Request:
    return Request(Version.SOCKS5, Command.CONNECT, PLACE, credentials, pairs=pairs)


@pytest.mark.parametrize(
    ("asked", "arguments"),
    table(
        [
            ("nothing", request(), ()),
            ("credentials", request(Credentials(b"k=v", b"\0")), (("k", b"v"),)),
            ("both fields", request(Credentials(b"k=", b"v")), (("k", b"v"),)),
            ("no pairs", request(None, KeyValues()), ()),
            (
                "pairs",
                request(Credentials(b"x=y"), KeyValues((("PT.k", b"v"), ("X-k", b"")))),
                (("k", b"v"),),
            ),
        ]
    ),
)
def test_arguments(asked: Request, arguments: tuple[tuple[str, bytes], ...]) -> None:
    assert arguments_of(asked) == KeyValues(arguments)


def test_what_is_no_list_of_arguments() -> None:
    with pytest.raises(ProtocolError):
        arguments_of(request(Credentials(b"k")))


class TestTarget:
    def target(self, reactor: MemoryReactor, **options: object) -> Target:
        setting = Setting(Dialer(reactor), **options)  # type: ignore[arg-type]
        return Target(PLACE, KeyValues((("k", b"1"), ("e", b""), ("k", b"2"))), setting)

    def test_an_argument_may_be_required(self) -> None:
        target = self.target(MemoryReactor())
        assert target.require("k") == b"1"
        assert target.require("e") == b""
        with pytest.raises(InvalidBridge, match="no argument other"):
            target.require("other")

    def test_its_endpoint_leads_to_the_address(self) -> None:
        reactor = MemoryReactor()
        target = self.target(reactor)
        target.endpoint.connect(None)  # type: ignore[arg-type]
        target.endpoint_to("198.51.100.7", 443).connect(None)  # type: ignore[arg-type]
        places = [client[:2] for client in reactor.tcpClients]
        assert places == [("192.0.2.1", 4000), ("198.51.100.7", 443)]

    def test_its_setting(self) -> None:
        said: list[Mapping[str, str]] = []
        target = self.target(MemoryReactor(), state_location=PurePath("/state"), report=said.append)
        assert target.setting.state_location == PurePath("/state")
        target.setting.report({"CONNECT": "Success"})
        assert said == [{"CONNECT": "Success"}]

    def test_without_a_parent_news_go_to_the_debug_log(self) -> None:
        Setting(Dialer(Clock())).report({"CONNECT": "Success"})
