"""Extended authentication: key-value pairs in place of RFC 1929's two fields (method X'97').

    request   | 01 |        NR 2 | KLEN 2 | KEY | VLEN 2 | VALUE | KLEN 2 | KEY | ...
    response  | 01 | STATUS | NR 2 | pairs as above

First the messages (proposal 229, section 2.1). A frame could claim 8 GB, so it is taken pair by
pair, and refused by the numbers in its headers. Then what a server makes of a request. The proposal
leaves open what keys mean; ``docs/proposal-229.md`` says how that is settled here. ``REQUIRE`` and
``REPLY_CODES`` are known to every listener, all other keys are a table. The real check of USERNAME
and PASSWD is the caller's. No I/O.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torsocks_tx.errors import InvalidArguments, ProtocolError
from torsocks_tx.socks import userpass
from torsocks_tx.socks.constants import CodeSet, ExtendedStatus, Role
from torsocks_tx.socks.messages import NO_PAIRS, Credentials, KeyValues, is_of_kind
from torsocks_tx.socks.reader import Reader
from torsocks_tx.socks.replies import code_set, parse_code_set

VERSION = 0x01
MAX_KEY = 64
MAX_PAIRS = 1024
MAX_BYTES = 256 * 1024
"""All pairs of a frame together, their lengths included."""

FREE_BYTES = 1024
"""Bytes of pairs that each client may send whatever others do: more than a login needs."""

ALL_CLIENTS = 8 * 1024 * 1024
"""What all clients together may have under way beyond that."""

_SHORTEST_PAIR = 5
_KEY = re.compile(rb"[A-Za-z0-9_.-]{1,64}\Z")


def build_pairs(pairs: KeyValues) -> bytes:
    """NR and the pairs; ValueError for a key or a value that does not fit."""
    if len(pairs) > 0xFFFF:
        raise ValueError("a frame holds at most 65535 pairs")
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
    """The bytes of a request; ValueError for what does not fit."""
    return bytes([VERSION]) + build_pairs(pairs)


def build_response(status: int, pairs: KeyValues | None = None) -> bytes:
    """The bytes of a response; ValueError for what does not fit."""
    return bytes([VERSION, status]) + build_pairs(pairs or NO_PAIRS)


AUTHENTICATION_FAILED = build_response(ExtendedStatus.AUTHENTICATION_FAILED)
INVALID_ARGUMENTS = build_response(ExtendedStatus.INVALID_ARGUMENTS)


def parse_request_head(reader: Reader) -> int:
    """Read up to the first pair: how many there are. ProtocolError for a wrong version."""
    _take_version(reader)
    return reader.take_u16()


def parse_response_head(reader: Reader) -> tuple[int, int]:
    """Read up to the first pair: the status, and how many there are."""
    _take_version(reader)
    return reader.take_u8(), reader.take_u16()


def _take_version(reader: Reader) -> None:
    # No answer: where the message is of another kind, nobody knows what its sender would read.
    if reader.take_u8() != VERSION:
        raise ProtocolError("not a message of method 0x97")


class Budget:
    """How many bytes of pairs all clients of a server may together have under way."""

    def __init__(self, size: int = ALL_CLIENTS) -> None:
        self.left = size


class Pairs:
    """The pairs of one frame as they come.

    ``keeps`` says which keys are of use: the pairs of others are read and dropped. What is held
    beyond ``FREE_BYTES`` is taken from the ``budget``, and given back by ``close``. Raises
    ProtocolError (answer ``01 02 0000``) for more than ``max_pairs``, more than ``max_bytes``, more
    than the budget has and a key that is none, each as soon as a header tells.
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
        """All the pairs, or None while some are missing."""
        return None if self._left else KeyValues(tuple(self._taken))

    def take(self, reader: Reader) -> None:
        """Read one pair. Raises Incomplete, and then has taken nothing."""
        start = reader.position
        length = reader.take_u16()
        if not 0 < length <= MAX_KEY:
            raise _invalid("a key is empty or too long")
        key = reader.take(length)
        if not _KEY.match(key):
            raise _invalid("a key with bytes that keys do not have")
        length = reader.take_u16()
        size = reader.position - start + length
        if size > self._room - (self._left - 1) * _SHORTEST_PAIR:
            raise _invalid("more bytes than a frame may have")
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
                raise _invalid("all clients together send more bytes than the budget has")

    def close(self) -> None:
        """Give back what was taken from the budget; harmless a second time."""
        if self._budget is not None:
            self._budget.left += max(self._held - FREE_BYTES, 0)
            self._budget = None


class Response:
    """A response as it comes; ``status`` is known before its pairs are."""

    def __init__(self) -> None:
        self.status: int | None = None
        self._pairs = Pairs(0)

    def take(self, reader: Reader) -> KeyValues | None:
        """Read the head or one pair; all the pairs once they are there. Errors as of ``Pairs``."""
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

KeyHandler = Callable[[KeyValues], KeyValues]
"""Judges the pairs of one key, or of all keys behind one prefix; called only if there are any.

Returns pairs for the success response; raises ``InvalidArguments`` for STATUS 02. What it takes
from them reaches the backend in ``Request.pairs``. One for a prefix that does not know all keys
behind it has a method ``knows(key)``, so that a client can require one of them.
"""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


def take_any(pairs: KeyValues) -> KeyValues:
    """Accept whatever the pairs are: they are used elsewhere."""
    return NO_PAIRS


def standard_keys(*, isolates: bool, authenticates: bool) -> dict[str, KeyHandler]:
    """The keys that a listener acts on by itself: those that isolate, and those that log in."""
    named = {USERNAME: take_any, PASSWD: take_any}
    return {
        **(named if isolates or authenticates else {}),
        **({ISOLATION: take_any} if isolates else {}),
    }


@dataclass(frozen=True, slots=True)
class ExtendedRules:
    """What a listener takes by method X'97'.

    ``keys``: who judges which key; a name that ends in a dot stands for all keys behind it, and
    those may come more than once. ``extended_errors``: the flag of the listener, of which the set
    of reply codes depends. ``max_pairs`` and ``max_bytes`` bound a request, ``budget`` those of all
    clients together.
    """

    keys: Mapping[str, KeyHandler] = field(
        default_factory=lambda: standard_keys(isolates=True, authenticates=False)
    )
    extended_errors: bool = False
    max_pairs: int = MAX_PAIRS
    max_bytes: int = MAX_BYTES
    budget: Budget = field(default_factory=Budget, compare=False)

    def frame(self, count: int) -> Pairs:
        """What takes the pairs of a request, and keeps those that somebody judges."""
        return Pairs(
            count,
            max_pairs=self.max_pairs,
            max_bytes=self.max_bytes,
            keeps=self._is_judged,
            budget=self.budget,
        )

    def _is_judged(self, key: str) -> bool:
        own = key in (REQUIRE, REPLY_CODES)
        return own or any(is_of_kind(key, name) for name in self.keys)

    def knows(self, key: str) -> bool:
        """Whether the listener acts on this key."""
        own = key in (REQUIRE, REPLY_CODES)
        judges = (handler for name, handler in self.keys.items() if is_of_kind(key, name))
        return own or any(getattr(judge, "knows", _always)(key) for judge in judges)


def _always(key: str) -> bool:
    return True


def key_list(keys: Iterable[str]) -> bytes:
    """The value that names these keys.

    Many long ones may not fit one value: then the list is cut at a comma. Of ACCEPTED that is the
    safe side, and of UNSUPPORTED it is enough to be refused.
    """
    text = ",".join(keys)
    return (text if len(text) <= 0xFFFF else text[:0xFFFF].rpartition(",")[0]).encode("ascii")


def check_credentials(pairs: KeyValues, role: Role) -> Credentials | None:
    """The USERNAME and PASSWD among the pairs, None if there are neither.

    Raises ProtocolError for one that comes twice, and for an extended format of user name that is
    not understood. On a transport's port names have no format.
    """
    for key in (USERNAME, PASSWD):
        if len(pairs.of_kind(key)) > 1:
            raise _refused("a key came twice")
    username, password = pairs.get(USERNAME), pairs.get(PASSWD)
    if username is None and password is None:
        return None
    credentials = Credentials(username or b"", password or b"")
    if role is Role.TOR and not userpass.is_known_format(credentials):
        raise _refused("unknown format of extended credentials")
    return credentials


def judge(pairs: KeyValues, rules: ExtendedRules, role: Role) -> KeyValues:
    """The pairs of the success response. Raises ProtocolError, whose answer has STATUS 02."""
    try:
        _check_repeats(pairs, rules)
        _check_required(pairs.get(REQUIRE), rules)
        answers = list(_hear(pairs, rules))
        codes = _choose_codes(pairs.get(REPLY_CODES), rules, role)
    except InvalidArguments as error:
        raise _refused(str(error), error.pairs) from None
    accepted = key_list(key for key in pairs.names if rules.knows(key))
    own = [(ACCEPTED, accepted), (REPLY_CODES, codes.value.encode("ascii"))]
    return KeyValues.of([*own, *answers])


def _refused(reason: str, pairs: KeyValues | None = None) -> ProtocolError:
    answer = INVALID_ARGUMENTS
    # What a handler says may not fit: the refusal must reach the client all the same.
    with contextlib.suppress(ValueError):
        answer = build_response(ExtendedStatus.INVALID_ARGUMENTS, pairs)
    return ProtocolError(reason, answer)


def _check_repeats(pairs: KeyValues, rules: ExtendedRules) -> None:
    if len(pairs.names) == len(pairs):
        return
    single = [name for name in rules.keys if not name.endswith(".")]
    for key in (REQUIRE, REPLY_CODES, *single):
        if len(pairs.of_kind(key)) > 1:
            raise InvalidArguments("a key came twice")


def _check_required(value: bytes | None, rules: ExtendedRules) -> None:
    if not value:
        return
    names = value.decode("latin-1").split(",")
    if not all(_NAME.match(name) for name in names):
        raise InvalidArguments("REQUIRE is no list of keys")
    unknown = [name for name in names if not rules.knows(name)]
    if unknown:
        pairs = KeyValues.of({UNSUPPORTED: key_list(unknown)})
        raise InvalidArguments("a required key is not known", pairs)


def _hear(pairs: KeyValues, rules: ExtendedRules) -> Iterator[tuple[str, bytes]]:
    for name, handler in rules.keys.items():
        given = pairs.of_kind(name)
        if given:
            yield from handler(given)


def _choose_codes(value: bytes | None, rules: ExtendedRules, role: Role) -> CodeSet:
    try:
        asked = parse_code_set(value)
    except ValueError:
        raise InvalidArguments("REPLY_CODES names no set of codes") from None
    return code_set(role, rules.extended_errors, offered=True, asked=asked)
