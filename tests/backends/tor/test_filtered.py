"""Life behind a control port that refuses commands, or suppresses events."""

from __future__ import annotations

import ast
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from tests.backends.tor.exits.test_directory import GOOD, fingerprint, relay
from tests.backends.tor.fake_tor import BOOTSTRAPPED, COOKIE, STARTING, FakeTor
from tests.backends.tor.onion.test_client_auth import DUCK, LINE
from tests.backends.tor.test_running import Delays, state_of
from tests.support.control_filter import ControlFilter, page_profile
from tests.support.processes import ROOT
from torsocks_tx.backends.tor import ports, providers
from torsocks_tx.backends.tor.backend import TorBackend
from torsocks_tx.backends.tor.commands import COMMANDS, EVENTS, ControlCommand
from torsocks_tx.backends.tor.control import Control, ControlError
from torsocks_tx.backends.tor.exits.session import MAX_AGE, ExitSession
from torsocks_tx.backends.tor.onion.client_auth import Keyring
from torsocks_tx.backends.tor.onion.observer import OnionObserver
from torsocks_tx.backends.tor.onion.queries import TorQueries
from torsocks_tx.backends.tor.provider import ProviderState
from torsocks_tx.backends.tor.providers import RunningTorProvider
from torsocks_tx.errors import NoSuchPort, SOCKSError

TO_RUNNING_TOR = [each for each in (*COMMANDS, *EVENTS.values()) if each.word != "TAKEOWNERSHIP"]
FINGERPRINT = fingerprint(1)


def fill(tor: FakeTor, cookie: Path) -> None:
    """Have a cookie, an exit, its country, and a circuit to it."""
    cookie.write_bytes(COOKIE)
    tor.offer("SAFECOOKIE", cookie)
    status = "\n".join(relay(1, GOOD, "w Bandwidth=70"))
    tor.info |= {"ip-to-country/ipv4-available": "1", "ip-to-country/10.0.0.1": "de"}
    circuit = f"1 BUILT ${FINGERPRINT}~relay1 PURPOSE=GENERAL"
    for key, lines in (
        ("ns/all", status),
        (f"ns/id/{FINGERPRINT}", status),
        ("circuit-status", circuit),
    ):
        tor.answers[f"GETINFO {key}"] = f"250+{key}=\n{lines}\n.\n250 OK"


def is_known(line: str) -> bool:
    word, *events = line.split()
    if word == "SETEVENTS":
        return all(name in EVENTS for name in events)
    return any(command.admits(line) for command in COMMANDS)


async def use_everything(backend: TorBackend, keys: Path) -> None:
    """Do all that needs the control port, as clients and an operator would have it done."""
    control, observer, session = backend.provider.control, backend.observer, backend.exits.session
    assert control is not None
    await observer.follow(control)
    (keys / "a.auth_private").unlink()
    await observer.reload_keys()
    (keys / "a.auth_private").write_text(LINE)
    await observer.reload_keys()
    queries = TorQueries(control, reactor)
    await queries.fence()
    for asked in (queries.has_joined_circuit(DUCK, None), queries.has_key(DUCK)):
        with suppress(ControlError):
            await asked
    for waiting in (backend.circuits, session.when_read):
        with suppress(SOCKSError):
            await waiting()
    with suppress(SOCKSError):
        place = ("web.test", FINGERPRINT)
        mapping = session.mappings.take(place)
        await mapping.known.wait()


async def serve_twice(tor: FakeTor, before: ControlFilter, directory: Path) -> None:
    """Serve behind the filter, be used, and again after the loss of the control connection."""
    fill(tor, directory / "cookie")
    keys = directory / "keys"
    keys.mkdir(0o700)
    (keys / "a.auth_private").write_text(LINE)
    port = await before.listen()
    provider = RunningTorProvider(reactor, before.endpoint, delays=Delays())
    observer = OnionObserver(reactor, keyring=Keyring(keys))
    backend = TorBackend(reactor, provider, onion_observer=observer)
    provider.log.label = "tor1: "
    await provider.start()
    for _ in range(2):
        await state_of(provider, ProviderState.READY)
        assert await provider.when_ready() == provider.port_for(())
        with pytest.raises(NoSuchPort):
            provider.port_for(["NoIPv6Traffic"])
        await use_everything(backend, keys)
        tor.drop()
        await state_of(provider, ProviderState.DOWN)
    await state_of(provider, ProviderState.READY)
    await provider.stop()
    await port.stopListening()


@pytest_twisted.async_yield_fixture
async def socks_port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Have something listen where tor's default SocksPort would be."""
    factory = Factory.forProtocol(Protocol)
    factory.noisy = False
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    monkeypatch.setattr(ports, "DEFAULT_PLACE", ("127.0.0.1", port.getHost().port))
    yield
    await port.stopListening()


@pytest.mark.parametrize(
    "refused", [*([each] for each in TO_RUNNING_TOR), TO_RUNNING_TOR],
    ids=lambda refused: refused[0].name if len(refused) == 1 else "everything",
)  # fmt: skip
async def test_server_serves_and_says_once_what_a_filter_takes_away(
    fake_tor: FakeTor,
    short_directory: Path,
    socks_port: None,
    log_lines: list[str],
    refused: list[ControlCommand],
) -> None:
    before = ControlFilter(
        short_directory / "filtered",
        fake_tor.endpoint,
        lambda line: not any(command.admits(line) for command in refused),
    )
    await serve_twice(fake_tor, before, short_directory)
    assert [line for line in before.commands if not is_known(line)] == []
    said = [line for line in log_lines if "control port refuses" in line]
    asked = {
        command.name: f"{command.level.name}: tor1: tor's control port refuses {command.name}"
        f" (510): {command.lost}"
        for command in refused
        if any(command.admits(line) for line in before.commands)
        or any(line.endswith(f" {command.arguments}") for line in before.commands)
    }
    assert sorted(said) == sorted(asked.values())
    assert said, "each is sent, and its loss is said"
    assert not [line for line in log_lines if DUCK[:20] in line or "web.test" in line]


async def test_profile_of_the_page_admits_all_that_is_sent(
    fake_tor: FakeTor, short_directory: Path, log_lines: list[str]
) -> None:
    before = ControlFilter(
        short_directory / "filtered",
        fake_tor.endpoint,
        page_profile(),
        cookie=short_directory / "cookie",
    )
    await serve_twice(fake_tor, before, short_directory)
    assert not [line for line in log_lines if "refuses" in line]
    assert not page_profile()("SETCONF SocksPort=1")
    assert {line.split(" ")[0] for line in before.commands} == {
        *(command.word for command in TO_RUNNING_TOR if command.word != "AUTHCHALLENGE")
    }


async def test_version_is_taken_from_protocolinfo(fake_tor: FakeTor, short_directory: Path) -> None:
    """What onion-grater says before the authentication, and that it takes any."""
    cookie = short_directory / "cookie"
    cookie.write_bytes(COOKIE)
    before = ControlFilter(
        short_directory / "filtered", fake_tor.endpoint, lambda line: False, cookie=cookie
    )
    port = await before.listen()
    provider = RunningTorProvider(reactor, before.endpoint)
    await provider.start()
    assert provider.control is not None
    assert provider.control.version == "0.4.9.11"
    await provider.stop()
    await port.stopListening()


@pytest.mark.parametrize("suppressed", [False, True])
async def test_tor_that_tells_no_events_is_looked_at_again(
    fake_tor: FakeTor,
    short_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[str],
    suppressed: bool,
) -> None:
    """Whether a filter refuses them, or only seems to admit them."""
    monkeypatch.setattr(providers, "LOOK_AGAIN", 0.01)
    before = ControlFilter(
        short_directory / "filtered",
        fake_tor.endpoint,
        lambda line: suppressed or "SETEVENTS" not in line,
        suppressed=EVENTS,
    )
    port = await before.listen()
    fake_tor.info["status/bootstrap-phase"] = STARTING
    listeners = fake_tor.info["net/listeners/socks"]
    fake_tor.info["net/listeners/socks"] = ""
    provider = RunningTorProvider(reactor, before.endpoint)
    await provider.start()
    assert provider.state is ProviderState.DOWN
    fake_tor.info["net/listeners/socks"] = listeners
    await state_of(provider, ProviderState.STARTING)
    fake_tor.info["status/bootstrap-phase"] = BOOTSTRAPPED
    await state_of(provider, ProviderState.READY)
    assert len([line for line in log_lines if "refuses" in line]) == (0 if suppressed else 2)
    await provider.stop()
    await port.stopListening()


async def test_exits_are_read_again_where_no_event_tells_of_a_new_consensus(
    fake_tor: FakeTor, control: Control, tmp_path: Path
) -> None:
    fill(fake_tor, tmp_path / "cookie")
    clock = Clock()
    session = ExitSession(control, clock, RunningTorProvider(reactor, fake_tor.endpoint))
    for read in (1, 2):
        await session.when_read()
        assert await session.when_read() is session.directory
        assert fake_tor.commands.count("GETINFO ns/all") == read
        clock.advance(MAX_AGE)
    session.end()


def test_every_command_comes_from_the_table() -> None:
    """No line is made up where it is sent, so that the page and the profile have them all."""
    sends = ("command", "get_info", "read_lines", "answer_to")
    made_up = [
        (path.name, ast.unparse(call))
        for path in (ROOT / "torsocks_tx" / "backends").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in sends
        and not isinstance(call.args[0], ast.Name)
        and not re.search(r"\.(line|key)\(", ast.unparse(call.args[0]))
    ]
    assert [call for _, call in made_up] == ["self.command(f'GETINFO {key}')"]
