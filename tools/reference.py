"""Writes tables of the documents from the code: options, flags, errors, answers by HTTP.

The manual page has those of them that a person at a terminal needs, and what the reference says of
signals and of the exit status.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from torsocks_tx import errors  # noqa: E402
from torsocks_tx.backends.tor.commands import COMMANDS, EVENTS  # noqa: E402
from torsocks_tx.errors import OnionRefused, ProxyFault, Refused, SOCKSError  # noqa: E402
from torsocks_tx.http.answers import MEANINGS, meaning_of  # noqa: E402
from torsocks_tx.policy.listener import FLAGS, VALUE_FLAGS, ListenerPolicy  # noqa: E402
from torsocks_tx.twistd.help import HELP, Option, parse_help  # noqa: E402

DOCUMENT = ROOT / "docs" / "reference.md"
MANUAL = ROOT / "docs" / "torsocks-tx.1"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def topics() -> Iterator[tuple[str, list[Option]]]:
    """Yield the headings of ``--help``, each with its options."""
    for topic in re.split(r"\n\n", HELP)[1:]:
        heading, _, entries = topic.partition(":\n")
        yield heading, parse_help(entries + "\n")


def options() -> str:
    """Every option of ``twistd torsocks`` with its default and what it means."""
    rows = []
    for heading, entries in topics():
        rows.append((f"**{heading}**", "", ""))
        # A bar would end the cell of the table.
        rows += [
            (f"`--{o.name} {o.value}".rstrip().replace("|", "\\|") + "`", o.default, o.text)
            for o in entries
        ]
    return table(("option", "default", "meaning"), rows)


def flag_rows() -> Iterator[tuple[str, str, str]]:
    """Yield every flag of a listener with its default and what it means."""
    policy = ListenerPolicy()
    for flag in FLAGS:
        on = getattr(policy.isolation if flag.isolation else policy, flag.field)
        yield f"`{flag.usage}`", "on" if on else "off", flag.purpose
    together = "`NoIPv4Traffic NoIPv6Traffic NoDNSRequest` together"
    yield "`OnionTrafficOnly`", "off", together
    yield from ((f"`{flag.usage}`", "", flag.purpose) for flag in VALUE_FLAGS)


def flags() -> str:
    """Every flag of a listener with its default and what it means."""
    return table(("flag", "default", "meaning"), flag_rows())


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


def roff(text: str) -> str:
    """Return Markdown of a table's cell as the manual page has it."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    for character, name in (("\\", r"\e"), ("-", r"\-"), ("'", r"\(aq"), ("~", r"\(ti")):
        text = text.replace(character, name)
    return re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)


def entry(term: str, text: str, default: str = "") -> str:
    """Return one entry of a list of the manual page."""
    text = roff(f"{text} The default is {default}." if default else text)
    return f".TP\n{roff(term)}\n\\&{text[0].upper()}{text[1:]}"


def manual_options() -> str:
    """Every option, by the headings of the help."""
    lines = []
    for heading, entries in topics():
        lines.append(f".SS {heading}")
        for option in entries:
            value = f" {option.value}" if option.value else ""
            lines.append(entry(f"`--{option.name}`{value}", option.text, option.default))
    return "\n".join(lines)


def manual_flags() -> str:
    """Every flag of a listener."""
    return "\n".join(
        entry(f"{name} ({default})" if default else name, f"{purpose}.")
        for name, default, purpose in flag_rows()
    )


def manual_rows(heading: str) -> str:
    """What the reference has in the table below a heading."""
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", section.partition("\n## ")[0], re.MULTILINE)
    return "\n".join(entry(term, f"{text}.") for term, text in rows[1:])


def commands() -> str:
    """Every command that is sent to tor's control port."""
    rows = ((f"`{c.form}`".replace(" }", "}"), c.when, c.why, c.lost) for c in COMMANDS)
    return table(("command", "when", "what for", "lost without it"), rows)


def events() -> str:
    """Every event that tor is asked for."""
    rows = ((f"`{name}`", e.when, e.why, e.lost) for name, e in EVENTS.items())
    return table(("event", "when", "what for", "lost without it"), rows)


def profile() -> str:
    """The profile of onion-grater that admits them; what it answers by itself is left out."""
    lines = ["---"]
    for key in ("- apparmor-profiles", "  users", "  hosts"):
        lines += [f"{key}:", "    - '*'"]
    lines.append("  commands:")
    admitted = [c for c in COMMANDS if c.word not in ANSWERED_BY_FILTERS]
    for word in dict.fromkeys(command.word for command in admitted):
        lines.append(f"    {word}:")
        lines += [f"      - '{c.arguments}'" for c in admitted if c.word == word]
    lines += ["  events:", *(f"    {name}:" for name in EVENTS)]
    return "\n".join(["```yaml", *lines, "```"])


ANSWERED_BY_FILTERS = ("PROTOCOLINFO", "AUTHCHALLENGE", "AUTHENTICATE", "TAKEOWNERSHIP")
"""What no profile has to admit: a filter has authenticated, and a tor of ours has no filter."""

TABLES = {
    DOCUMENT: {
        "options": options,
        "flags": flags,
        "refusals": lambda: failures(Refused),
        "proxy faults": lambda: failures(ProxyFault),
    },
    ROOT / "docs" / "http-connect.md": {"answers": answers},
    ROOT / "docs" / "control-port.md": {"profile": profile, "commands": commands, "events": events},
    MANUAL: {
        "options": manual_options,
        "flags": manual_flags,
        "signals": lambda: manual_rows("Signals"),
        "status": lambda: manual_rows("Exit status"),
    },
}


def filled(path: Path) -> str:
    """Return a document with each of its tables replaced between its two comments."""
    document = path.read_text(encoding="utf-8")
    comment = '.\\" {}\n' if path == MANUAL else "<!-- {} -->\n"
    for name, make in TABLES[path].items():
        before, begin, rest = document.partition(comment.format(name))
        _, end, after = rest.partition(comment.format(f"end of {name}"))
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
