"""What a server makes of a request of method X'97' (proposal 229, section 2.1). No I/O.

The proposal leaves open what keys mean; ``docs/proposal-229.md`` says how that is settled here.
``REQUIRE`` and ``REPLY_CODES`` are known to every listener, all other keys are a table. The real
check of USERNAME and PASSWD is the caller's.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torsocks_tx.errors import InvalidArguments, ProtocolError
from torsocks_tx.socks import keyvalue, userpass
from torsocks_tx.socks.constants import CodeSet, ExtendedStatus, Role
from torsocks_tx.socks.messages import NO_PAIRS, Credentials, KeyValues, is_of_kind
from torsocks_tx.socks.replies import code_set, parse_code_set

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
    max_pairs: int = keyvalue.MAX_PAIRS
    max_bytes: int = keyvalue.MAX_BYTES
    budget: keyvalue.Budget = field(default_factory=keyvalue.Budget, compare=False)

    def frame(self, count: int) -> keyvalue.Pairs:
        """What takes the pairs of a request, and keeps those that somebody judges."""
        return keyvalue.Pairs(
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
    answer = keyvalue.INVALID_ARGUMENTS
    # What a handler says may not fit: the refusal must reach the client all the same.
    with contextlib.suppress(ValueError):
        answer = keyvalue.build_response(ExtendedStatus.INVALID_ARGUMENTS, pairs)
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
