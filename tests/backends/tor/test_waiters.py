"""Many who wait for one thing."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError

from torsocks_tx.backends.tor.waiters import Waiters


def test_all_that_wait_get_it_and_later_ones_do_not() -> None:
    waiters: Waiters[int] = Waiters()
    got: list[int] = []
    for _ in range(2):
        waiters.wait().addCallback(got.append)
    waiters.fire(7)
    assert got == [7, 7]
    later = waiters.wait()
    waiters.fire(8)
    waiters.fire(9)
    assert later.result == 8


def test_each_gets_an_error_of_its_own() -> None:
    waiters: Waiters[int] = Waiters()
    errors: list[BaseException] = []
    for _ in range(2):
        waiters.wait().addErrback(lambda failure: errors.append(failure.value))
    waiters.fail(lambda: KeyError("x"))
    assert [type(error) for error in errors] == [KeyError, KeyError]
    assert errors[0] is not errors[1]


@pytest.mark.parametrize("failing", [False, True])
def test_one_may_cancel_itself_and_another(failing: bool) -> None:
    waiters: Waiters[int] = Waiters()
    first, second, third = (waiters.wait() for _ in range(3))
    heard: list[str] = []
    first.addBoth(lambda _: (heard.append("first"), second.cancel()))
    second.addErrback(lambda failure: heard.append(failure.type.__name__))
    third.addErrback(lambda failure: heard.append(failure.type.__name__))
    third.cancel()
    if failing:
        waiters.fail(lambda: KeyError("x"))
    else:
        waiters.fire(7)
    assert heard == [CancelledError.__name__, "first", CancelledError.__name__]
