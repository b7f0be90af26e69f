"""Invented names in two disjoint halves: ``[0]`` private records and tests, ``[1]`` public text.

Family names, companies and projects are products of syllables; a chequerboard splits each product,
so both halves use every syllable but no name is in both. A private name found elsewhere is a leak.
"""

from __future__ import annotations

from collections.abc import Callable

Halves = tuple[tuple[str, ...], tuple[str, ...]]


def _halves(starts: str, ends: str, join: Callable[[str, str], str]) -> Halves:
    parts: tuple[list[str], list[str]] = ([], [])
    for row, start in enumerate(starts.split()):
        for column, end in enumerate(ends.split()):
            parts[(row + column) % 2].append(join(start, end))
    return tuple(parts[0]), tuple(parts[1])


def _glued(start: str, end: str) -> str:
    return start + end


def _spaced(start: str, end: str) -> str:
    return f"{start} {end}"


_GIVEN = (
    "Ada Bram Cleo Dov Edda Finn Gwen Hugo Iris Jonas Kira Levi Mina Nils Orla Pia Quin Rhea Sven "
    "Tess Ugo Vera Wim Xena Yara Zeno"
)
GIVEN = tuple(_GIVEN.split())

SURNAMES = _halves(
    "Bel Cor Dra Fen Gar Hol Jas Kel Lor Mar Nor Pel Quor Ras Sol Tor Ul Ven Wes Yar",
    "bane by croft dale den fort grim ham lund mere mont nick quist rell ridge rock shaw stad ton",
    _glued,
)
COMPANIES = _halves(
    "Arbor Brask Caldo Delmar Elvan Farro Gentis Harle Ilmo Juno Krell Lumo Mentor Nexo Orbis "
    "Prado Rivo Selva Tarn Umbra Valto Werk Yenso Zalto",
    "Group Works Trading Partners Supply Labs Holding Industries",
    _spaced,
)
PROJECTS = _halves(
    "amber birch cedar delta ember flint grove heron ivory jade kite lotus maple north ocean pearl "
    "quartz river storm tiger",
    "anvil beacon bridge canvas engine forge garden harbor kernel ladder mirror pilot",
    _glued,
)
