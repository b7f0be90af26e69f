"""What a person sees while a run works: bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Tick = Callable[[str], None]
"""Advances a task by one; the text is shown behind the bar."""


@dataclass
class Watcher:
    """Shows stages and long tasks on ``console``; a quiet one shows nothing."""

    console: Console = field(default_factory=lambda: Console(stderr=True))
    quiet: bool = False
    plain_seconds: float = 10.0
    """Without a terminal, a running task prints a line this often."""

    def say(self, text: str) -> None:
        """Prints one line."""
        if not self.quiet:
            self.console.print(text, highlight=False)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Tick]:
        """A task of ``total`` steps; yields the function that advances it."""
        if self.quiet:
            yield lambda _: None
        elif self.console.is_terminal:
            with self._bar(title, total) as tick:
                yield tick
        else:
            with self._lines(title, total) as tick:
                yield tick

    @contextmanager
    def _bar(self, title: str, total: int) -> Iterator[Tick]:
        columns = (
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, refresh_per_second=4) as progress:
            task = progress.add_task(title, total=total, note="")

            def tick(note: str) -> None:
                progress.update(task, advance=1, note=note)

            yield tick

    @contextmanager
    def _lines(self, title: str, total: int) -> Iterator[Tick]:
        start = last = time.monotonic()
        done, note = 0, ""

        def tick(text: str) -> None:
            nonlocal last, done, note
            done, note = done + 1, text
            now = time.monotonic()
            if now - last >= self.plain_seconds and done < total:
                last = now
                self.say(f"{title}: {done}/{total} {note}")

        yield tick
        seconds = time.monotonic() - start
        self.say(f"{title}: {done}/{total} {note} ({seconds:.1f} s)")
