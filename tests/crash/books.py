"""What is known of each event, as the bits of one number: compact enough for millions, and for one look at all."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

TRIED, TX, ACKED, PLACED = 1, 2, 4, 8
"""The loader has tried it; in a transaction; was told that it is published; its business row is there."""
_FIRST = 4
_PLACES = {
    group: place
    for place, group in enumerate(("charge", "balance", "ledger", "again", "tally", "ship", "confirm", "parcel"))
}


def applied(group: str) -> int:
    return 1 << (_FIRST + 2 * _PLACES[group])


def parked(group: str) -> int:
    return 2 << (_FIRST + 2 * _PLACES[group])


def line_of(uid: str) -> str:
    """What is in order together: numbers rise in each such line. Those that a store draws are of no incarnation."""
    return uid.rpartition("/")[0]


def key_of(uid: str) -> str:
    return uid.partition("/")[0]


def number_of(uid: str) -> int:
    return int(uid.rpartition("/")[2])


class Books:
    """The state of every event, by its line and number."""

    def __init__(self) -> None:
        self._lines: dict[str, array[int]] = {}

    def mark(self, uid: str, bits: int) -> int:
        """Add to the state of an event; what it was before."""
        line, number = line_of(uid), number_of(uid)
        states = self._lines.get(line)
        if states is None:
            states = self._lines[line] = array("I")
        if number >= len(states):
            states.extend([0] * (number + 1 - len(states)))
        before = states[number]
        states[number] = before | bits
        return before

    def all(self) -> Iterator[tuple[str, int]]:
        """Every event of which anything is known."""
        for line, states in self._lines.items():
            for number, state in enumerate(states):
                if state:
                    yield f"{line}/{number}", state

    def having(self, bit: int) -> Iterator[str]:
        """Every event in whose state this bit is set."""
        return (uid for uid, state in self.all() if state & bit)
