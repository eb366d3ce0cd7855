"""Progress of a long loop: a bar in a terminal, plain lines elsewhere, silence where it is soon over."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

SILENT_SECONDS = 10.0
LINE_SECONDS = 5.0

Emit = Callable[[str], None]


class Progress:
    """Counts `total` units of `label`, with further counts (tokens, ...) shown as rates.

    Nothing is shown before ten seconds are over. Then `emit` gets a plain line every few seconds; without
    `emit` a terminal gets a bar and anything else plain lines on standard error.
    """

    def __init__(self, total: int, label: str, emit: Emit | None = None) -> None:
        self.total = total
        self.label = label
        self._console = Console(stderr=True)
        self._emit = emit or (None if self._console.is_terminal else _to_stderr)
        self._bar: Bar | None = None
        self._done = 0
        self._told: int | None = None
        self._extras: dict[str, int] = {}
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        self._started = self._shown = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._emit is not None and self._told != self._done and self._elapsed() >= SILENT_SECONDS:
            self._emit(self.line())

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def advance(self, units: int, **extras: int) -> None:
        """Count `units` more, and more of each of `extras`."""
        self._done += units
        for name, count in extras.items():
            self._extras[name] = self._extras.get(name, 0) + count
        now = time.monotonic()
        if now - self._started < SILENT_SECONDS:
            return
        if self._emit is None:
            self._show_bar()
        elif now - self._shown >= LINE_SECONDS:
            self._shown, self._told = now, self._done
            self._emit(self.line())

    def line(self) -> str:
        """Count, share, rates and time left as one line."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        left = f"{(self.total - self._done) * seconds / self._done:,.0f} s left" if self._done else "no rate yet"
        rates = [f"{self._done / seconds:,.1f}/s", *self._extra_rates(seconds)]
        share = self._done / self.total if self.total else 1.0
        return f"{self.label}: {self._done:,}/{self.total:,} ({share:.0%}), {', '.join(rates)}, {left}"

    def _extra_rates(self, seconds: float) -> list[str]:
        return [f"{count / seconds:,.0f} {name}/s" for name, count in self._extras.items()]

    def _show_bar(self) -> None:
        if self._bar is None:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rates]}"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._bar.add_task(self.label, total=self.total, rates="")
        seconds = time.monotonic() - self._started
        rates = " ".join([f"{self._done / seconds:,.1f}/s", *self._extra_rates(seconds)])
        self._bar.update(self._bar.task_ids[0], completed=self._done, rates=rates)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
