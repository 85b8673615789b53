"""Writes the tables of ``docs/reference.md`` from the code: options, flags, errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from torsocks_tx import errors  # noqa: E402
from torsocks_tx.errors import OnionRefused, Refused, TransportRefused  # noqa: E402
from torsocks_tx.policy.listener import FLAGS, ListenerPolicy  # noqa: E402
from torsocks_tx.twistd.help import HELP, parse_help  # noqa: E402

DOCUMENT = ROOT / "docs" / "reference.md"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def options() -> str:
    """Every option of ``twistd torsocks`` with its default and what it means."""
    rows = []
    for topic in re.split(r"\n\n", HELP)[1:]:
        heading, _, entries = topic.partition(":\n")
        rows.append((f"**{heading}**", "", ""))
        # A bar would end the cell of the table.
        rows += [
            (f"`--{o.name} {o.value}".rstrip().replace("|", "\\|") + "`", o.default, o.text)
            for o in parse_help(entries + "\n")
        ]
    return table(("option", "default", "meaning"), rows)


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
