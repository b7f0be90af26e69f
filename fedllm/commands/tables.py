"""Plain tables, JSON and sizes for the terminal."""

from __future__ import annotations

from typing import Any

import typer


def print_table(titles: list[str], rows: list[list[str]]) -> None:
    """Columns aligned by spaces; numbers to the right."""
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    for row in [titles, *rows]:
        cells = [
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())
    typer.echo("")


def print_json(value: Any) -> None:
    """Indented, keys sorted."""
    import json

    typer.echo(json.dumps(value, indent=2, sort_keys=True))


def human_bytes(count: float) -> str:
    """``83.9 MB``, in powers of a thousand."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
