"""Revenue per month as bars of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from replay.places import Places

EIGHTHS = " ▏▎▍▌▋▊▉"


def months(folder: Path, places: Places) -> list[tuple[str, int]]:
    """Month and cents, from the database of analytics."""
    with places.open(folder, "analytics") as database:
        rows = database.execute("select month, cents from revenue_by_month order by month").fetchall()
    return [(month, cents) for month, cents in rows]


def chart(rows: Sequence[tuple[str, int]], width: int, *, blocks: bool = True) -> list[str]:
    """One line per month, at most `width` wide. Without `blocks` the bars are made of ASCII."""
    amounts = [f"${cents / 100:,.0f}" for _, cents in rows]
    most, amount = max((cents for _, cents in rows), default=0), max(map(len, amounts), default=0)
    room = max(width - len("1997-01  ") - 2 - amount, 10)
    return [
        f"{month}  {_bar(cents / most * room if most else 0, blocks=blocks):{room}}  {text:>{amount}}"
        for (month, cents), text in zip(rows, amounts, strict=True)
    ]


def _bar(length: float, *, blocks: bool) -> str:
    if not blocks:
        return "#" * round(length)
    whole, eighths = divmod(round(length * 8), 8)
    return "█" * whole + EIGHTHS[eighths].strip()
