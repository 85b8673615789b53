"""HTML elements, with all text escaped, and numbers in words that a person reads."""

from __future__ import annotations

from html import escape
from math import log10


class Html(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def element(name: str, *content: object, **attributes: object) -> Html:
    """Return an element with this content; text is escaped unless it is ``Html``.

    ``class_`` is the attribute class, ``aria_label`` aria-label. What is None is left out.
    """
    found = [name]
    for key, value in attributes.items():
        if value is not None:
            found.append(f'{key.rstrip("_").replace("_", "-")}="{escape(str(value))}"')
    return Html(f"<{' '.join(found)}>{join(*content)}</{name}>")


def join(*content: object) -> Html:
    """Return pieces of HTML and text, one after the other."""
    return Html("".join(it if isinstance(it, Html) else escape(str(it)) for it in content))


def count(number: float | None) -> str:
    """Return a whole number with its thousands apart; a dash where there is none."""
    if number is None:
        return "\u2013"
    return f"{number:,.0f}".replace(",", "\u202f")


def size(number: float) -> str:
    """Return a number of bytes in a unit that suits it."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = 0 if number < 1 else min(int(log10(number) / 3 + 1e-9), len(units) - 1)
    scaled = number / 1000**power
    return f"{scaled:.{1 if power and scaled < 10 else 0}f} {units[power]}"


def rate(number: float) -> str:
    """Return a number of events a second."""
    return f"{number:.1f}" if 0 < number < 10 and number % 1 else count(number)


def share(part: float, whole: float) -> str:
    """Return a part of a whole in per cent."""
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "under 0.1 %"
    return f"{percent if part == whole else min(percent, 99.9):.1f} %"


def duration(seconds: float) -> str:
    """Return a time that has passed, in one unit, so that it seldom changes."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{seconds // length:.0f} {unit}"
    return "under 1 min"


def flag(country: str) -> Html:
    """Return the flag of a country with its two letters; nothing where it is unknown."""
    if len(country) != 2 or not country.isascii() or not country.isalpha():
        return Html("")
    letters = country.upper()
    sign = "".join(chr(0x1F1E6 + ord(letter) - ord("A")) for letter in letters)
    return join(element("span", sign, class_="flag", aria_hidden="true"), element("abbr", letters))
