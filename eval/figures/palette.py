"""The colours of every figure, for light and dark, as CSS variables.

The same arm has the same colour everywhere, and so has the same client; hues stay apart for the
common forms of colour blindness.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

ARMS = ("full", "fedit", "fedit+random", "local", "centralised", "base")
"""Arms with a colour of their own; any other takes one of the clients' colours."""
COLOURS = 8
LIGHT = {
    "ink": "#1b2430",
    "muted": "#64707f",
    "line": "#e3e7ec",
    "page": "#f6f7f9",
    "card": "#ffffff",
    "soft": "#eef1f5",
    "good": "#12805c",
    "bad": "#b3261e",
    "pool": "#c3cad3",
    "arm-full": "#0b63ce",
    "arm-fedit": "#d9570b",
    "arm-fedit-random": "#0f8f6b",
    "arm-local": "#b0468d",
    "arm-centralised": "#4a5564",
    "arm-base": "#98a2af",
    **dict(
        zip(
            (f"c{i}" for i in range(COLOURS)),
            (
                "#0b63ce",
                "#d9570b",
                "#0f8f6b",
                "#b0468d",
                "#8a6d00",
                "#5b4bd1",
                "#00819b",
                "#a3352b",
            ),
            strict=True,
        )
    ),
}
DARK = {
    "ink": "#e8ecf1",
    "muted": "#97a3b2",
    "line": "#2b333e",
    "page": "#0e1217",
    "card": "#161b22",
    "soft": "#1f262f",
    "good": "#4cc79b",
    "bad": "#ff8a80",
    "pool": "#465160",
    "arm-full": "#62a8ff",
    "arm-fedit": "#ff9450",
    "arm-fedit-random": "#3fc79a",
    "arm-local": "#e58cc6",
    "arm-centralised": "#c3ccd8",
    "arm-base": "#7a8796",
    **dict(
        zip(
            (f"c{i}" for i in range(COLOURS)),
            (
                "#62a8ff",
                "#ff9450",
                "#3fc79a",
                "#e58cc6",
                "#e0bb3c",
                "#a79bff",
                "#46c4dd",
                "#ff8f85",
            ),
            strict=True,
        )
    ),
}


def arm_colour(name: str, others: Sequence[str] = ()) -> str:
    """The CSS colour of an arm."""
    if name in ARMS:
        return f"var(--arm-{name.replace('+', '-')})"
    return client_colour(list(others).index(name) if name in others else crc32(name.encode()))


def client_colour(number: int) -> str:
    """The CSS colour of the client at this place."""
    return f"var(--c{number % COLOURS})"


def variables(selector: str) -> str:
    """The colours as CSS variables for light and dark."""
    light = "".join(f"--{name}:{value};" for name, value in LIGHT.items())
    dark = "".join(f"--{name}:{value};" for name, value in DARK.items())
    return f"{selector}{{{light}}}@media (prefers-color-scheme:dark){{{selector}{{{dark}}}}}"
