"""Judges arguments where they are given, so that no mistake waits for the first client."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

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
