"""Paths of any bytes on their way to tor, from tor, and through Twisted's endpoint strings."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, serverFromString

from torsocks_tx.backends.tor.authentication import connect
from torsocks_tx.backends.tor.control import ControlError
from torsocks_tx.backends.tor.daemon import write_torrc
from torsocks_tx.backends.tor.events import (
    parse_strings,
    path_of,
    printable,
    quote_path,
    unix_endpoint,
    unquote,
)
from torsocks_tx.backends.tor.launched import LaunchedTorProvider
from torsocks_tx.backends.tor.ports import PortFinder
from torsocks_tx.backends.tor.provider import Progress

ODD_NAMES = [
    b"my data",
    "jos\u00e9".encode(),
    "\u0417\u0430\u0433\u0440\u0443\u0437\u043a\u0438".encode(),
    b'q"q',
    b"back\\slash\\n",
    b"a:b=c#d'e\t\n\xff",
]
"""Names that once were cut, taken for syntax, or not found."""

names = st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name)
paths = names.map(lambda name: os.fsdecode(b"/" + name))


@given(paths)
def test_tor_reads_the_path_that_was_quoted(path: str) -> None:
    quoted = quote_path(path)
    assert quoted.isascii()
    assert quoted.isprintable()
    assert "#" not in quoted
    assert path_of(unquote(quoted)) == path
    assert parse_strings(f"{quoted} {quoted}") == (unquote(quoted),) * 2


@given(paths)
def test_an_endpoint_string_leads_to_the_same_socket(path: str) -> None:
    for parse in (clientFromString, serverFromString):
        endpoint = parse(reactor, unix_endpoint(path))
        assert path in (getattr(endpoint, "_path", None), getattr(endpoint, "_address", None))


@given(st.text(st.characters(max_codepoint=0xFF)))
def test_what_tor_says_cannot_steer_a_terminal_or_forge_a_line(text: str) -> None:
    for words in (printable(text), str(ControlError(551, text)), str(Progress(1, "", text, text))):
        assert words.isprintable()


@given(paths)
def test_a_path_in_a_message_can_be_written_anywhere(path: str) -> None:
    assert printable(path).encode()


def test_a_torrc_holds_any_path_and_no_line_that_is_two(tmp_path: Path) -> None:
    torrc = tmp_path / "torrc"
    lines = [f"DataDirectory {quote_path(os.fsdecode(name))}" for name in ODD_NAMES]
    write_torrc(torrc, [*lines, os.fsdecode(b"%include /x/\xff")])
    assert torrc.read_bytes().splitlines() == [os.fsencode(line) for line in lines] + [
        b"%include /x/\xff"
    ]
    assert torrc.stat().st_mode & 0o777 == 0o600
    for end in "\r\n\0":
        with pytest.raises(ValueError, match="line break"):
            write_torrc(torrc, [f"Nickname x{end}Sandbox 1"])


@pytest.fixture(params=ODD_NAMES, ids=repr)
def odd_directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A short directory with an odd name."""
    above = Path(tempfile.mkdtemp(prefix="tor-"))
    directory = above / os.fsdecode(request.param)
    directory.mkdir(mode=0o700)
    yield directory
    assert list(above.iterdir()) == [directory], "tor took a part of the path for all of it"
    shutil.rmtree(above)


@pytest_twisted.async_yield_fixture
async def launched_tor(
    odd_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LaunchedTorProvider]:
    """A real tor without network, whose data and whose sockets are in such a directory."""
    monkeypatch.setattr(tempfile, "tempdir", str(odd_directory))
    port = f"SocksPort unix:{quote_path(odd_directory / 'other socks')} NoIPv6Traffic"
    options = [("DisableNetwork", "1"), tuple(port.split(" ", 1))]
    provider = LaunchedTorProvider(reactor, odd_directory / "data", options)
    await provider.start()
    yield provider
    await provider.stop()
    assert sorted(entry.name for entry in odd_directory.iterdir()) == ["data"]


@pytest.mark.network
@pytest_twisted.ensureDeferred
async def test_a_real_tor_takes_its_paths_and_tells_them(
    launched_tor: LaunchedTorProvider, odd_directory: Path
) -> None:
    endpoint = clientFromString(reactor, launched_tor.control_address)
    control = await connect(reactor, endpoint)  # by the cookie, whose path tor tells
    await control.command("SETCONF DisableNetwork=0 UseBridges=1 Bridge=127.0.0.1:1")
    table = await PortFinder(reactor).find(control)
    flags = frozenset({"NoIPv6Traffic"})
    assert table.port_for(flags).flags == flags, "the line of the configuration was understood"
    assert table.port_for(()).flags == frozenset()
    assert (odd_directory / "other socks").is_socket()
    control.close()
    await control.when_lost()
