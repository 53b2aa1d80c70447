"""What is written where: data to stdout, everything else to stderr, colours only for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from evenflow.errors import EvenflowError

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


def out(text: str = "") -> None:
    """A line of data. Raises `OutputLost`."""
    try:
        print(text)
    except OSError as error:
        raise _lost(error) from error


def flush() -> None:
    """Let go of what `out` has kept back. Raises `OutputLost`."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise _lost(error) from error


def _lost(error: OSError) -> OSError | EvenflowError:
    if isinstance(error, BrokenPipeError):
        return error
    from evenflow.cli.failures import OutputLost

    let_stdout_go()
    return OutputLost(f"the output cannot be written: {error.strerror}", remedy="make room, or send it elsewhere")


def say(text: str = "") -> None:
    """A line for a person."""
    print(text, file=sys.stderr)


def out_json(value: Any) -> None:
    """One JSON document, in stable order of its fields."""
    import msgspec

    out(msgspec.json.format(msgspec.json.encode(value)).decode())


def coloured(stream: TextIO) -> bool:
    """Whether this stream is a terminal that wants colours."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """The text in a colour, where the stream (stdout) takes colours."""
    wanted = coloured(stream or sys.stdout)
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if wanted and text else text


def filled(text: str, indent: str = "") -> str:
    """Paragraphs, laid out for the width of the terminal."""
    import shutil
    import textwrap

    width = min(100, shutil.get_terminal_size().columns)
    parts = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n\n".join(
        textwrap.fill(part, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        for part in parts
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], colours: Sequence[str] | None = None) -> None:
    """Columns as wide as needed; numbers to the right. `colours` has one name, or "", per row."""
    lines = [["" if each is None else str(each) for each in row] for row in rows]
    numeric = [all(line[n].replace(",", "").isdigit() or not line[n] for line in lines) for n in range(len(head))]
    widths = [max(len(each[n]) for each in [list(head), *lines]) for n in range(len(head))]

    def laid(line: Sequence[str]) -> str:
        cells = [each.rjust(w) if n else each.ljust(w) for each, w, n in zip(line, widths, numeric, strict=True)]
        return "  ".join(cells).rstrip()

    out(paint(laid(head), "dim"))
    for place, line in enumerate(lines):
        colour = colours[place] if colours else ""
        out(paint(laid(line), colour) if colour else laid(line))


def fitted(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table as wide as the terminal: the last columns are cut. What was cut is in the JSON."""
    import shutil

    lines = [["" if each is None else str(each) for each in row] for row in rows]
    left = shutil.get_terminal_size().columns
    for place in range(len(head)):
        widest = max(len(each[place]) for each in [list(head), *lines])
        most = max(8, left - 6 * (len(head) - 1 - place)) if place < len(head) - 1 else max(8, left)
        for line in lines:
            line[place] = line[place] if len(line[place]) <= most else f"{line[place][: most - 1]}…"
        left -= min(widest, most) + 2
    table(head, lines)


def narrowed(head: Sequence[str], rows: Sequence[Sequence[str]], least: Sequence[int]) -> list[list[str]]:
    """The rows cut so that a table of them fits the terminal: the widest column first, none below its least width.

    What goes elsewhere than to a terminal stays whole, but where COLUMNS says how wide it is.
    """
    import shutil

    lines = [list(row) for row in rows]
    if not lines or not (sys.stdout.isatty() or os.environ.get("COLUMNS")):
        return lines
    widths = [max(len(line[n]) for line in [list(head), *lines]) for n in range(len(head))]
    over = sum(widths) + 2 * (len(widths) - 1) - shutil.get_terminal_size().columns
    while over > 0:
        room = [n for n, width in enumerate(widths) if width > max(least[n], len(head[n]))]
        if not room:
            break
        widths[max(room, key=lambda n: widths[n])] -= 1
        over -= 1
    return [[c if len(c) <= w else f"{c[: w - 1]}…" for c, w in zip(line, widths, strict=True)] for line in lines]


def wide() -> bool:
    """Whether there is room for more than the most needed: a terminal of 100 columns, or no terminal."""
    import shutil

    return not (sys.stdout.isatty() or os.environ.get("COLUMNS")) or shutil.get_terminal_size().columns >= 100


def duration(seconds: float | None) -> str:
    """A time span as a person says it."""
    if seconds is None:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def stamp(seconds: float | None, *, short: bool = False) -> str | None:
    """A Unix time as ISO 8601 in UTC."""
    from datetime import UTC, datetime

    if seconds is None:
        return None
    time = datetime.fromtimestamp(seconds, UTC)
    return f"{time:%Y-%m-%d %H:%M:%SZ}" if short else time.isoformat()


def when(seconds: float, now: float) -> str:
    """A Unix time as a person says it: in 3 d, or 5 min ago."""
    return f"in {duration(seconds - now)}" if seconds > now else f"{duration(now - seconds)} ago"


def let_stdout_go() -> None:
    """Nobody reads stdout any more: what is left in its buffer goes nowhere, without a word at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal; elsewhere `--yes` has to say it. Raises `UsageError` or `Declined`."""
    from evenflow.cli.failures import Declined, UsageError

    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("this needs a yes, and there is no terminal to ask on", remedy="add --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Declined("nothing was changed")
