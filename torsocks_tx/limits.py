"""What may be given: every deadline and bound of a server, and checks of arguments.

Arguments are judged where they are given, so that no mistake waits for the first client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

RENDEZVOUS_TIMEOUT = 45.0
"""Seconds that an onion service has to come to the rendezvous point; most take one. tor itself
waits 120 s and then replies 06."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The deadlines and bounds of one listener.

    ``handshake_timeout``: from the start of a connection to its complete request.
    ``connect_timeout``: from the request to its reply, for anything but onion services.
    ``onion_timeout``: the same for onion services. tor gives up by itself, after 166 s in the worst
    case that was seen, and later for services that ask for proof of work.
    ``idle_timeout``: how long an open stream may carry nothing at all; None: no limit.
    ``linger_timeout``: after the client has stopped sending, how long the remote may be silent. tor
    would lose the answer if it were told that the client sends no more, so only this timer ends the
    stream.
    ``linger_limit``: longest life of a stream whose client has stopped sending, with the time that
    the client takes to read what is left for it.
    ``drain_timeout``, ``drain_bytes``: after the last byte to a client, how long and how much it
    may still send before its connection is closed. Closing at once would reset the connection, and
    lose what the client has not read.
    ``early_data``: bytes taken from a client before its stream is open.
    ``extended_bytes``, ``extended_pairs``: what one extended authentication may hold.
    ``max_connections``: clients at one time; one more is closed at once. None: no limit (twistd:
    as many as descriptors allow).
    ``max_per_client``: the same for one client address (of IPv6: one /64 network). None: a quarter
    of ``max_connections`` for any address but 127.0.0.1 and ::1, which all programs of a machine
    share. Clients without an address, as of unix sockets, are not counted by it. One address that
    is counted, whether or not it has a limit, may be on the way to 32 onion services at one time:
    its further requests for them wait, up to ``onion_timeout``.
    """

    handshake_timeout: float = 30.0
    connect_timeout: float = 120.0
    onion_timeout: float = 600.0
    idle_timeout: float | None = None
    linger_timeout: float = 30.0
    linger_limit: float = 300.0
    drain_timeout: float = 2.0
    drain_bytes: int = 1024 * 1024
    early_data: int = 64 * 1024
    extended_bytes: int = 256 * 1024
    extended_pairs: int = 1024
    max_connections: int | None = None
    max_per_client: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                check_limit(field.name, value)


_WORDS = {
    "NoneType": "None",
    "bool": "True or False",
    "bytes": "bytes",
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "authenticator": "a function of Credentials, such as CredAuthenticator([checker])",
    "checkers": "a list, such as [checker]",
    "choose": "a function that returns the endpoint for a request",
    "transport": "a function that returns the endpoint for a Target",
    "Callable": "a function",
    "Iterable": "a list",
    "Mapping": "a dictionary",
    "PathLike": "a path",
    "IBackend": "an object that provides IBackend, such as TorBackend.from_tor(reactor, tor)",
    "IReactorTime": "a reactor",
    "IStreamClientEndpoint": (
        "a client endpoint, such as clientFromString(reactor, 'tcp:127.0.0.1:9050')"
    ),
    "TorProvider": "a TorProvider, such as RunningTorProvider(reactor, control_endpoint)",
}
"""What to call what is wanted, by the name of the argument or of its kind; else by the class."""


def check_arguments(*kinds: Any, **arguments: object) -> None:
    """Raise TypeError for an argument that is of none of these kinds, ValueError for empty text.

    ::

        check_arguments(Limits, None, limits=limits)

    Kinds are classes, interfaces of zope, and None. Text and bytes are no lists, and True is no
    number.
    """
    for name, given in arguments.items():
        if not any(_is_of(given, kind) for kind in kinds):
            words = (_words(name, kind) for kind in kinds if kind is not None)
            wanted = " or ".join(dict.fromkeys(words))
            raise TypeError(f"{name} must be {wanted}, not {type(given).__name__}")
        if given == "":
            raise ValueError(f"{name} must not be empty")


def _is_of(given: object, kind: Any) -> bool:
    if kind is None:
        return given is None
    if not isinstance(kind, type):
        return bool(kind.providedBy(given))
    is_strict = isinstance(given, str | bytes | bool)
    return isinstance(given, kind) and (not is_strict or kind in (str, bytes, bool))


def _words(name: str, kind: Any) -> str:
    return _WORDS.get(name) or _WORDS.get(kind.__name__) or f"of the class {kind.__name__}"


def check_flags(value: Any) -> None:
    """Raise TypeError for a field of a dataclass that is by default True or False, and now not."""
    flags = [field.name for field in fields(value) if isinstance(field.default, bool)]
    check_arguments(bool, **{name: getattr(value, name) for name in flags})


def check_grace(grace: float) -> None:
    """Raise TypeError or ValueError for what is no number of seconds, 0 or more."""
    check_arguments(int, float, grace=grace)
    if not 0 <= grace < math.inf:
        raise ValueError(f"grace must be a number of seconds, 0 or more, not {grace!r}")


def check_limit(name: str, value: object) -> None:
    """Raise ValueError if a value is no bound, or no number of seconds, as its name wants."""
    seconds = name.endswith(("_timeout", "_limit"))
    if isinstance(value, int | float if seconds else int) and 0 < value < math.inf:
        return
    kind = "a number of seconds" if seconds else "a whole number"
    raise ValueError(f"{name} must be {kind} above 0, not {value!r}")
