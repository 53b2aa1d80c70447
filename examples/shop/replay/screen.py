"""What the person sees while the shop works: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from replay.figures import Look
from replay.purchases import Purchase

LINE_EVERY = 5.0
WIDEST = 100
SAID = 8
"""So many of the latest things that were said stand below the table."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the replay is. `settled`: orders that are paid or cancelled."""

    total: int
    placed: int
    settled: int
    latest: Purchase | None
    seconds: float


class Screen(Protocol):
    """Shows the replay. A context, which leaves the terminal as it was."""

    def __enter__(self) -> Screen: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, progress: Progress, look: Look) -> None: ...
    def say(self, line: str) -> None: ...


def screen_for(console: Console) -> Screen:
    """The live table where there is a terminal, else plain lines."""
    return LiveTable(console) if console.is_terminal and not console.is_dumb_terminal else Lines(console)


class LiveTable:
    """Progress bars, and per group what waits, the rate and the age of the oldest."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._said: deque[str] = deque(maxlen=SAID)

    def __enter__(self) -> LiveTable:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, progress: Progress, look: Look) -> None:
        """Draw it anew."""
        width = min(self._console.width, WIDEST)
        said = [Text(), *(Text(line, no_wrap=True, overflow="ellipsis") for line in self._said)] if self._said else []
        self._live.update(Group(_bars(progress, width), Text(), _groups(look, width), *said), refresh=True)

    def say(self, line: str) -> None:
        """It is below the table from the next drawing on."""
        self._said.append(line)


class Lines:
    """One line every few seconds, and one at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0
        self._last: tuple[Progress, Look] | None = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last is not None:
            self._say(*self._last)

    def show(self, progress: Progress, look: Look) -> None:
        """Say it, if it is time to."""
        self._last = (progress, look)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY
            self._say(progress, look)
            self._last = None

    def say(self, line: str) -> None:
        print(line, flush=True)

    def _say(self, progress: Progress, look: Look) -> None:
        longest = max(look.groups, key=lambda group: group.waiting)
        queue = f"; {longest.waiting:,} wait in {longest.group}" if longest.waiting else ""
        parked = sum(group.parked for group in look.groups)
        aside = f"; {parked:,} set aside, {look.dead:,} of them dead" if look.dead else ""
        day = f" to {progress.latest.day}" if progress.latest else ""
        print(
            f"{progress.seconds:4.0f} s  {progress.placed:,} of {progress.total:,} placed{day}, "
            f"{progress.settled:,} settled{queue}{aside}",
            flush=True,
        )


def _bars(progress: Progress, width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.width = width
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    day = "" if progress.latest is None else f"{progress.latest.day:%d %b %Y}"
    minutes, seconds = divmod(int(progress.seconds), 60)
    for name, count, note in (
        ("placed", progress.placed, day),
        ("settled", progress.settled, f"{minutes}:{seconds:02}"),
    ):
        bar = ProgressBar(progress.total, count, style="dim", complete_style="green", finished_style="green")
        table.add_row(name, bar, f"{count:,} of {progress.total:,}   {note:>11}")
    return table


def _groups(look: Look, width: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), width=width, header_style="dim", pad_edge=False)
    table.add_column("group", ratio=1, no_wrap=True)
    for name in ("waiting", "rate", "age", "parked", "dead"):
        table.add_column(name, justify="right", min_width=8, no_wrap=True)
    for each in look.groups:
        table.add_row(
            each.group,
            f"{each.waiting:,}" if each.waiting else Text("-", style="dim"),
            f"{each.rate:,.0f}/s" if each.rate >= 0.5 else Text("-", style="dim"),
            Text("-", style="dim") if each.age is None else f"{each.age:.1f} s",
            Text(f"{each.parked:,}", style="yellow") if each.parked else "",
            Text(f"{each.dead:,}", style="bold red") if each.dead else "",
        )
    return table
