"""Writes the tables of ``docs/reference.md`` from the code: options, flags, errors."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from torsocks_tx import errors  # noqa: E402
from torsocks_tx.errors import OnionRefused, Refused, TransportRefused  # noqa: E402
from torsocks_tx.policy.listener import FLAGS, ListenerPolicy  # noqa: E402
from torsocks_tx.twistd.options import Options  # noqa: E402

DOCUMENT = ROOT / "docs" / "reference.md"

VALUES = {
    "listen": '"ENDPOINT [FLAG ...]"',
    "auth": "KIND:ARGUMENT",
    "tor": "launch|private|ENDPOINT",
    "tor-socks": "ENDPOINT",
    "tor-binary": "PATH",
    "tor-option": '"NAME VALUE"',
    "backend": "tor|direct",
    "early-data": "BYTES",
}
"""The placeholder of an option's value, where it does not follow from the name or default."""


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def text_of(function: object) -> str:
    """Return the docstring of an option's method, in one line."""
    return " ".join((function.__doc__ or "").split())


def usage_of(name: str, default: object) -> str:
    """Return an option with the placeholder of its value."""
    last = name.rpartition("-")[2]
    if name in VALUES:
        value = VALUES[name]
    elif last in ("file", "dir", "directory", "bytes"):
        value = last.upper()
    else:
        value = "SECONDS" if isinstance(default, float) else "N"
    # A bar would end the cell of the table.
    return f"`--{name} {value}`".replace("|", "\\|")


def options() -> str:
    """Every option of ``twistd torsocks`` with its default and what it means."""
    rows = [
        (
            usage_of(name, default),
            ""
            if default is None
            else f"{default:g}"
            if isinstance(default, float)
            else str(default),
            text,
        )
        for name, _short, default, text, *_ in Options.optParameters
    ]
    rows += [(f"`--{name}`", "off", text) for name, _short, text in Options.optFlags]
    for name in ("listen", "auth", "tor-option"):
        method = getattr(Options, "opt_" + name.replace("-", "_"))
        default = "`tcp:1080:interface=127.0.0.1`" if name == "listen" else ""
        rows.append((usage_of(name, default), default, text_of(method)))
    return table(("option", "default", "meaning"), sorted(rows))


def flags() -> str:
    """Every flag of a listener with its default and what it means."""
    policy = ListenerPolicy()
    rows = []
    for flag in FLAGS:
        on = getattr(policy.isolation if flag.isolation else policy, flag.field)
        rows.append((f"`{flag.name}`", "on" if on else "off", flag.purpose))
    together = "`NoIPv4Traffic NoIPv6Traffic NoDNSRequest` together"
    rows.append(("`OnionTrafficOnly`", "off", together))
    rows.append(("`SessionGroup=N`", "", "listeners with the same N may share circuits"))
    return table(("flag", "default", "meaning"), rows)


def refusals() -> list[type[Refused]]:
    """Every public class of refusal, in the order of the module."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    bases = (Refused, OnionRefused, TransportRefused)
    return [kind for kind in kinds if issubclass(kind, Refused) and kind not in bases]


def codes() -> str:
    """Every refusal with the codes that clients hear and the advice for them."""
    rows = []
    for kind in refusals():
        extended = ""
        if issubclass(kind, OnionRefused):
            extended = f"{kind.onion_code:02X}"
        elif issubclass(kind, TransportRefused):
            extended = f"{kind.transport_code:02X}"
        sentence = kind("").sentence
        rows.append(
            (f"`{kind.__name__}`", f"{kind.code:02X}", extended, kind.retry.name.lower(), sentence)
        )
    return table(("class in `torsocks_tx.errors`", "code", "extended", "retry", "meaning"), rows)


TABLES = {"options": options, "flags": flags, "codes": codes}


def filled(document: str) -> str:
    """Return the document with each table replaced between its two comments."""
    for name, make in TABLES.items():
        before, begin, rest = document.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not (begin and end):
            raise SystemExit(f"{DOCUMENT.name} has no place for the table of {name}")
        document = f"{before}{begin}{make()}\n{end}{after}"
    return document


def main() -> None:
    """Rewrite the document."""
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
