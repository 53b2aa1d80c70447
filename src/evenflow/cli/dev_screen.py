"""What `evenflow dev` shows: a table that stays at the bottom of a terminal, or lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any, Protocol

from evenflow.cli.output import coloured

Group = dict[str, Any]

_HEAD = ("GROUP", "STATE", "RATE", "HANDLED", "WAITING", "PARKED", "LAST ERROR")
_PLAIN_EVERY = 2.0


class Screen(Protocol):
    """Where `dev` writes."""

    colours: bool

    def line(self, text: str, *, out: bool = False) -> None:
        """A line that stays: of the app (`out`: to its stdout), or of ours."""
        ...

    def state(self, text: str) -> None:
        """What is going on now."""
        ...

    def groups(self, groups: list[Group]) -> None:
        """How the groups stand now."""
        ...

    def close(self) -> None: ...


class Rates:
    """Events per second of each group, over about the last two seconds."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, int, float]] = {}

    def of(self, group: Group, now: float) -> float:
        """The rate, from this count and an earlier one. A count that fell is that of a new process."""
        name, handled = group["group"], group["handled"]
        at, count, rate = self._before.get(name, (now, handled, 0.0))
        if handled < count:
            at, count = now, 0
        if now - at >= 1.0:
            rate = (handled - count) / (now - at)
            at, count = now, handled
        self._before[name] = (at, count, rate)
        return rate


class Lines:
    """For a file or a pipe: a line per group where something has changed, at most every two seconds."""

    colours = False

    def __init__(self) -> None:
        self._told: dict[str, tuple[Any, ...]] = {}
        self._next = 0.0

    def line(self, text: str, *, out: bool = False) -> None:
        stream = sys.stdout if out else sys.stderr
        stream.write(f"{text}\n")
        stream.flush()

    def state(self, text: str) -> None:
        self.line(f"dev: {text}")

    def groups(self, groups: list[Group]) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        for each in groups:
            facts = (each["handled"], each["state"], each["parked"], each["error"])
            if self._told.get(each["group"], (0, each["state"], 0, "")) != facts:
                self._next = now + _PLAIN_EVERY
                self.line(f"dev: {summary(each)}")
            self._told[each["group"]] = facts

    def close(self) -> None: ...


def summary(group: Group) -> str:
    """A group in a line."""
    parked = f", {group['parked']} parked" if group["parked"] else ""
    dead = f" ({group['dead']} dead)" if group["dead"] else ""
    error = f": {_first(group['error'])}" if group["error"] else ""
    waiting = "?" if group["waiting"] is None else f"{group['waiting']:,}"
    state = "" if group["state"] == "running" else f"{group['state']}, "
    return f"{group['group']}: {state}{group['handled']:,} handled, {waiting} waiting{parked}{dead}{error}"


def _first(text: str) -> str:
    return text.strip().partition("\n")[0]


class Live:
    """A terminal: lines scroll by above, the table stays below. It never scrolls itself, and is never wrapped."""

    def __init__(self) -> None:
        self.colours = coloured(sys.stderr)
        self._stream = sys.stderr
        self._drawn = 0
        self._state = ""
        self._groups: list[Group] = []
        self._rates = Rates()

    def line(self, text: str, *, out: bool = False) -> None:  # noqa: ARG002  # one terminal for both
        if text.startswith("error:"):
            text = f"{self._paint('error', '31')}{text.removeprefix('error')}"
        self._write(f"{self._cleared()}{text}\n{self._table()}")

    def state(self, text: str) -> None:
        self._state = text
        self._write(self._cleared() + self._table())

    def groups(self, groups: list[Group]) -> None:
        self._groups = groups
        self._write(self._cleared() + self._table())

    def close(self) -> None:
        """Leave the last table where it is."""
        self._drawn = 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _cleared(self) -> str:
        return f"\x1b[{self._drawn}A\r\x1b[J" if self._drawn else ""

    def _table(self) -> str:
        size = shutil.get_terminal_size()
        lines = self._lines(size.columns)
        room = max(3, size.lines - 3)
        if len(lines) > room:
            lines = [*lines[: room - 1], (f"… {len(lines) - room + 1} more groups", "2")]
        self._drawn = len(lines)
        return "".join(f"{self._paint(_cut(text, size.columns), colour)}\n" for text, colour in lines)

    def _lines(self, width: int) -> list[tuple[str, str]]:
        now = time.monotonic()
        rows = [self._row(each, self._rates.of(each, now)) for each in self._groups]
        widths = [max(len(row[n]) for row in [_HEAD, *rows]) for n in range(len(_HEAD))]
        widths[0] = min(widths[0], max(16, width - sum(widths[1:6]) - 30))
        lines = [("─" * width, "2"), (self._state, "1")]
        if rows:
            lines.append((_laid(_HEAD, widths), "2"))
        for row, group in zip(rows, self._groups, strict=True):
            trouble = group["dead"] or group["state"] == "stopped"
            lines.append((_laid(row, widths), "31" if trouble else "33" if group["error"] else ""))
        return lines

    def _row(self, group: Group, rate: float) -> tuple[str, ...]:
        busy = "idle" if group["state"] == "running" and not group["waiting"] and not rate else group["state"]
        shown = f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.1f}/s"
        waiting = "?" if group["waiting"] is None else f"{group['waiting']:,}"
        dead = f" ({group['dead']} dead)" if group["dead"] else ""
        return (
            group["group"], busy, shown if rate else "-", f"{group['handled']:,}", waiting,
            f"{group['parked']:,}{dead}", _first(group["error"]),
        )  # fmt: skip

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours and code else text


def _laid(row: tuple[str, ...], widths: list[int]) -> str:
    numbers = (2, 3, 4)
    cells = [_cut(cell, w).rjust(w) if n in numbers else _cut(cell, w).ljust(w) for n, (cell, w) in
             enumerate(zip(row, widths, strict=True))]  # fmt: skip
    return "  ".join(cells).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"
