"""Questions about places in PostgreSQL's log: what stands at an offset, since a time, and how much waits behind one."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping

from evenflow.engine import Backlog, Partition
from evenflow.engines.packs import unpack_offsets
from evenflow.engines.postgres.tables import LogTables, by_topic, decode
from evenflow.envelope import Envelope


async def last_at(tables: LogTables, partition: Partition, offset: int) -> tuple[int, Envelope] | None:
    """The last event at or before this offset, and where it stands."""
    (part,) = await tables.parts([partition])
    around = tables.text("packs_around", part.topic), (part.serial, offset)
    rows, ends = await tables.ask(around, *tables.ask_bounds([part]))
    tables.took_bounds([ends])
    for row in sorted(rows, key=lambda row: -int(row[0])):
        pack = decode(*row)
        place = bisect_right(pack.offsets, offset) - 1
        if place >= 0:
            return (pack.offsets[place], pack.envelopes[place]) if pack.offsets[place] >= part.low else None
    return None


async def first_since(tables: LogTables, partition: Partition, time: float) -> int:
    """The first event that was appended at or after this time, by the server's clock."""
    (part,) = await tables.parts([partition])
    (((first,),),) = await tables.ask((tables.text("first_since", part.topic), (part.serial, time, None)))
    rows, ends = await tables.ask(
        (tables.text("place_of", part.topic), (part.serial, first)), *tables.ask_bounds([part])
    )
    tables.took_bounds([ends])
    for last, count, offsets in rows:
        places = range(last - count + 1, last + 1) if offsets is None else unpack_offsets(offsets)
        return int(places[bisect_left(places, max(first, part.low))])
    return part.next


async def backlog(tables: LogTables, positions: Mapping[Partition, int]) -> Mapping[Partition, Backlog]:
    """How many events wait from these positions on, and the times of the first ones."""
    parts = await tables.parts(positions)
    serials = {part.serial: part.key for part in parts}
    answers = await tables.ask(
        *(
            (tables.text("backlog", topic), ([part.serial for part in some], [positions[part.key] for part in some]))
            for topic, some in by_topic(parts).items()
        )
    )
    found = dict.fromkeys(positions, Backlog(0, None))
    for serial, low, end, gaps, last, count, oldest, offsets, body, later in (row for rows in answers for row in rows):
        key = serials[serial]
        offset = max(positions[key], low)
        if last is None or offset >= end:
            continue
        place, time = 0, oldest
        if body is not None:
            pack = decode(last, count, offsets, body)
            place = pack.place(offset)
            time = pack.envelopes[place].time
        found[key] = Backlog(count - place + later if gaps else end - offset, time)
    return found
