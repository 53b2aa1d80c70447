"""Reading the embedded engine's log: packs in order, and the questions that are asked of them. All of it is sync."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator

import apsw

from evenflow.engine import Backlog, Batch, Partition
from evenflow.engines.packs import Pack, PackCache, batch_from, unpack_offsets
from evenflow.engines.sqlite.packs import OFFSET_MASK, decode, ids_of
from evenflow.envelope import Envelope
from evenflow.sql import load

SQL = load("engine_sqlite")


class Part:
    """One partition as this process knows it, as of the last commit that it has seen."""

    __slots__ = ("gaps", "key", "low", "next", "serial", "time")

    def __init__(self, serial: int, key: Partition) -> None:
        self.serial = serial
        self.key = key
        self.low = 0
        self.next = 0
        self.time = 0.0
        self.gaps = False


class PackReader:
    """Packs and events of partitions, through a connection that never writes."""

    def __init__(self, connection: apsw.Connection, cache: PackCache) -> None:
        self._connection = connection
        self.cache = cache

    def batch(self, part: Part, offset: int, limit: int, size: int) -> tuple[Batch, int]:
        """Events from an offset on, at least one if there is any. Whole packs are given without a copy."""
        packs = self._packs(part, offset)
        found = batch_from(part.key, packs, offset, limit, size, part.next)
        packs.close()
        return found

    def low(self, part: Part) -> int:
        """The first offset that is kept, as it stands now."""
        ((low, *_),) = self._connection.execute(SQL["state"], (part.serial,))
        return int(low)

    def before(self, part: Part, offset: int) -> tuple[int, Envelope] | None:
        """The last event at or before this offset, and where it stands."""
        while offset >= 0:
            row = self._connection.execute(SQL["pack_before"], ids_of(part.serial, 0, offset)).fetchone()
            if row is None:
                break
            pack = decode(row)
            place = bisect_right(pack.offsets, offset) - 1
            if place >= 0:
                return pack.offsets[place], pack.envelopes[place]
            offset = pack.first - 1
        return None

    def find(self, part: Part, time: float) -> int:
        """The first event whose pack was appended at or after this time."""
        facts = self.facts(part, self.first_since(part, time))
        return part.next if facts is None else facts[0]

    def first_since(self, part: Part, time: float) -> int:
        """An offset after all packs that were appended before this time. Times never fall, so it can be halved."""
        low, high = part.low, part.next
        while low < high:
            middle = (low + high) // 2
            facts = self.facts(part, middle)
            if facts is None or facts[2] >= time:
                high = middle
            else:
                low = facts[1] + 1
        return low

    def facts(self, part: Part, offset: int) -> tuple[int, int, float, float] | None:
        """First offset, last offset, time of append and oldest time of the next pack that begins at or after this."""
        row = self._connection.execute(SQL["facts_from"], ids_of(part.serial, offset)).fetchone()
        if row is None:
            return None
        first = row[0] & OFFSET_MASK if row[4] is None else unpack_offsets(row[4])[0]
        return first, row[1], row[2], row[3]

    def backlog(self, part: Part, offset: int) -> Backlog:
        """How many events wait from this offset on, and the time of the first."""
        offset = max(offset, part.low)
        if offset >= part.next:
            return Backlog(0, None)
        packs = self._packs(part, offset)
        pack = next(packs, None)
        packs.close()
        if pack is None:
            return Backlog(0, None)
        place = pack.place(offset)
        if not part.gaps:
            return Backlog(part.next - offset, pack.envelopes[place].time)
        ((later,),) = self._connection.execute(SQL["count_from"], ids_of(part.serial, pack.last + 1))
        return Backlog(len(pack.envelopes) - place + later, pack.envelopes[place].time)

    def _packs(self, part: Part, offset: int) -> Generator[Pack]:
        """Packs in order, from the one that holds this offset on; none of them lacks events at or after it."""
        base, end = ids_of(part.serial)
        row = base | offset
        self.cache.asked = True
        if row not in self.cache:
            place = self._connection.execute(SQL["place_before"], (base, row)).fetchone()
            if place is not None and place[1] >= offset:
                row = place[0]
        while (pack := self.cache.get(row)) is not None:
            if pack.offsets[-1] >= offset:
                yield pack
            row = base | (pack.last + 1)
        cursor = self._connection.execute(SQL["packs_from"], (row, end))
        try:
            for found in cursor:
                pack = self.cache.get(found[0])
                if pack is None:
                    pack = decode(found)
                    self.cache.put(found[0], pack)
                if pack.offsets[-1] >= offset:
                    yield pack
        finally:
            cursor.close(True)
