"""What a waiting group has in hand of one partition: the events beyond its position, and which of them are done."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec

from evenflow.envelope import Envelope
from evenflow.failure import Failure
from evenflow.parking import ParkedRow
from evenflow.position import Owned, Taking
from evenflow.unit_of_work import UnitOfWork
from evenflow.work import Progress


class Job(msgspec.Struct, eq=False):
    """One event on its way through its lane. `row` is set when it is in the parking lot.

    begun      its handler was called, or need not be
    ended      it has told how it ended
    held       it is being parked while it goes on
    set_aside  it is to be parked behind an earlier one of its key
    due        when its handler has to be through with it; late: how often it was told so
    earlier    how its last attempt in place has failed; failure: what follows from its error
    turns      how many of its lane have followed each other without another lane's turn
    """

    owned: Owned
    offset: int
    envelope: Envelope
    lane: str
    binding: Any
    row: ParkedRow | None = None
    unit: UnitOfWork | None = None
    error: BaseException | None = None
    begun: bool = False
    ended: bool = False
    held: bool = False
    set_aside: bool = False
    due: float = 0.0
    late: int = 0
    coroutine: Any = None
    earlier: Failure | None = None
    failure: Failure | None = None
    turns: int = 0

    @property
    def place(self) -> int | str:
        """Its key among the open events of a window: an offset, or the lane that it is the parked head of."""
        return self.offset if self.row is None else self.lane

    @property
    def attempt(self) -> int:
        """Which attempt its present call is."""
        if self.earlier is not None:
            return self.earlier.attempt + 1
        return 1 if self.row is None else self.row.attempt

    @property
    def waits_to_be_parked(self) -> bool:
        """Whether it is through, or not to be begun, and not in the parking lot yet."""
        return self.row is None and (self.set_aside or (self.error is not None and self.failure is not None))

    @property
    def bare(self) -> bool:
        """Whether nothing is to be written for it but that it is done."""
        if self.error is not None or self.row is not None or self.held or self.set_aside:
            return False
        return self.unit is None or not (self.unit.statements or self.unit.published)


@dataclass(slots=True, eq=False)
class Window:
    """What is fetched of one partition and not yet covered by its position, in order."""

    owned: Owned
    next: int
    taking: Taking
    entries: deque[tuple[int, Envelope, int]] = field(default_factory=deque)
    """Offset, envelope, offset to read on from."""
    lanes: dict[str, deque[Job]] = field(default_factory=dict)
    """By lane what is to be run, in order; its first is being run, or waits for a place."""
    open: dict[int | str, Job] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    """Lanes that there was no place for in the parking lot: nothing of them is parked before it is tried again."""
    done: set[int] = field(default_factory=set)
    """Offsets at or beyond the position."""
    ended: int = 0
    """Handlers that have ended well since the last settle, with nothing to be written."""
    strangers: Progress | None = None
    suspects: int = 0
    """Events before this offset may be what ended the last processes."""

    def parked(self) -> list[str]:
        """The lanes whose parked head is in hand."""
        if not self.owned.lanes:
            return []
        return [place for place in self.open if type(place) is str]

    @property
    def passable(self) -> bool:
        """Whether the position can move."""
        return bool(self.entries) and self.entries[0][0] in self.done

    def advance(self, progress: Progress, done: set[int], *, dense: bool) -> int:
        """Move the position over everything that is done in order; marks follow it. How many entries that is."""
        count, envelope, after = 0, None, progress.next
        producer, slots, taking = "", {}, progress.taking
        for offset, each, following in self.entries:
            if offset not in self.done and offset not in done:
                break
            count, envelope, after = count + 1, each, following
            if each.producer != producer:
                producer = each.producer
                slots = taking.slots(producer) if producer else {}
            if producer:
                if slots.get(each.slot) == each.number - 1:
                    slots[each.slot] = each.number
                else:
                    taking.take(producer, each.slot, each.number, dense=dense)
        if envelope is not None:
            progress.next, progress.last_id = after, envelope.id
        return count

    def passed(self, count: int, done: set[int]) -> None:
        """So many entries are covered by the position now; of the others these are done, too."""
        self.done |= done
        for _ in range(count):
            self.done.discard(self.entries.popleft()[0])
