"""Personal data in text: patterns, and checksums wherever the format has one.

A pattern alone takes any sixteen digits for a card, so what has a check digit must have the right
one: cards by Luhn (ISO/IEC 7812), IBANs by mod 97 (ISO 13616), dates by the calendar, addresses by
the standard library, social security numbers by the ranges that are issued. Names of people need a
model to be found and are measured by canaries instead.

`lookalike` draws another value of the same format that passes the same check; it is what an
attacker chooses among, and what leaves nothing but memory to choose by.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np

IBAN_MODULUS = 97
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
ATTEMPTS = 2000
"""Draws until a lookalike passes its check; one of 97 does for the rarest."""


@dataclass(frozen=True, slots=True)
class Found:
    """One piece of personal data: ``text[start:end] == value``."""

    kind: str
    value: str
    start: int
    end: int


def luhn(value: str) -> bool:
    """Whether the digits of ``value`` end in the right check digit."""
    digits = [int(c) for c in value if c.isdigit()]
    doubled = [d * 2 - 9 * (d > 4) for d in digits[-2::-2]]
    return any(digits) and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def iban(value: str) -> bool:
    """Whether ``value`` leaves 1 modulo 97 with its first four characters moved to the end."""
    text = value.replace(" ", "")
    turned = text[4:] + text[:4]
    return (
        15 <= len(text) <= 34
        and text[:2].isalpha()
        and int("".join(str(int(c, 36)) for c in turned)) % IBAN_MODULUS == 1
    )


def calendar(value: str) -> bool:
    """Whether ``value`` is a day that exists, in any usual order of day and month."""
    named = re.fullmatch(r"(\w+) (\d+), (\d+)|(\d+) (\w+) (\d+)", value)
    if named:
        month, day, year, day_first, month_second, year_last = named.groups()
        number = MONTHS.index(month or month_second) + 1
        return _exists(int(year or year_last), number, int(day or day_first))
    parts = [int(part) for part in re.split(r"[-/.]", value)]
    if parts[0] > 31:
        return _exists(*parts)
    day_one, day_two, year_number = parts
    return _exists(year_number, day_two, day_one) or _exists(year_number, day_one, day_two)


def social_security(value: str) -> bool:
    """Whether the number lies in the ranges that are issued."""
    area, group, serial = value.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def address(value: str) -> bool:
    """Whether ``value`` is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def phone(value: str) -> bool:
    """Whether there are as many digits as telephone numbers have (E.164)."""
    return 9 <= sum(c.isdigit() for c in value) <= 15


def _exists(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return 1800 <= year <= 2199


_MONTH = f"(?:{'|'.join(MONTHS)})"
KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (
        re.compile(r"\b[A-Za-z0-9][\w.+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}\b"),
        lambda value: ".." not in value,
    ),
    "iban": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), iban),
    "card": (re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])"), luhn),
    "ssn": (re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"), social_security),
    "ip": (
        re.compile(
            r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9A-Fa-f]{1,4}:){3,7}:?[0-9A-Fa-f]{1,4})"
            r"(?![\w:]|\.\d)"
        ),
        address,
    ),
    "date": (
        re.compile(
            r"(?<![\d/.-])(?:\d{4}-\d{2}-\d{2}|\d{1,2}[/.-]\d{1,2}[/.-]\d{4})(?![\d/-]|\.\d)"
            rf"|\b{_MONTH} \d{{1,2}}, \d{{4}}\b|\b\d{{1,2}} {_MONTH} \d{{4}}\b"
        ),
        calendar,
    ),
    "phone": (
        re.compile(
            r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,4}\)[ .-]?)?"
            r"\d{2,4}(?:[ .-]\d{2,4}){1,4}(?![\w-]|\.\d)"
        ),
        phone,
    ),
}
"""Kind -> pattern and check, the more telling pattern first."""


def recognise(text: str) -> list[Found]:
    """Personal data in ``text`` by position; no two overlap.

    What has the form of one kind and fails its check is not taken for a later kind.
    """
    found: list[Found] = []
    taken: list[tuple[int, int]] = []
    for kind, (pattern, valid) in KINDS.items():
        for match in pattern.finditer(text):
            begin, end = match.span()
            if all(end <= first or last <= begin for first, last in taken):
                taken.append((begin, end))
                if valid(match.group()):
                    found.append(Found(kind, match.group(), begin, end))
    return sorted(found, key=lambda one: one.start)


def canonical(found: Found) -> str:
    """The value without what may be written differently: spaces, hyphens, case."""
    return f"{found.kind}:{re.sub(r'[ ()-]', '', found.value).lower()}"


def lookalike(found: Found, rng: np.random.Generator) -> str | None:
    """Another value of the same format that passes the same check; ``None`` if none was drawn.

    Digits become digits and letters letters of the same case. A host name, an IBAN's country and
    the name of a month are as good as public: the first two stay, the third becomes another month.
    """
    fixed = len(found.value) - found.value.index("@") if found.kind == "email" else 0
    for _ in range(ATTEMPTS):
        value = _drawn(found, fixed, rng)
        if value != found.value and KINDS[found.kind][1](value):
            return value
    return None


def _drawn(found: Found, fixed: int, rng: np.random.Generator) -> str:
    value, end = found.value, len(found.value) - fixed
    if found.kind == "date":
        return _drawn_date(value, rng)
    begin = 2 if found.kind == "iban" else 0
    drawn = [_like(c, rng, hexadecimal=":" in value) for c in value[begin:end]]
    if found.kind == "ip" and "." in value:
        return ".".join(_octet(part, rng) for part in value.split("."))
    return value[:begin] + "".join(drawn) + value[end:]


def _drawn_date(value: str, rng: np.random.Generator) -> str:
    year = next(part for part in re.findall(r"\d+", value) if len(part) == 4)
    near = str(int(year) + int(rng.integers(-5, 6)))
    pieces = re.split(r"(\W+)", value)
    drawn = []
    for piece in pieces:
        if piece == year:
            drawn.append(near)
        elif piece in MONTHS:
            drawn.append(MONTHS[int(rng.integers(12))])
        elif piece.isdigit():
            drawn.append(_day_like(piece, rng))
        else:
            drawn.append(piece)
    return "".join(drawn)


def _day_like(piece: str, rng: np.random.Generator) -> str:
    low, high = (10, 32) if len(piece) == 2 and piece[0] != "0" else (1, 10)
    return str(int(rng.integers(low, high))).zfill(len(piece))


def _octet(part: str, rng: np.random.Generator) -> str:
    low = {1: 0, 2: 10}.get(len(part), 100)
    return str(int(rng.integers(low, min(256, 10 ** len(part)))))


def _like(character: str, rng: np.random.Generator, *, hexadecimal: bool = False) -> str:
    letters = "abcdef" if hexadecimal else "abcdefghijklmnopqrstuvwxyz"
    if character.isdigit():
        return str(int(rng.integers(10)))
    if character.isalpha():
        drawn = letters[int(rng.integers(len(letters)))]
        return drawn.upper() if character.isupper() else drawn
    return character
