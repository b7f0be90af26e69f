"""Numbers as people read them: one way to write each kind, in the terminal and on the page."""

from __future__ import annotations

from fedllm.eval.stats import Interval

DASH = "–"
UNITS = ("B", "kB", "MB", "GB", "TB")


def percent(share: float, digits: int = 0) -> str:
    """``0.714`` is ``71 %``."""
    return f"{100 * share:.{digits}f} %"


def measured(interval: Interval, measure: str) -> str:
    """The mean of a ``loss`` (nats per token) or a ``score`` (share of right responses)."""
    return f"{interval.mean:.3f}" if measure == "loss" else f"{100 * interval.mean:.0f} %"


def bounds(interval: Interval, measure: str) -> str:
    """The interval's ends in the same unit, the unit itself left out."""
    if measure == "loss":
        return f"{interval.low:.2f}{DASH}{interval.high:.2f}"
    return f"{100 * interval.low:.0f}{DASH}{100 * interval.high:.0f}"


def size(count: float) -> str:
    """Bytes with a decimal unit: ``40432`` is ``40.4 kB``."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 else f"{value:.3g} {UNITS[unit]}"


def duration(seconds: float) -> str:
    """``75`` is ``1 min 15 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count(number: float) -> str:
    """``1840256`` is ``1.84 M``."""
    for limit, unit in ((1e9, " B"), (1e6, " M"), (1e4, " k")):
        if number >= limit:
            return f"{number / (1e3 if unit == ' k' else limit):.3g}{unit}"
    return f"{number:.0f}"


def listed(items: list[str]) -> str:
    """``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
