"""Writes tables of the documents from the code: options, flags, errors, answers by HTTP."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from torsocks_tx import errors  # noqa: E402
from torsocks_tx.errors import OnionRefused, ProxyFault, Refused, SOCKSError  # noqa: E402
from torsocks_tx.http.answers import MEANINGS, meaning_of  # noqa: E402
from torsocks_tx.policy.listener import FLAGS, VALUE_FLAGS, ListenerPolicy  # noqa: E402
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
    rows += [(f"`{flag.usage}`", "", flag.purpose) for flag in VALUE_FLAGS]
    return table(("flag", "default", "meaning"), rows)


def failures(base: type[SOCKSError]) -> str:
    """Every class of failure below ``base``, in the order of the module."""
    rows = []
    for kind in vars(errors).values():
        if not isinstance(kind, type) or not issubclass(kind, base) or kind in GROUPS:
            continue
        code = kind.onion_code if issubclass(kind, OnionRefused) else kind.transport_code
        extended = "" if code is None else f"{code:02X}"
        retry = kind.retry.name.lower()
        name, status = f"`{kind.__name__}`", str(meaning_of(kind()).status)
        rows.append((name, f"{kind.code:02X}", extended, status, retry, kind.blame, kind.sentence))
    head = ("`torsocks_tx.errors`", "code", "extended", "HTTP", "retry", "to blame", "meaning")
    return table(head, rows)


GROUPS = (Refused, ProxyFault, OnionRefused)


def answers() -> str:
    """What an HTTP client hears of each failure."""
    rows = [
        (f"`{kind.__name__}`", str(status), f"`torsocks_tx/{token}`", f"`{error}`")
        for kind, (status, error, token) in MEANINGS.items()
    ]
    return table(("failure", "status", "`Tor-Request-Failed`", "type of `Proxy-Status`"), rows)


TABLES = {
    DOCUMENT: {
        "options": options,
        "flags": flags,
        "refusals": lambda: failures(Refused),
        "proxy faults": lambda: failures(ProxyFault),
    },
    ROOT / "docs" / "http-connect.md": {"answers": answers},
}


def filled(path: Path) -> str:
    """Return a document with each of its tables replaced between its two comments."""
    document = path.read_text(encoding="utf-8")
    for name, make in TABLES[path].items():
        before, begin, rest = document.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not (begin and end):
            raise SystemExit(f"{path.name} has no place for the table of {name}")
        document = f"{before}{begin}{make()}\n{end}{after}"
    return document


def main() -> None:
    """Rewrite the documents."""
    for path in TABLES:
        path.write_text(filled(path), encoding="utf-8")


if __name__ == "__main__":
    main()
