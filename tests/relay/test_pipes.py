"""The pool of pipes: what it lends, what it keeps, and when it says no."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.ground import open_files
from tests.support.rows import rows
from torsocks_tx.relay import pipes
from torsocks_tx.relay.pipes import LEAST, Pipe, PipePool, can_splice, tried


class WatchedPool(PipePool):
    """A pool that remembers its pipes."""

    def __init__(self, most: int = 3, idle: int = 2) -> None:
        super().__init__(most, idle)
        self.seen: set[str] = set()

    def borrow(self) -> Pipe | None:
        pipe = super().borrow()
        if pipe is not None:
            self.seen.add(os.readlink(f"/proc/self/fd/{pipe.reader}"))
        return pipe


@pytest.fixture
def pool() -> Iterator[PipePool]:
    """A small pool that leaves no pipe open."""
    pool = WatchedPool()
    yield pool
    pool.clear()
    assert not pool.seen & open_files("pipe")


def borrow(pool: PipePool) -> Pipe:
    pipe = pool.borrow()
    assert pipe is not None
    return pipe


def test_a_pipe_is_wide_and_never_waits(pool: PipePool) -> None:
    pipe = borrow(pool)
    assert pipe.size >= LEAST
    assert fcntl.fcntl(pipe.writer, fcntl.F_GETPIPE_SZ) == pipe.size
    assert not os.get_blocking(pipe.reader)
    assert not os.get_blocking(pipe.writer)
    assert not os.get_inheritable(pipe.reader)
    pool.give_back(pipe)


@rows("S-03")
def test_it_lends_so_many_and_no_more(pool: PipePool) -> None:
    lent = [borrow(pool) for _ in range(3)]
    assert pool.lent == 3
    assert pool.borrow() is None
    pool.give_back(lent.pop())
    again = borrow(pool)
    assert pool.borrow() is None
    for pipe in [*lent, again]:
        pool.give_back(pipe)
    assert pool.lent == 0


def test_it_keeps_a_few_for_the_next(pool: PipePool) -> None:
    lent = [borrow(pool) for _ in range(3)]
    for pipe in lent:
        pool.give_back(pipe)
    assert [borrow(pool), borrow(pool)] == [lent[1], lent[0]]
    with pytest.raises(OSError):
        os.fstat(lent[2].reader)
    for pipe in lent[:2]:
        pool.give_back(pipe)


def test_what_is_discarded_is_not_lent_again(pool: PipePool) -> None:
    pipe = borrow(pool)
    os.write(pipe.writer, b"left over")
    pool.discard(pipe)
    assert pool.lent == 0
    with pytest.raises(OSError):
        os.fstat(pipe.writer)


def test_without_descriptors_there_is_none(pool: PipePool, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_flags: int) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe2", none_left)
    assert pool.borrow() is None
    assert pool.lent == 0


@pytest.mark.parametrize(("allowed", "size"), [(1 << 18, 1 << 18), (1 << 17, 1 << 17), (4096, 0)])
def test_a_user_who_has_had_his_share_gets_less_or_none(
    pool: PipePool, monkeypatch: pytest.MonkeyPatch, allowed: int, size: int
) -> None:
    real = fcntl.fcntl

    def limited(descriptor: int, command: int, argument: Any = 0) -> Any:
        if command == fcntl.F_SETPIPE_SZ and argument > allowed:
            raise PermissionError(errno.EPERM, "share")
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", limited)
    before = open_files("pipe")
    pipe = pool.borrow()
    assert len(open_files("pipe") - before) == (size > 0)
    assert (pipe.size if pipe else 0) == size
    if pipe is not None:
        pool.give_back(pipe)


class TestCanSplice:
    @pytest.fixture(autouse=True)
    def untried(self) -> Iterator[None]:
        tried.cache_clear()
        yield
        tried.cache_clear()

    def test_here_it_can(self) -> None:
        assert can_splice()

    def test_a_kernel_that_refuses_cannot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: int) -> int:
            raise OSError(errno.EINVAL, "no")

        monkeypatch.setattr(pipes, "splice", refuse)
        assert not can_splice()

    def test_nor_can_another_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "splice")
        assert not can_splice()

    @pytest.mark.parametrize("free", range(4))
    def test_without_descriptors_it_is_tried_again_later(self, free: int) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        known = open_files("pipe"), open_files("socket")
        with open(os.devnull) as lowest:
            number = lowest.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (number + free, before[1]))
        try:
            assert not can_splice()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert (open_files("pipe"), open_files("socket")) == known
        assert can_splice()


def test_it_counts_flows_and_tells_the_only_one(pool: PipePool) -> None:
    assert pool.enter()
    assert not pool.enter()
    pool.leave()
    pool.leave()
    assert pool.flows == 0
    assert pool.enter()


def test_what_fits_is_what_was_granted(pool: PipePool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl
    monkeypatch.setattr(fcntl, "fcntl", lambda one, command, _: real(one, command, LEAST))
    pipe = borrow(pool)
    assert pipe.size == LEAST
    pool.give_back(pipe)


@pytest.mark.parametrize(
    ("processes", "most"), [(1, pipes.MOST), (2, pipes.MOST), (4, pipes.TOGETHER // 4), (1000, 1)]
)
def test_processes_share_what_a_user_gets(
    pool: PipePool, monkeypatch: pytest.MonkeyPatch, processes: int, most: int
) -> None:
    monkeypatch.setattr(pipes, "pool", pool)
    pipes.share_pool(processes)
    lent = [borrow(pool) for _ in range(most)]
    assert pool.borrow() is None
    for pipe in lent:
        pool.give_back(pipe)
