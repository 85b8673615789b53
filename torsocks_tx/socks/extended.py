"""Extended authentication (method X'97'): key-value pairs in place of RFC 1929's two fields.

    request   | 01 |        NR 2 | KLEN 2 | KEY | VLEN 2 | VALUE | KLEN 2 | KEY | ...
    response  | 01 | STATUS | NR 2 | pairs as above

The first half reads and writes these messages (proposal 229, section 2.1), the second half decides
how a server answers a request (``docs/proposal-229.md``). A message could claim 8 GB, so it is read
pair by pair, and refused as soon as a length in it is too large. Every listener knows ``REQUIRE``
and ``REPLY_CODES``; all other keys are in a table. The caller checks USERNAME and PASSWD.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torsocks_tx.errors import InvalidArguments, ProtocolError
from torsocks_tx.socks import userpass
from torsocks_tx.socks.constants import CodeSet, ExtendedStatus, Role
from torsocks_tx.socks.messages import NO_PAIRS, Credentials, KeyValues, is_of_kind
from torsocks_tx.socks.replies import code_set, parse_code_set
from torsocks_tx.socks.wire import Reader

VERSION = 0x01
MAX_KEY = 64
MAX_PAIRS = 1024
MAX_BYTES = 256 * 1024
"""Bytes of all pairs of a message together, with their length fields."""

FREE_BYTES = 1024
"""Bytes of pairs that a client may send whatever others do: more than a login needs."""

ALL_CLIENTS = 8 * 1024 * 1024
"""Bytes of unfinished requests beyond that, of all clients together."""

_SHORTEST_PAIR = 5
_KEY = re.compile(rb"[A-Za-z0-9_.-]{1,64}\Z")

USERNAME, PASSWD, ISOLATION = "USERNAME", "PASSWD", "ISOLATION"
REQUIRE, REPLY_CODES = "REQUIRE", "REPLY_CODES"
ACCEPTED, UNSUPPORTED = "ACCEPTED", "UNSUPPORTED"
_OWN = (REQUIRE, REPLY_CODES)


def build_pairs(pairs: KeyValues) -> bytes:
    """Return NR and the pairs; ValueError for a key or a value that does not fit."""
    if len(pairs) > 0xFFFF:
        raise ValueError("a message holds at most 65535 pairs")
    parts = [struct.pack("!H", len(pairs))]
    for key, value in pairs:
        name = key.encode("ascii", "replace")
        if not _KEY.match(name):
            raise ValueError("a key is 1 to 64 letters, digits, dots, dashes and underscores")
        if len(value) > 0xFFFF:
            raise ValueError("a value holds at most 65535 bytes")
        parts += [struct.pack("!H", len(name)), name, struct.pack("!H", len(value)), value]
    return b"".join(parts)


def build_request(pairs: KeyValues) -> bytes:
    """Return the bytes of a request; ValueError for what does not fit."""
    return bytes([VERSION]) + build_pairs(pairs)


def build_response(status: int, pairs: KeyValues = NO_PAIRS) -> bytes:
    """Return the bytes of a response; ValueError for what does not fit."""
    return bytes([VERSION, status]) + build_pairs(pairs)


AUTHENTICATION_FAILED = build_response(ExtendedStatus.AUTHENTICATION_FAILED)
INVALID_ARGUMENTS = build_response(ExtendedStatus.INVALID_ARGUMENTS)


class Budget:
    """How many bytes of unfinished requests all clients of a server may still send."""

    def __init__(self, size: int = ALL_CLIENTS) -> None:
        self.left = size


class MessageReader:
    """Reads one message: its head, then one pair at a time.

    ``rules``: those of the listener that reads a request; None for a response, whose ``status`` is
    known before its pairs. Pairs of keys without a handler are read and dropped. What is held
    beyond ``FREE_BYTES`` is taken from the budget of the rules, and given back by ``close``. Raises
    ProtocolError for another version, and (answer ``01 02 0000``) for more than the bounds or the
    budget, and for an invalid key, as soon as the length field or the key has come.
    """

    def __init__(self, rules: ExtendedRules | None = None) -> None:
        self.status: int | None = None
        self._rules = rules
        self._room = MAX_BYTES if rules is None else rules.max_bytes
        self._budget = None if rules is None else rules.budget
        self._left: int | None = None
        self._held = self._coming = 0
        self._taken: list[tuple[str, bytes]] = []

    def take(self, reader: Reader) -> KeyValues | None:
        """Read the head or one pair; return all pairs after the last.

        After Incomplete call it again with the same bytes and more.
        """
        if self._left is None:
            self._left = self._take_head(reader)
        else:
            self._take_pair(reader, self._left - 1)
            self._left -= 1
        return None if self._left else KeyValues(tuple(self._taken))

    def _take_head(self, reader: Reader) -> int:
        if reader.take_u8() != VERSION:
            # No answer: the sender of another message would not understand it.
            raise ProtocolError("not a message of method 0x97")
        status = reader.take_u8() if self._rules is None else None
        most = MAX_PAIRS if self._rules is None else self._rules.max_pairs
        count = reader.take_u16()
        self.status = status
        if count > most or count * _SHORTEST_PAIR > self._room:
            raise _invalid("too many pairs")
        return count

    def _take_pair(self, reader: Reader, behind: int) -> None:
        start = reader.position
        length = reader.take_u16()
        if not 0 < length <= MAX_KEY:
            raise _invalid("a key is empty or too long")
        key = reader.take(length)
        if not _KEY.match(key):
            raise _invalid("a key with an invalid byte")
        length = reader.take_u16()
        size = reader.position - start + length
        if size > self._room - behind * _SHORTEST_PAIR:
            raise _invalid("more bytes than a message may have")
        if not self._coming:
            self._coming = size
            self._hold(size)
        value = reader.take(length)
        name = key.decode("ascii")
        if self._rules is None or self._rules.keeps(name):
            self._taken.append((name, value))
        else:
            self._hold(-size)
        self._coming = 0
        self._room -= size

    def _hold(self, change: int) -> None:
        before, self._held = self._held, self._held + change
        if self._budget is not None:
            self._budget.left -= max(self._held - FREE_BYTES, 0) - max(before - FREE_BYTES, 0)
            if self._budget.left < 0:
                raise _invalid("all clients together send more than the budget")

    def close(self) -> None:
        """Give back what was taken from the budget; a second call does nothing."""
        if self._budget is not None:
            self._budget.left += max(self._held - FREE_BYTES, 0)
            self._budget = None


def _invalid(reason: str, pairs: KeyValues = NO_PAIRS) -> ProtocolError:
    answer = INVALID_ARGUMENTS
    # If the pairs of a handler do not fit, the client is refused without them.
    with contextlib.suppress(ValueError):
        answer = build_response(ExtendedStatus.INVALID_ARGUMENTS, pairs)
    return ProtocolError(reason, answer)


KeyHandler = Callable[[KeyValues], KeyValues]
"""Checks the pairs of one key, or of all keys with one prefix; called only if there are any.

Returns pairs for the success response; raises ``InvalidArguments`` for STATUS 02. The backend finds
the pairs in ``Request.pairs``. The handler of a prefix that does not know all keys with it has a
method ``knows(key)``, so that REQUIRE is answered rightly.
"""


def take_any(pairs: KeyValues) -> KeyValues:
    """Accept any pairs: they are used elsewhere."""
    return NO_PAIRS


def standard_keys(*, isolates: bool, authenticates: bool) -> dict[str, KeyHandler]:
    """Return the keys that a listener uses by itself: those that isolate, and those that log in."""
    named = {USERNAME: take_any, PASSWD: take_any}
    return {
        **(named if isolates or authenticates else {}),
        **({ISOLATION: take_any} if isolates else {}),
    }


@dataclass(frozen=True, slots=True)
class ExtendedRules:
    """What a listener accepts by extended authentication.

    ``keys``: the handler of each key; a name that ends in a dot stands for all keys that start with
    it, and those may occur more than once. ``extended_errors``: the listener's flag, for the choice
    of reply codes. ``max_pairs`` and ``max_bytes`` bound one request, ``budget`` the unfinished
    requests of all clients together.
    """

    keys: Mapping[str, KeyHandler] = field(
        default_factory=lambda: standard_keys(isolates=True, authenticates=False)
    )
    extended_errors: bool = False
    max_pairs: int = MAX_PAIRS
    max_bytes: int = MAX_BYTES
    budget: Budget = field(default_factory=Budget, compare=False)

    def __post_init__(self) -> None:
        for name, handler in self.keys.items():
            if not _KEY.match(name.encode()) or not callable(handler):
                wanted = "a key of letters, digits, dots, dashes and underscores, with a function"
                raise ValueError(f"wanted {wanted}, not {name!r}: {type(handler).__name__}")

    def keeps(self, key: str) -> bool:
        """Whether anybody reads pairs of this key."""
        return key in _OWN or any(is_of_kind(key, name) for name in self.keys)

    def knows(self, key: str) -> bool:
        """Whether the listener uses this key."""
        handlers = (handler for name, handler in self.keys.items() if is_of_kind(key, name))
        return key in _OWN or any(getattr(h, "knows", lambda _: True)(key) for h in handlers)


def key_list(keys: Iterable[str]) -> bytes:
    """Return the value that lists these keys, cut at a comma if it is longer than a value may be.

    A client that misses a key in ACCEPTED is on the safe side.
    """
    text = ",".join(keys)
    return (text if len(text) <= 0xFFFF else text[:0xFFFF].rpartition(",")[0]).encode("ascii")


def check_credentials(pairs: KeyValues, role: Role) -> Credentials | None:
    """Return the USERNAME and PASSWD among the pairs, None if there are neither.

    Raises ProtocolError for one that occurs twice, and for an unknown extended format of the user
    name. On a transport's port user names have no format.
    """
    for key in (USERNAME, PASSWD):
        if len(pairs.of_kind(key)) > 1:
            raise _invalid("a key occurs twice")
    username, password = pairs.get(USERNAME), pairs.get(PASSWD)
    if username is None and password is None:
        return None
    credentials = Credentials(username or b"", password or b"")
    if role is Role.TOR and not userpass.is_known_format(credentials):
        raise _invalid("unknown format of extended credentials")
    return credentials


def judge(pairs: KeyValues, rules: ExtendedRules, role: Role) -> KeyValues:
    """Return the pairs of the success response; ProtocolError (answer: STATUS 02) to refuse."""
    try:
        _check_repeats(pairs, rules)
        _check_required(pairs.get(REQUIRE), rules)
        answers = [
            answer
            for name, handler in rules.keys.items()
            if (given := pairs.of_kind(name))
            for answer in handler(given)
        ]
        codes = _choose_codes(pairs.get(REPLY_CODES), rules, role)
    except InvalidArguments as error:
        raise _invalid(str(error), error.pairs) from None
    accepted = key_list(key for key in pairs.names if rules.knows(key))
    own = [(ACCEPTED, accepted), (REPLY_CODES, codes.value.encode("ascii"))]
    return KeyValues.of([*own, *answers])


def _check_repeats(pairs: KeyValues, rules: ExtendedRules) -> None:
    if len(pairs.names) == len(pairs):
        return
    single = [name for name in rules.keys if not name.endswith(".")]
    for key in (*_OWN, *single):
        if len(pairs.of_kind(key)) > 1:
            raise InvalidArguments("a key occurs twice")


def _check_required(value: bytes | None, rules: ExtendedRules) -> None:
    if not value:
        return
    names = value.split(b",")
    if not all(map(_KEY.match, names)):
        raise InvalidArguments("REQUIRE is not a list of keys")
    unknown = [key for key in value.decode("ascii").split(",") if not rules.knows(key)]
    if unknown:
        pairs = KeyValues.of({UNSUPPORTED: key_list(unknown)})
        raise InvalidArguments("a required key is not known", pairs)


def _choose_codes(value: bytes | None, rules: ExtendedRules, role: Role) -> CodeSet:
    try:
        asked = parse_code_set(value)
    except ValueError:
        raise InvalidArguments("REPLY_CODES is not the name of a set of codes") from None
    return code_set(role, rules.extended_errors, offered=True, asked=asked)
