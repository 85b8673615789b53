"""How long an open stream may be silent, and how it is ended when it was silent for too long."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from torsocks_tx.limits import Limits
from torsocks_tx.relay.transports import Deadline, Throttle


class Patience:
    """Watches one stream; ``last_activity`` is the time of its last bytes, kept by the relay.

    ``lingered``: for how many seconds the client was done before this began to watch.
    ``give_up`` is called with whether the stream looks complete: it does not where bytes are held
    back because one side takes no more, nor where they still come.
    """

    __slots__ = ("_clock", "_deadline", "_give_up", "_limits", "_linger_end", "_throttles",
                 "last_activity", "lingered")  # fmt: skip

    def __init__(
        self,
        clock: IReactorTime,
        deadline: Deadline,
        limits: Limits,
        give_up: Callable[[bool], None],
    ) -> None:
        self._clock = clock
        self._deadline = deadline
        self._limits = limits
        self._give_up = give_up
        self._throttles: tuple[Throttle, ...] = ()
        self._linger_end = 0.0
        self.last_activity = 0.0
        self.lingered = 0.0

    def opened(self, *throttles: Throttle) -> None:
        """Both sides are open: only ``idle_timeout`` counts."""
        self._throttles = throttles
        self.last_activity = self._clock.seconds()
        if self._limits.idle_timeout is None:
            self._deadline.rest()
        else:
            self._deadline.start(self._limits.idle_timeout, self._idle_expired)

    def client_done(self) -> None:
        """The client has closed its side: the far end may be silent for ``linger_timeout``."""
        self.last_activity = self._clock.seconds()
        self._linger_end = self.last_activity + self._limits.linger_limit - self.lingered
        self._deadline.start(self._limits.linger_timeout, self._linger_expired)

    def remote_done(self) -> None:
        """The far end has closed its side: the client may be silent for ``linger_limit``."""
        self.last_activity = self._clock.seconds()
        self._upload_expired()

    def end(self) -> None:
        """Wait for nothing more: the stream is over, and no longer known here."""
        self._deadline.rest()
        self._give_up = _nothing
        self._throttles = ()

    def _idle_expired(self) -> None:
        self._expire(self._remaining(self._limits.idle_timeout or 0.0), self._idle_expired)

    def _upload_expired(self) -> None:
        limits = self._limits
        period = min(limits.idle_timeout or limits.linger_limit, limits.linger_limit)
        self._expire(self._remaining(period), self._upload_expired)

    def _linger_expired(self) -> None:
        period = self._limits.linger_timeout
        # A side that is not read from because the other takes no more is not silent, nor is a far
        # end that has not taken everything yet.
        is_busy = self._is_blocked or self._throttles[-1].is_sending
        silence = period if is_busy else self._remaining(period)
        left = min(silence, self._linger_end - self._clock.seconds())
        self._expire(left, self._linger_expired, is_silent=silence <= 0)

    def _expire(self, left: float, again: Callable[[], None], *, is_silent: bool = True) -> None:
        if left > 0:
            self._deadline.start(left, again)
        else:
            self._give_up(is_silent and not self._is_blocked)

    @property
    def _is_blocked(self) -> bool:
        return any(throttle.paused for throttle in self._throttles)

    def _remaining(self, period: float) -> float:
        return self.last_activity + period - self._clock.seconds()


def _nothing(_: bool) -> None:
    """Nobody is left to be told."""
