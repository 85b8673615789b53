"""Extended authentication (method X'97'): key-value pairs in place of RFC 1929's two fields.

    request   | 01 |        NR 2 | KLEN 2 | KEY | VLEN 2 | VALUE | KLEN 2 | KEY | ...
    response  | 01 | STATUS | NR 2 | pairs as above

The first half reads and writes these messages (proposal 229, section 2.1). A message could claim
8 GB, so it is read pair by pair, and refused as soon as a length in it is too large. The second
half decides how a server answers a request. The proposal leaves open what keys mean;
``docs/proposal-229.md`` says what they mean here. Every listener knows ``REQUIRE`` and
``REPLY_CODES``; all other keys are in a table. The caller checks USERNAME and PASSWD.
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


def parse_request_head(reader: Reader) -> int:
    """Read a request up to its first pair; return the number of pairs."""
    _take_version(reader)
    return reader.take_u16()


def parse_response_head(reader: Reader) -> tuple[int, int]:
    """Read a response up to its first pair; return the status and the number of pairs."""
    _take_version(reader)
    return reader.take_u8(), reader.take_u16()


def _take_version(reader: Reader) -> None:
    # No answer: the sender of another message would not understand it.
    if reader.take_u8() != VERSION:
        raise ProtocolError("not a message of method 0x97")


class Budget:
    """How many bytes of unfinished requests all clients of a server may still send."""

    def __init__(self, size: int = ALL_CLIENTS) -> None:
        self.left = size


class Pairs:
    """Reads the pairs of one message, one at a time.

    ``keeps`` says which keys to keep: the pairs of others are read and dropped. What is held beyond
    ``FREE_BYTES`` is taken from the ``budget``, and given back by ``close``. Raises ProtocolError
    (answer ``01 02 0000``) for more than ``max_pairs``, ``max_bytes`` or the budget, and for an
    invalid key, as soon as the length field or the key has come.
    """

    def __init__(
        self,
        count: int,
        *,
        max_pairs: int = MAX_PAIRS,
        max_bytes: int = MAX_BYTES,
        keeps: Callable[[str], bool] | None = None,
        budget: Budget | None = None,
    ) -> None:
        if count > max_pairs or count * _SHORTEST_PAIR > max_bytes:
            raise _invalid("too many pairs")
        self._left = count
        self._room = max_bytes
        self._keeps = keeps
        self._budget = budget
        self._held = 0
        self._coming = 0
        self._taken: list[tuple[str, bytes]] = []

    @property
    def complete(self) -> KeyValues | None:
        """Return all the pairs, or None while some are missing."""
        return None if self._left else KeyValues(tuple(self._taken))

    def take(self, reader: Reader) -> None:
        """Read one pair. After Incomplete call it again with the same bytes and more."""
        start = reader.position
        length = reader.take_u16()
        if not 0 < length <= MAX_KEY:
            raise _invalid("a key is empty or too long")
        key = reader.take(length)
        if not _KEY.match(key):
            raise _invalid("a key with an invalid byte")
        length = reader.take_u16()
        size = reader.position - start + length
        if size > self._room - (self._left - 1) * _SHORTEST_PAIR:
            raise _invalid("more bytes than a message may have")
        if not self._coming:
            self._coming = size
            self._hold(size)
        value = reader.take(length)
        name = key.decode("ascii")
        if self._keeps is None or self._keeps(name):
            self._taken.append((name, value))
        else:
            self._hold(-size)
        self._coming = 0
        self._left -= 1
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


class Response:
    """Reads a response; ``status`` is known before the pairs are."""

    def __init__(self) -> None:
        self.status: int | None = None
        self._pairs = Pairs(0)

    def take(self, reader: Reader) -> KeyValues | None:
        """Read the head or one pair; return all pairs after the last. Raises as ``Pairs`` does."""
        if self.status is None:
            self.status, count = parse_response_head(reader)
            self._pairs = Pairs(count)
        else:
            self._pairs.take(reader)
        return self._pairs.complete


def _invalid(reason: str) -> ProtocolError:
    return ProtocolError(reason, INVALID_ARGUMENTS)


USERNAME, PASSWD, ISOLATION = "USERNAME", "PASSWD", "ISOLATION"
REQUIRE, REPLY_CODES = "REQUIRE", "REPLY_CODES"
ACCEPTED, UNSUPPORTED = "ACCEPTED", "UNSUPPORTED"
_OWN = (REQUIRE, REPLY_CODES)

KeyHandler = Callable[[KeyValues], KeyValues]
"""Checks the pairs of one key, or of all keys with one prefix; called only if there are any.

Returns pairs for the success response; raises ``InvalidArguments`` for STATUS 02. The backend finds
the pairs in ``Request.pairs``. The handler of a prefix that does not know all keys with it has a
method ``knows(key)``, so that REQUIRE is answered rightly.
"""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


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
            if not _NAME.match(name) or not callable(handler):
                wanted = "a key of letters, digits, dots, dashes and underscores, with a function"
                raise ValueError(f"wanted {wanted}, not {name!r}: {type(handler).__name__}")

    def reader(self, count: int) -> Pairs:
        """Return a reader of ``count`` pairs that keeps those with a handler."""
        return Pairs(
            count,
            max_pairs=self.max_pairs,
            max_bytes=self.max_bytes,
            keeps=self._is_kept,
            budget=self.budget,
        )

    def _is_kept(self, key: str) -> bool:
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
            raise _refused("a key occurs twice")
    username, password = pairs.get(USERNAME), pairs.get(PASSWD)
    if username is None and password is None:
        return None
    credentials = Credentials(username or b"", password or b"")
    if role is Role.TOR and not userpass.is_known_format(credentials):
        raise _refused("unknown format of extended credentials")
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
        raise _refused(str(error), error.pairs) from None
    accepted = key_list(key for key in pairs.names if rules.knows(key))
    own = [(ACCEPTED, accepted), (REPLY_CODES, codes.value.encode("ascii"))]
    return KeyValues.of([*own, *answers])


def _refused(reason: str, pairs: KeyValues = NO_PAIRS) -> ProtocolError:
    answer = INVALID_ARGUMENTS
    # If the pairs of a handler do not fit, the client is refused without them.
    with contextlib.suppress(ValueError):
        answer = build_response(ExtendedStatus.INVALID_ARGUMENTS, pairs)
    return ProtocolError(reason, answer)


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
    names = value.decode("latin-1").split(",")
    if not all(_NAME.match(name) for name in names):
        raise InvalidArguments("REQUIRE is not a list of keys")
    unknown = [name for name in names if not rules.knows(name)]
    if unknown:
        pairs = KeyValues.of({UNSUPPORTED: key_list(unknown)})
        raise InvalidArguments("a required key is not known", pairs)


def _choose_codes(value: bytes | None, rules: ExtendedRules, role: Role) -> CodeSet:
    try:
        asked = parse_code_set(value)
    except ValueError:
        raise InvalidArguments("REPLY_CODES is not the name of a set of codes") from None
    return code_set(role, rules.extended_errors, offered=True, asked=asked)
