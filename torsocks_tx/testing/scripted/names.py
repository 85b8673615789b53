"""What a scripted server does, as written in the destination: ``delay-200ms.reply-06.test``.

Labels under ``.test`` or ``.onion``, in any order: at most one action, and any number of different
modifiers. ``GRAMMAR`` is the reference for users. IP addresses have a meaning too, for requests
that cannot hold a name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

from torsocks_tx.socks.constants import AddressType, Reply4, Reply5, Version
from torsocks_tx.socks.messages import Address, Request

MAX_DELAY = 600.0
MAX_PAUSE = 10.0
MAX_BYTES = 2**30
DEFAULT_PAUSE = 0.01
DEFAULT_CUT = 4
CODES4 = range(0x5A, 0x60)
"""The codes of a reply that a SOCKS4 client may be given: four with a meaning, and two without."""

STATUSES = frozenset(status for status in HTTPStatus if status >= 200)
CODE_NETWORK = ipaddress.IPv4Network("198.51.100.0/24")
CODE_NETWORK6 = ipaddress.IPv6Network("2001:db8:1::/120")
"""Destinations whose last byte is the reply code."""

GRAMMAR = """\
The destination says what happens. An action:
  echo             success; everything comes back (without an action, this one)
  banner           success; the server speaks first, in the segment of the reply, then echoes
  bytes-N          success; N bytes, then a close; bytes-0 hangs up at once
  sink             success; everything is taken and nothing comes
  drop-N           success; everything comes back, and a reset after N bytes from the client
  reply-XX         the reply code XX, two hexadecimal digits, and a close (success: and an echo).
                   SOCKS4 clients get it if it is one of 5a to 5f; else 5b, and 5a for 00; HTTP
                   clients get what torsocks_tx answers for it
  status-NNN       the status NNN for HTTP clients (407 asks for a login), and a close (2xx: and an
                   echo); SOCKS clients get 01 or success
  silent           no reply, ever
  close            a close in place of the reply
  reset            a reset in place of the reply
  a-192-0-2-7      what RESOLVE answers: 192.0.2.7 (a CONNECT echoes)
  aaaa-2001-db8--9 what RESOLVE answers: 2001:db8::9 (a CONNECT echoes)
Modifiers, before it:
  delay-200ms      200 ms before the outcome; delay-2s is 2 s
  split            the reply comes byte by byte; split-50ms: 50 ms apart
  truncated        4 bytes of the reply, then a close; truncated-9: 9 bytes
  v4, v6, name     the bound address of a SOCKS5 reply is 192.0.2.1, 2001:db8::1 (22 bytes) or
                   bound.test in place of 0.0.0.0; RESOLVE answers such an address, too
  raw-0502ff       these bytes are the reply, right or wrong; with reply-01: and a close
All end in .test, or in .onion with or without an onion address before it: reply-f4.onion.
198.51.100.N and 2001:db8:1::N stand for the reply code N (decimal; hexadecimal), which RESOLVE_PTR
gives for them too. Other addresses echo; the pointer of 192.0.2.7 is a-192-0-2-7.test.
Any other name: reply code 04 (SOCKS4: 5b).
"""


class Act(Enum):
    """What the server does with a request."""

    ECHO = auto()
    BANNER = auto()
    BYTES = auto()
    SINK = auto()
    DROP = auto()
    REPLY = auto()
    """As ``ECHO`` if its code is success; else a failure."""
    SILENT = auto()
    CLOSE = auto()
    RESET = auto()


_WITHOUT_REPLY = frozenset({Act.SILENT, Act.CLOSE, Act.RESET})


@dataclass(frozen=True, slots=True)
class Script:
    """What the server does with one request, in detail.

    ``size``: the N of bytes-N and drop-N. ``status``: that of status-NNN. ``pause``: seconds
    between the bytes of the reply, None for all at once. ``cut``: how many bytes of the reply are
    sent before a close, None for all. ``answer``: what a look-up finds. ``mistake``: why the name
    is invalid; empty if it is valid.
    """

    act: Act = Act.ECHO
    size: int = 0
    status: int | None = None
    code: int = Reply5.SUCCEEDED
    delay: float = 0.0
    pause: float | None = None
    cut: int | None = None
    bound: Address | None = None
    raw: bytes | None = None
    answer: Address = field(default=Address(AddressType.IPV4, "192.0.2.1"))
    mistake: str = ""

    def code_for(self, version: Version) -> int:
        """Return the reply code for a client of this version."""
        if version is not Version.SOCKS4 or self.code in CODES4:
            return self.code
        return Reply4.GRANTED if self.code == Reply5.SUCCEEDED else Reply4.REJECTED

    def granted(self, version: Version) -> bool:
        """Whether the request is granted."""
        success = Reply4.GRANTED if version is Version.SOCKS4 else Reply5.SUCCEEDED
        return self.act not in _WITHOUT_REPLY and self.code_for(version) == success

    def opens(self, version: Version) -> bool:
        """Whether there is a stream behind the reply."""
        return self.granted(version) and self.cut is None


class ScriptError(ValueError):
    """An invalid name; the text says why."""


def script_of(request: Request) -> Script:
    """Return the script of a request; for an invalid name, reply code 04 with the mistake."""
    address = request.address.literal()
    if address.type is not AddressType.HOSTNAME:
        return _of_ip(address)
    try:
        return parse_script(address.host)
    except ScriptError as error:
        return Script(Act.REPLY, code=Reply5.HOST_UNREACHABLE, mistake=str(error))


def parse_script(host: str) -> Script:
    """Read a name. Raises ``ScriptError``."""
    *labels, top = host.lower().removesuffix(".").split(".")
    if top not in ("test", "onion"):
        raise ScriptError(f"{host} ends neither in .test nor in .onion")
    if top == "onion" and labels and _ONION.fullmatch(labels[-1]):
        labels.pop()
    if not labels:
        raise ScriptError(f"{host} says nothing")
    script = Script()
    said: set[str] = set()
    for label in labels:
        kind, changes = _read(label)
        if kind in said:
            raise ScriptError(f"{host} has two of the same kind: {kind}")
        said.add(kind)
        script = replace(script, **changes)
    return script


def pointer_of(address: Address) -> str:
    """Return the name that RESOLVE_PTR answers for an address; RESOLVE answers the address."""
    if address.type is AddressType.IPV4:
        return f"a-{address.host.replace('.', '-')}.test"
    # Its end may be written as an IPv4 address.
    host = (
        ipaddress.IPv6Address(address.host).packed.hex(":", 2)
        if "." in address.host
        else address.host
    )
    return f"aaaa-{host.replace(':', '-')}.test"


def _of_ip(address: Address) -> Script:
    ip = ipaddress.ip_address(address.host)
    if ip in CODE_NETWORK or ip in CODE_NETWORK6:
        return Script(**_reply(ip.packed[-1]))
    return Script()


Changes = dict[str, Any]
_ONION = re.compile("[a-z2-7]{56}")
_V4 = Address(AddressType.IPV4, "192.0.2.1", 80)
_V6 = Address(AddressType.IPV6, "2001:db8::1", 80)
_NAME = Address(AddressType.HOSTNAME, "bound.test", 80)


def _read(label: str) -> tuple[str, Changes]:
    for kind, pattern, changes_of in _LABELS:
        match = pattern.fullmatch(label)
        if match is not None:
            return kind, changes_of(match)
    raise ScriptError(f"there is no label {label}")


def _reply(code: int) -> Changes:
    return {"act": Act.REPLY, "code": code}


def _status(status: int) -> Changes:
    if status not in STATUSES:
        raise ScriptError(f"{status} is no final status of HTTP")
    code = Reply5.SUCCEEDED if status < 300 else Reply5.GENERAL_FAILURE
    return {"act": Act.REPLY, "code": code, "status": status}


def _seconds(most: float, number: str, unit: str) -> float:
    seconds = int(number) * (0.001 if unit == "ms" else 1.0)
    if seconds > most:
        raise ScriptError(f"{number}{unit} is too long: {most:g} s is the most")
    return seconds


def _sized(act: Act, number: str) -> Changes:
    if int(number) > MAX_BYTES:
        raise ScriptError(f"{number} bytes are too many: {MAX_BYTES} is the most")
    return {"act": act, "size": int(number)}


def _answer(text: str) -> Changes:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError as error:
        raise ScriptError(str(error)) from None
    return {"answer": Address.of(str(ip))}


def _pause(match: re.Match[str]) -> Changes:
    spoken = match[1] is not None
    return {"pause": _seconds(MAX_PAUSE, match[1], match[2]) if spoken else DEFAULT_PAUSE}


_Label = tuple[str, re.Pattern[str], Callable[[re.Match[str]], Changes]]
_TIME = r"(\d{1,6})(ms|s)"
_ACTION = "action"


def _label(kind: str, pattern: str, changes_of: Callable[[re.Match[str]], Changes]) -> _Label:
    return kind, re.compile(pattern), changes_of


def _plain(act: Act) -> _Label:
    return _label(_ACTION, act.name.lower(), lambda _: {"act": act})


def _bound(label: str, address: Address) -> _Label:
    answer = {} if address is _NAME else {"answer": replace(address, port=0)}
    return _label("bound address", label, lambda _: {"bound": address, **answer})


_LABELS: tuple[_Label, ...] = (
    *map(_plain, (Act.ECHO, Act.BANNER, Act.SINK)),
    *map(_plain, (Act.SILENT, Act.CLOSE, Act.RESET)),
    _label(_ACTION, r"bytes-(\d{1,10})", lambda m: _sized(Act.BYTES, m[1])),
    _label(_ACTION, r"drop-(\d{1,10})", lambda m: _sized(Act.DROP, m[1])),
    _label(_ACTION, r"reply-([0-9a-f]{2})", lambda m: _reply(int(m[1], 16))),
    _label(_ACTION, r"status-([0-9]{3})", lambda m: _status(int(m[1]))),
    _label(_ACTION, r"a-([0-9-]+)", lambda m: _answer(m[1].replace("-", "."))),
    _label(_ACTION, r"aaaa-([0-9a-f-]+)", lambda m: _answer(m[1].replace("-", ":"))),
    _label("delay", f"delay-{_TIME}", lambda m: {"delay": _seconds(MAX_DELAY, m[1], m[2])}),
    _label("split", f"split(?:-{_TIME})?", _pause),
    _label("truncated", r"truncated(?:-(\d{1,3}))?", lambda m: {"cut": int(m[1] or DEFAULT_CUT)}),
    _label("raw", r"raw-((?:[0-9a-f]{2})+)", lambda m: {"raw": bytes.fromhex(m[1])}),
    _bound("v4", _V4),
    _bound("v6", _V6),
    _bound("name", _NAME),
)
