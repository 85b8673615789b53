"""The reply of a scripted server: any bytes, whole or in part, at once or one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.interfaces import IReactorTime

from torsocks_tx.limits import Limits
from torsocks_tx.relay.transports import Deadline
from torsocks_tx.server.request import Client, Errand
from torsocks_tx.socks.address import build_address
from torsocks_tx.socks.constants import Command, Version
from torsocks_tx.socks.messages import Request
from torsocks_tx.socks.replies import ReplyContext
from torsocks_tx.testing.scripted.names import Act, Script, script_of


class ScriptedErrand(Errand):
    """Answers as the script says, in bytes that no other server would send."""

    def __init__(
        self,
        client: Client,
        request: Request,
        *,
        clock: IReactorTime,
        limits: Limits,
        audience: Callable[[Request], ReplyContext],
    ) -> None:
        super().__init__(client, request, clock=clock, limits=limits, audience=audience)
        self._script = script_of(request)
        self._next_byte = Deadline(clock)

    def send_reply(self, reply: bytes, *, final: bool) -> None:
        """Write the scripted reply in place of the true one, as the script says."""
        script = self._script
        if script.act is Act.RESET:
            self._client.reset()
            return
        shaped = shape(reply, script, self._request)
        if script.cut is not None:
            shaped, final = shaped[: script.cut], True
        if script.pause is None or not shaped:
            super().send_reply(shaped, final=final)
            return
        if self._relay.outbound is not None:
            self._relay.outbound.pauseProducing()
        self._send_byte(shaped, final, script.pause)

    def _send_byte(self, left: bytes, final: bool, pause: float) -> None:
        if len(left) > 1:
            self._client.transport.write(left[:1])
            self._next_byte.start(pause, partial(self._send_byte, left[1:], final, pause))
            return
        super().send_reply(left, final=final)
        if self._relay.outbound is not None:
            self._relay.outbound.resumeProducing()

    def client_lost(self, clean: bool) -> None:
        """The client's connection is gone."""
        self._next_byte.stop()
        super().client_lost(clean)


def shape(reply: bytes, script: Script, request: Request) -> bytes:
    """The bytes of the scripted reply, made from those of the true one."""
    if script.act is Act.CLOSE:
        return b""
    if script.raw is not None:
        return script.raw
    if script.act is not Act.SILENT and not script.opens(request.version):
        # The code is the second byte, in both versions.
        reply = reply[:1] + bytes([script.code_for(request.version)]) + reply[2:]
    connects = request.version is Version.SOCKS5 and request.command is Command.CONNECT
    if script.bound is not None and connects:
        reply = reply[:3] + build_address(script.bound)
    return reply
