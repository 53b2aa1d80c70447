"""The purchases of the file, in the order of their days."""

from __future__ import annotations

import lzma
from datetime import date
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).parent.parent / "data" / "cdnow.txt.xz"
TITLES = 500


class Purchase(NamedTuple):
    """One line of the file. `order_id` is its place in the order of the days, from 1."""

    order_id: int
    customer: int
    day: date
    cds: int
    cents: int

    @property
    def title(self) -> int:
        """The file does not tell what was bought: any title, but always the same one."""
        return self.order_id * 7919 % TITLES + 1


def read(first: int | None = None, file: Path = FILE) -> list[Purchase]:
    """All purchases, or the first so many. Those of one day stand as in the file."""
    with lzma.open(file, "rt", encoding="ascii") as lines:
        next(lines)
        rows = sorted((line.split() for line in lines), key=itemgetter(1))
    return [
        Purchase(number, int(customer), _day(day), int(cds), _cents(dollars))
        for number, (customer, day, cds, dollars) in enumerate(rows[:first], 1)
    ]


def _day(text: str) -> date:
    return date(int(text[:4]), int(text[4:6]), int(text[6:]))


def _cents(text: str) -> int:
    dollars, _, cents = text.partition(".")
    return int(dollars) * 100 + int(cents)
