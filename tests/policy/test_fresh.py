"""Rotation and its rate: one count, in one process and in several."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torsocks_tx.errors import NoFreshCircuit
from torsocks_tx.policy.fresh import CLOCKS_APART, CircuitCounts, FreshCircuits


class Keys:
    """A listener's fresh circuits, at times of the test."""

    def __init__(self, rate: int = 1000, most: int = 1000) -> None:
        self.fresh = FreshCircuits(rate, most)
        self.now = 0.0

    def number(self, name: bytes = b"a", every: float | None = None) -> bytes:
        return self.fresh.number((name,), every, None, self.now)


def test_a_key_that_was_forgotten_never_meets_a_circuit_of_its_past() -> None:
    keys = Keys(most=2)
    first = keys.number(every=1000)
    for name in (b"b", b"c"):
        keys.number(name, every=1000)
    assert keys.number(every=1000) != first
    assert Keys().number(every=1000) != first, "nor does one in another process"


def test_a_listener_remembers_as_many_keys_as_is_promised() -> None:
    counted = FreshCircuits(20_000)
    names = [b"%d" % number for number in range(16_384)]
    first, second = (
        [counted.number((name,), 600, None, now) for name in names] for now in (1.0, 2.0)
    )
    # Whether a set is too small for its keys is chance: once in 200 runs a few are forgotten.
    assert sum(a != b for a, b in zip(first, second, strict=True)) < 200


def test_beyond_the_rate_a_fresh_circuit_is_refused_and_no_used_one_is_given() -> None:
    keys = Keys(rate=3)
    used = [keys.number(name, every=30) for name in (b"a", b"b", b"c")]
    with pytest.raises(NoFreshCircuit):
        keys.number(b"d", every=30)
    assert keys.number(b"a", every=30) == used[0], "those that there are go on"
    keys.now = 59.9
    for _ in range(2):
        with pytest.raises(NoFreshCircuit):
            keys.number(b"a", every=30)
    keys.now = 60.0
    assert keys.number(b"a", every=30) not in used


def test_a_clock_that_goes_back_a_little_makes_nothing_fresh() -> None:
    keys = Keys(rate=1)
    keys.now = 1000.0
    first = keys.number(every=600)
    keys.now -= CLOCKS_APART
    assert keys.number(every=600) == first
    with pytest.raises(NoFreshCircuit):
        keys.number(b"b")
    keys.now -= 1
    assert keys.number(every=600) != first, "and one that was set back does not stop rotation"


class Model:
    """What a listener's count is to do, in the plainest way."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.lives: dict[bytes, list[Any]] = {}
        self.begun: list[float] = []

    def number(self, key: bytes, every: float | None, after: int | None, now: float) -> int | None:
        life = self.lives.get(key)
        if not life or (every and now - life[1] >= every) or (after and life[2] >= after):
            if sum(now - 60 < begun for begun in self.begun) >= self.rate:
                return None
            self.begun.append(now)
            life = self.lives[key] = [len(self.begun), now, 0]
        life[2] += 1
        return int(life[0])


STEPS = st.lists(
    st.tuples(
        st.sampled_from([b"a", b"b", b"c"]),
        st.sampled_from([None, 5.0, 30.0]),
        st.sampled_from([None, 1, 3]),
        st.sampled_from([0.0, 1.0, 10.0, 59.0]),
        st.integers(0, 2),
    ),
    max_size=40,
)


@given(st.integers(1, 6), STEPS)
def test_processes_that_share_counts_act_as_one(rate: int, steps: Any) -> None:
    first = CircuitCounts([9, rate])
    counts = [first, *(CircuitCounts([9, rate], first.descriptor) for _ in range(2))]
    model, now, known = Model(rate), 0.0, dict[bytes, int]()
    for name, every, after, later, process in steps:
        now += later
        key = name + repr((every, after)).encode()
        expected = model.number(key, every, after, now)
        try:
            number = counts[process].listeners[1].number((key,), every, after, now)
        except NoFreshCircuit:
            assert expected is None
        else:
            assert known.setdefault(number, expected or 0) == expected
    assert len(set(known.values())) == len(known)


WORKER = """
import sys
from torsocks_tx.policy import fresh
from torsocks_tx.policy.fresh import CircuitCounts, NoFreshCircuit
fresh.LOCK_TRIES = 1_000_000  # three of these have the lock nearly always
counts = CircuitCounts([int(sys.argv[1])], int(sys.argv[2]))
name = sys.argv[3].encode()
print("ready", flush=True)
while sys.stdin.readline():
    given, refused = [], 0
    for _ in range(500):
        try:
            given.append(counts.listeners[0].number((name,), None, 10, 1000.0)[-8:].hex())
        except NoFreshCircuit:
            refused += 1
    print(counts.epoch.word[0], refused, *given, flush=True)
"""


class Process:
    """A worker that asks for five hundred streams at each order."""

    def __init__(self, rate: int, counts: CircuitCounts, name: str = "key") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rate), str(counts.descriptor), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[counts.descriptor], text=True,
        )  # fmt: skip
        assert self.line() == "ready\n"

    def order(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0]
        return self.process.stdout.readline()

    def answer(self) -> tuple[int, int, list[str]]:
        epoch, refused, *given = self.line().split()
        return int(epoch), int(refused), given

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture
def counts() -> CircuitCounts:
    return CircuitCounts([100])


def test_workers_give_one_key_the_same_circuits_and_no_more_than_the_rate(
    counts: CircuitCounts,
) -> None:
    workers = [Process(100, counts) for _ in range(3)]
    try:
        for worker in workers:
            worker.order()
        answers = [worker.answer() for worker in workers]
        given = [number for *_, numbers in answers for number in numbers]
        assert len(given) == 1000, "a hundred circuits for ten streams each, in whatever worker"
        assert sum(refused for _, refused, _ in answers) == 500
        assert {given.count(number) for number in given} == {10}
        counts.epoch.advance()
        workers[0].end()
        workers[0] = Process(100, counts)
        for worker in workers:
            worker.order()
            assert worker.answer() == (1, 500, []), "a worker in the place of another knows it all"
    finally:
        for worker in workers:
            worker.end()


def test_a_worker_that_is_killed_leaves_counts_that_go_on(counts: CircuitCounts) -> None:
    worker = Process(100, counts)
    for _ in range(20):
        worker.order()
    assert worker.line()
    worker.end()
    before = counts.listeners[0].number((b"another",), 60, None, 2000.0)
    assert counts.listeners[0].number((b"another",), 60, None, 2000.0) == before


@pytest.mark.parametrize("killed_at", range(10))
def test_what_a_killed_worker_left_half_done_gives_no_used_circuit(killed_at: int) -> None:
    """Each word that a change writes is the last one in turn."""

    class Killed(Exception):
        pass

    class Words:
        def __init__(self, view: memoryview) -> None:
            self.view = view
            self.left = 10_000

        def __getitem__(self, key: Any) -> Any:
            return self.view[key]

        def __setitem__(self, key: Any, value: Any) -> None:
            if not self.left:
                raise Killed
            self.left -= 1
            self.view[key] = value

    memory = memoryview(bytearray(FreshCircuits.size(50, 2) * 8)).cast("Q")
    counted = FreshCircuits(50, 2, memory)
    words: Any = Words(memory)
    counted._words = words
    used = {counted.number((name,), None, 1, 5.0) for name in (b"a", b"b")}
    words.left = killed_at
    try:
        used.add(counted.number((b"a",), None, 1, 6.0))
    except Killed:
        assert killed_at < 9
    words.left = 10_000
    for name in (b"a", b"c", b"b", b"a"):
        number = counted.number((name,), None, 1, 7.0)
        assert number not in used
        used.add(number)


def test_while_a_stopped_worker_has_the_lock_the_others_count_alone_and_do_not_wait(
    counts: CircuitCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    fresh, refused = counts.listeners[0], 0

    def number(name: bytes) -> bytes:
        return fresh.number((name,), 60, None, 1.0)

    shared = number(b"a")
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, os, signal, sys;"
         "fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX); print(flush=True);"
         "os.kill(os.getpid(), signal.SIGSTOP)", str(counts.descriptor)],
        stdout=subprocess.PIPE, pass_fds=[counts.descriptor],
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert select.select([holder.stdout], [], [], 60)[0]
        alone = [number(name) for name in (b"a", b"b", b"a", b"b")]
        assert alone[:2] == alone[2:]
        assert len({shared, *alone}) == 3, "nobody joins a circuit of another key or process"
        for _ in range(200):
            try:
                fresh.count(1.0)
            except NoFreshCircuit:
                refused += 1
        assert refused == 102, "the rate holds for each process"
        assert sum(pauses) < 0.002, "and all of that waited once"
    finally:
        monkeypatch.undo()
        holder.send_signal(signal.SIGKILL)
        holder.communicate(timeout=60)
    assert number(b"a") == shared
    assert number(b"b") not in alone
