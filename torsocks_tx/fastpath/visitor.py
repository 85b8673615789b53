"""One connection on its short way, from its first byte to its last if nothing else happens."""

from __future__ import annotations

import errno
import select
import socket

from twisted.logger import Logger

from torsocks_tx.fastpath.handover import Stage
from torsocks_tx.fastpath.passage import ENDED, LOST, NOW, Passage
from torsocks_tx.relay.connector import CONNECTED, UNDER_WAY, Target, connect_at_once
from torsocks_tx.relay.flow import BULK_READ
from torsocks_tx.socks import replies
from torsocks_tx.socks.constants import Command
from torsocks_tx.socks.messages import Request
from torsocks_tx.socks.server import Requested, Send, Step

_SHORT = 1024
"""So few bytes leave whole, or not at all."""

_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET


class Visitor(Passage):
    """A client, from its first byte until its stream is open; then its ``Passage``."""

    __slots__ = ()
    _log = Logger()

    def begin(self) -> None:
        """Be counted, and say what is to be said to what has come with the connection."""
        self.hall.factory.connected(self)
        self.wait(self.hall.greetings)
        self.hall.poller.watch(self.number, self, _READ)
        self._converse()

    def ready(self, number: int, events: int) -> None:
        """Something has happened to one of the sockets."""
        is_near = number == self.number
        if events & select.EPOLLPRI:
            # A read ends at urgent data, and nobody would tell of what is behind.
            self.hand_over()
        elif self.stage is Stage.OPEN:
            self.pass_on(is_near, events)
        elif self.stage is Stage.HANDSHAKE and not events & ENDED:
            self._converse()
        elif self.stage is Stage.CONNECTING and not is_near and not events & LOST:
            if events & select.EPOLLOUT and self._opened():
                self.pass_on(False, events)
        else:
            self.hand_over()

    # Until the stream is open.

    def _converse(self) -> None:
        try:
            said, _, flags, _ = self.near.recvmsg(BULK_READ, 0, NOW)
        except BlockingIOError:
            return
        except OSError:
            self.leave()
            return
        if said:
            self._hear(said)
            # There may be more, of which nobody would tell.
            is_all = len(said) < BULK_READ and not flags & socket.MSG_CTRUNC
            if not is_all and self.stage is not Stage.OVER:
                self.hand_over()
        elif self.hall.factory.debugging:
            self.hand_over()  # it is to be noted
        else:
            self.leave()

    def _hear(self, said: bytes) -> None:
        assert self.handshake is not None
        try:
            steps = self.handshake.receive(said)
        except Exception:
            # Only the handler of a key can do that, and it may be an application's.
            self._log.failure("a fault of this server; the client is closed upon")
            self.leave()
            return
        for position, step in enumerate(steps):
            if not self._take(step):
                self.hand_over(steps[position:])
                return

    def _take(self, step: Step) -> bool:
        """Carry out a step, if that goes the short way."""
        if isinstance(step, Send):
            return len(step.data) <= _SHORT and self._say(step.data)
        return isinstance(step, Requested) and not step.rest and self._set_out(step.request)

    def _say(self, data: bytes) -> bool:
        """Send a few bytes; whether they left."""
        try:
            return self.near.send(data, NOW) == len(data)
        except OSError:
            return False

    def _set_out(self, request: Request) -> bool:
        hall = self.hall
        if hall.target is None or request.command is not Command.CONNECT:
            return False
        try:
            hall.factory.admit(request, hall.port._buildAddr(self.address))
            target = hall.target(request)
        except Exception:
            # Refused, or a fault of an application's: asked again, the protocol says which.
            return False
        if target is None or not self._connect(target):
            return False
        self.request = request
        hall.factory.serves(self)
        self.handshake = None  # an idle stream is to cost little
        if self.status in CONNECTED:
            self._opened()
            return True
        self.wait(hall.attempts)
        if self.status not in UNDER_WAY:
            self.hand_over()
        return True

    def _connect(self, target: Target) -> bool:
        """Begin to connect; False if that cannot be."""
        try:
            far = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:
            return False
        if target.family != socket.AF_UNIX:
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            self.status = connect_at_once(self.hall.connect, far, target.address)
        except Exception:
            # The protocol finds the same, and knows what to say.
            far.close()
            return False
        self.stage = Stage.CONNECTING
        self.target, self.far = target, far
        events = _READ if self.status in CONNECTED else _READ | select.EPOLLOUT
        self.hall.poller.watch(far.fileno(), self, events)
        return True

    def _opened(self) -> bool:
        """Tell the client; False if it cannot be told at once."""
        assert self.request is not None
        self.status = errno.EISCONN
        if self._say(replies.success(self.request)):
            self.wait(None)
            self.stage = Stage.OPEN
            return True
        self.hand_over()
        return False
