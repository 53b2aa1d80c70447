"""Positions and marks: how far a group is in a partition, and what it has taken from each producer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from evenflow.engine import Partition
from evenflow.envelope import BY_PLACE
from evenflow.envelopes import Envelopes
from evenflow.store import Row, Statement

MISSING_LIMIT = 1000
"""Missing numbers remembered per producer and slot; the oldest are forgotten (a late one then counts as taken)."""

FIRST_NUMBERS = 16
"""A process whose first number here is above 1, and no higher than this, may be heard of late with those below."""

PROCESS_PREFIX = "p-"
"""Producers that are one process, not a store: their marks may be forgotten when they are long gone."""

Highest = dict[str, dict[int, int]]


class Marks(msgspec.Struct, array_like=True):
    """Per producer and slot the highest number taken, and the few below it that have not come.

    `seen` is when each producer was last heard of, in Unix time. Dedup by marks costs a look-up and never expires.
    """

    highest: Highest = {}
    missing: dict[str, dict[int, list[int]]] = {}
    seen: dict[str, float] = {}

    def fork(self) -> Taking:
        """A copy to be changed by one transaction; this one stays as it is."""
        return Taking(self)

    def prune(self, before: float) -> None:
        """Forget processes that were last heard of before this time."""
        for producer in [p for p, at in self.seen.items() if at < before and p.startswith(PROCESS_PREFIX)]:
            for part in (self.highest, self.missing, self.seen):
                part.pop(producer, None)


class Taking:
    """Marks as one transaction changes them: copied producer by producer, at their first event."""

    __slots__ = ("base", "late", "missing", "touched")

    def __init__(self, base: Marks) -> None:
        self.base = base
        self.touched: Highest = {}
        self.missing: dict[str, dict[int, list[int]]] = {}
        self.late = 0

    def slots(self, producer: str) -> dict[int, int]:
        """The numbers of this producer by slot, free to be changed."""
        slots = self.touched.get(producer)
        if slots is None:
            slots = self.touched[producer] = dict(self.base.highest.get(producer, ()))
        return slots

    def take(self, producer: str, slot: int, number: int, *, dense: bool = True) -> bool:
        """Whether this number is to be run: False for a repeat. `dense` is False where a log may drop events.

        A missing number that comes late is run, and counted in `late`.
        """
        slots = self.slots(producer)
        last = slots.get(slot)
        if last is None or number == last + 1:
            slots[slot] = number
            if last is None and 1 < number <= FIRST_NUMBERS and dense and producer.startswith(PROCESS_PREFIX):
                self._missing(producer, slot).extend(range(1, number))
            return True
        if number > last:
            slots[slot] = number
            if dense:
                self._missing(producer, slot).extend(range(max(last + 1, number - MISSING_LIMIT), number))
                del self._missing(producer, slot)[:-MISSING_LIMIT]
            return True
        if number in self._missing(producer, slot):
            self._missing(producer, slot).remove(number)
            self.late += 1
            return True
        return False

    def take_run(self, envelopes: Envelopes, *, dense: bool = True) -> bool:
        """Take the numbers of a whole run. False where they are not all new; these marks are of no use then.

        Records that are known by their place alone are new.

        The hot path: nearly always each number follows the last of its slot.
        """
        producer = envelopes.producers
        if not isinstance(producer, str):
            each = zip(producer, envelopes.slots, envelopes.numbers, strict=True)
            return all(
                self.take(producer, slot, number, dense=dense) if producer else number == BY_PLACE
                for producer, slot, number in each
            )
        if not producer:
            return envelopes.numbers.count(BY_PLACE) == len(envelopes.numbers)
        slots = self.slots(producer)
        for slot, number in zip(envelopes.slots, envelopes.numbers, strict=True):
            if slots.get(slot) == number - 1:
                slots[slot] = number
            elif not self.take(producer, slot, number, dense=dense):
                return False
        return True

    def _missing(self, producer: str, slot: int) -> list[int]:
        by_slot = self.missing.get(producer)
        if by_slot is None:
            old = self.base.missing.get(producer, {})
            by_slot = self.missing[producer] = {each: list(numbers) for each, numbers in old.items()}
        return by_slot.setdefault(slot, [])

    def marks(self, now: float) -> Marks:
        """What they are when the transaction is committed."""
        if not self.touched:
            return self.base
        missing = {
            producer: kept
            for producer, slots in {**self.base.missing, **self.missing}.items()
            if (kept := {slot: numbers for slot, numbers in slots.items() if numbers})
        }
        seen = {**self.base.seen, **dict.fromkeys(self.touched, now)}
        return Marks({**self.base.highest, **self.touched}, missing, seen)


def merge(parts: list[Marks], keep: frozenset[int] | None = None) -> Marks:
    """Marks of several partitions as one, for these slots only: how they pass to another generation."""
    merged = Marks({}, {}, {})
    for part in parts:
        for producer, slots in part.highest.items():
            target = merged.highest.setdefault(producer, {})
            for slot, number in slots.items():
                if keep is None or slot in keep:
                    target[slot] = max(number, target.get(slot, 0))
        for producer, by_slot in part.missing.items():
            kept = {slot: numbers for slot, numbers in by_slot.items() if keep is None or slot in keep}
            merged.missing.setdefault(producer, {}).update(kept)
        for producer, at in part.seen.items():
            merged.seen[producer] = max(at, merged.seen.get(producer, 0.0))
    return merged


encode_marks = msgspec.msgpack.Encoder().encode
decode_marks = msgspec.msgpack.Decoder(Marks).decode
encode_settled = msgspec.msgpack.Encoder().encode
decode_settled = msgspec.msgpack.Decoder(list[int]).decode
NO_MARKS = encode_marks(Marks())
NONE_SETTLED = encode_settled([])


@dataclass(slots=True)
class Owned:
    """A partition that this process owns for a group: what its claim returned, and what it has become since."""

    group: str
    partition: Partition
    partitions: int
    log: str
    fence: int
    next: int
    last_id: str | None
    marks: Marks
    settled: set[int]
    claims: int = 0
    trying: int | None = None
    lanes: set[str] = field(default_factory=set)
    rebased: bool = False
    """Whether its due times were looked through for those of before the clock was set back."""
    doubted: int = 0
    """Parked lanes that were run as if they might end the process."""
    pending: int = 0
    """Chunks since marks were pruned."""

    @property
    def where(self) -> tuple[Any, ...]:
        """The key of its row, and the fence."""
        topic, generation, number = self.partition
        return (self.group, topic, self.log, generation, number, self.fence)

    @property
    def share(self) -> tuple[str, str, int, int]:
        """Group, topic, and the slots that it stands for: slot % partitions = number."""
        return (self.group, self.partition.topic, self.partitions, self.partition.number)


def claimed(group: str, partition: Partition, partitions: int, log: str, row: Row) -> Owned:
    """What `position_claim` returned, as a partition owned."""
    next_, last_id, marks, settled, fence, claims, trying = row
    return Owned(
        group=group,
        partition=partition,
        partitions=partitions,
        log=log,
        fence=fence,
        next=next_,
        last_id=last_id,
        marks=decode_marks(marks),
        settled=set(decode_settled(settled)),
        claims=claims,
        trying=trying,
    )


def guard(sql: str, owned: Owned) -> Statement:
    """The compare-and-set that is the first statement of every transaction of this partition."""
    return (sql, (*owned.where, owned.next))


def move(sql: str, owned: Owned, to: int, last_id: str | None, marks: Marks, settled: list[int]) -> Statement:
    """The statement that moves the position."""
    return (sql, (*owned.where, to, last_id, encode_marks(marks), encode_settled(settled)))
