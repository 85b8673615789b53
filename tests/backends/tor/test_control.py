"""Commands and events over one control connection, on a fake tor and on a real one."""

from __future__ import annotations

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import LogEvent

from tests.backends.tor.fake_tor import FakeTor
from tests.backends.tor.real_tor import RealTor
from torsocks_tx.backends.tor.authentication import connect
from torsocks_tx.backends.tor.control import (
    COMMAND_TIMEOUT,
    READ_SIZE,
    Control,
    ControlError,
    ControlLost,
)


def later(control: Control, line: str) -> Deferred[str]:
    return Deferred.fromCoroutine(control.command(line))


async def test_a_command_and_its_answer(fake_tor: FakeTor, control: Control) -> None:
    fake_tor.answers["SIGNAL NEWNYM"] = "250 OK"
    fake_tor.answers["TWO"] = "250-one=1\n250-two=2\n250 OK"
    assert await control.command("SIGNAL NEWNYM") == "OK"
    assert await control.command("TWO") == "one=1\ntwo=2"
    assert control.version == "0.4.9.11"
    assert control.peer_host is None
    control.close()
    await control.when_lost()


@pytest.mark.parametrize("bad", ["GETINFO version\r\nQUIT", "A\n", "A\r", "A\0B"])
async def test_a_command_is_one_line(fake_tor: FakeTor, control: Control, bad: str) -> None:
    sent = list(fake_tor.commands)
    with pytest.raises(ValueError, match="one line"):
        await control.command(bad)
    assert await control.command("NEXT") == "OK"
    assert fake_tor.commands == [*sent, "NEXT"]


async def test_a_refusal_has_its_code(fake_tor: FakeTor, control: Control) -> None:
    fake_tor.answers["FOO"] = '510 Unrecognized command "FOO"'
    with pytest.raises(ControlError) as caught:
        await control.command("FOO")
    assert (caught.value.code, caught.value.text) == (510, 'Unrecognized command "FOO"')
    assert str(caught.value) == '510 Unrecognized command "FOO"'


async def test_a_long_answer_is_read_in_short_turns(fake_tor: FakeTor, control: Control) -> None:
    lines = "\n".join(["x" * 400] * 1000)
    fake_tor.answers["GETINFO k"] = f"250+k=\n{lines}\n.\n250 OK"
    assert control.protocol.transport.bufferSize == READ_SIZE
    assert await control.get_info("k") == lines


VALUES = [
    ("250-k=v\n250 OK", "v"),
    ("250-k=\n250 OK", ""),
    ('250-k="a" "b"\n250 OK', '"a" "b"'),
    ("250-k=a=b\n250 OK", "a=b"),
    ("250+k=\none\ntwo=2\n.\n250 OK", "one\ntwo=2"),
]


@pytest.mark.parametrize(("answer", "value"), VALUES)
async def test_get_info_returns_the_raw_value_of_a_key(
    fake_tor: FakeTor, control: Control, answer: str, value: str
) -> None:
    fake_tor.answers["GETINFO k"] = answer
    assert await control.get_info("k") == value


@pytest.mark.parametrize("answer", ["250-other=1\n250 OK", "250 OK", "250-k\n250 OK"])
async def test_get_info_refuses_an_answer_about_something_else(
    fake_tor: FakeTor, control: Control, answer: str
) -> None:
    fake_tor.answers["GETINFO k"] = answer
    with pytest.raises(ControlError, match="no value of k"):
        await control.get_info("k")


async def test_cancelling_a_command_keeps_the_order_of_answers(
    fake_tor: FakeTor, control: Control
) -> None:
    first, second = later(control, "ONE"), later(control, "GETINFO version")
    first.cancel()
    with pytest.raises(CancelledError):
        await first
    assert await second == "version=0.4.9.11"


async def test_nothing_hangs_when_tor_is_gone(fake_tor: FakeTor, control: Control) -> None:
    fake_tor.answers["SLOW"] = None
    answers = [later(control, "SLOW"), later(control, "QUEUED")]
    heard = control.listen("CIRC", print)
    lost, again = control.when_lost(), control.when_lost()
    fake_tor.drop()
    await lost
    await again
    await control.when_lost()
    for answer in (*answers, heard, later(control, "LATE"), control.listen("STREAM", print)):
        with pytest.raises(ControlLost):
            await answer
    await control.unlisten("CIRC", print)


async def test_changes_of_events_that_wait_end_with_the_connection(
    fake_tor: FakeTor, control: Control, logged_failures: list[LogEvent]
) -> None:
    """Each waits for the one before; the loss comes while the first has no answer."""
    for event in ("CIRC", "STREAM", "SIGNAL"):
        await control.listen(event, print)
    fake_tor.answers["SETEVENTS STREAM SIGNAL"] = None
    changes = [control.unlisten(event, print) for event in ("CIRC", "STREAM", "SIGNAL")]
    late = control.listen("HS_DESC", print)
    control.close()
    for change in changes:
        await change
    with pytest.raises(ControlLost):
        await late
    assert logged_failures == []


async def test_every_listener_gets_every_event(fake_tor: FakeTor, control: Control) -> None:
    heard: list[tuple[int, str]] = []

    def once(text: str) -> None:
        heard.append((1, text))
        control.unlisten("CIRC", once)

    def always(text: str) -> None:
        heard.append((2, text))

    first, second = control.listen("CIRC", once), control.listen("CIRC", always)
    assert not second.called, "tor has not agreed yet"
    await first
    await second
    await control.listen("STREAM", always)
    assert [line for line in fake_tor.commands if "SETEVENTS" in line] == [
        "SETEVENTS CIRC",
        "SETEVENTS CIRC STREAM",
    ]
    fake_tor.event('CIRC 1 BUILT SOCKS_USERNAME="a b"')
    fake_tor.event("CIRC 2 CLOSED")
    await control.command("FENCE")
    assert heard == [
        (1, '1 BUILT SOCKS_USERNAME="a b"'),
        (2, '1 BUILT SOCKS_USERNAME="a b"'),
        (2, "2 CLOSED"),
    ]
    await control.unlisten("CIRC", always)
    await control.unlisten("STREAM", always)
    assert fake_tor.commands[-2:] == ["SETEVENTS STREAM", "SETEVENTS "]
    fake_tor.event("CIRC 3 CLOSED")
    await control.command("FENCE")
    assert len(heard) == 3


async def test_a_listener_that_cannot_be_removed_is_logged(
    fake_tor: FakeTor,
    control: Control,
    log_lines: list[str],
    logged_failures: list[LogEvent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await control.listen("CIRC", print)
    fake_tor.answers["SETEVENTS "] = "551 no"
    await control.unlisten("CIRC", print)
    assert log_lines == ["warn: tor goes on sending its event CIRC (551 no)"]
    await control.listen("STREAM", print)
    monkeypatch.setattr(control.protocol, "remove_event_listener", lambda *_: fail(KeyError()))
    await control.unlisten("STREAM", print)
    assert log_lines[1] == (
        "critical: a fault of this program: it goes on listening to tor's STREAM"
    )
    logged_failures.clear()


async def test_a_listener_that_fails_hides_nothing_from_the_next(
    fake_tor: FakeTor, control: Control, logged_failures: list[LogEvent]
) -> None:
    heard: list[str] = []
    for callback in ({}.__getitem__, heard.append):
        await control.listen("CIRC", callback)
    fake_tor.event("CIRC 1 BUILT")
    await control.command("FENCE")
    assert heard == ["1 BUILT"]
    assert logged_failures.pop()["event"] == "CIRC"


async def test_an_event_that_tor_does_not_know_is_an_error(
    fake_tor: FakeTor, control: Control
) -> None:
    fake_tor.answers["SETEVENTS CIRC"] = "552 Unrecognized event"
    for _ in range(2):
        with pytest.raises(ControlError, match="552"):
            await control.listen("CIRC", print)
    await control.listen("STREAM", print)
    assert fake_tor.commands[-1] == "SETEVENTS STREAM", "what was refused is not asked for again"


@pytest.mark.network
async def test_commands_and_events_of_a_real_tor(real_tor: RealTor) -> None:
    await real_tor.start()
    control = await connect(reactor, real_tor.endpoint)
    assert (await control.get_info("version")).startswith(control.version)
    assert "HS_DESC" in await control.get_info("events/names")
    assert (await control.get_info("config-text")).count("\n") > 1
    assert await control.get_info("net/listeners/socks") == ""
    with pytest.raises(ControlError, match="552"):
        await control.get_info("no-such-key")
    changes: Deferred[str] = Deferred()
    await control.listen("CONF_CHANGED", changes.callback)
    await control.command("SETCONF Nickname=changed")
    assert "Nickname=changed" in await changes
    lost = control.when_lost()
    await real_tor.kill()
    await lost
    with pytest.raises(ControlLost):
        await control.command("GETINFO version")


@pytest.mark.parametrize("ours", [True, False])
async def test_a_mute_connection_is_dropped_if_it_is_ours(
    fake_tor: FakeTor, control: Control, log_lines: list[str], ours: bool
) -> None:
    """Answers come in order: after one that never came there will be none."""
    clock = Clock()
    asking = Control(control.protocol, clock, ours=ours)
    fake_tor.answers["SLOW"] = None
    answer = later(asking, "SLOW")
    clock.advance(COMMAND_TIMEOUT - 0.1)
    assert not answer.called
    clock.advance(0.2)
    with pytest.raises(ControlError, match="did not answer in time"):
        await answer
    assert clock.getDelayedCalls() == []
    assert len(log_lines) == ours
    if ours:
        await asking.when_lost()
        assert "has not answered: connecting again" in log_lines[0]
    else:
        assert fake_tor.connections
