"""The waits between tries to get tor back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from torsocks_tx.backends.tor.backoff import FIRST_DELAY, LONGEST_DELAY, retry_delay


def test_delays_grow_to_their_longest() -> None:
    delays = retry_delay(lambda: 0.0)
    seconds = [delays(failures) for failures in range(20)]
    assert seconds[0] == FIRST_DELAY
    assert seconds == sorted(seconds)
    assert seconds[1] > seconds[0]
    assert seconds[-1] == LONGEST_DELAY - 1


@given(st.integers(0, 10**9), st.floats(0, 1))
def test_no_delay_is_too_long_or_none(failures: int, fraction: float) -> None:
    assert FIRST_DELAY <= retry_delay(lambda: fraction)(failures) <= LONGEST_DELAY


def test_jitter_is_on_by_default() -> None:
    delays = retry_delay()
    assert len({delays(0) for _ in range(20)}) > 1
