"""Retention and compaction of the embedded engine's log, in short transactions."""

from __future__ import annotations

import asyncio

from evenflow.engines.compaction import Seen, latest
from evenflow.engines.packs import Pack, pack_offsets
from evenflow.engines.sqlite.log import LogFile
from evenflow.engines.sqlite.packs import OFFSET_MASK, decode, ids_of
from evenflow.engines.sqlite.reader import Part
from evenflow.envelopes import packed

_SLICE = 100
"""Packs that one transaction removes or looks at before others have their turn."""


async def maintain(file: LogFile) -> None:
    """Do what is due. Looks at one row per partition of topics that have facts, and no further if nothing is."""
    for (name,) in await file.reading(lambda: file.select("topics_to_maintain")):
        state = await file.reading(lambda name=name: file.topic(name))  # type: ignore[misc]  # mypy has no type for it
        if state is None:
            continue
        retention, retention_bytes, compacted = state.facts
        for key in (each for one in state.log.generations for each in state.log.partitions(one.number)):
            part = await file.reading(lambda key=key: file.part(key))  # type: ignore[misc]
            if retention is not None:
                await _remove_until(file, part, await _older_than(file, part, file.clock.now() - retention))
            if retention_bytes is not None:
                await _remove_until(file, part, await _over(file, part, retention_bytes))
            if compacted:
                await _compact(file, part)


async def _older_than(file: LogFile, part: Part, time: float) -> int:
    """The first offset that is young enough."""
    first = await file.reading(lambda: file.reader.facts(part, part.low))
    if first is None or first[2] >= time:
        return part.low
    return await file.reading(lambda: file.reader.first_since(part, time))


async def _over(file: LogFile, part: Part, limit: int) -> int:
    """The first offset of those whose packs fit into so many bytes; the last pack always does."""
    ((low, _, size, _, _),) = await file.reading(lambda: file.select("state", (part.serial,)))
    if size <= limit:
        return int(low)

    def first_that_fits() -> int:
        left, first = size, low
        last = file.select("place_before", ids_of(part.serial))
        for row, end, length in file.each("sizes_from", ids_of(part.serial)):
            if left <= limit or row == last[0][0]:
                break
            left -= length
            first = end + 1
        return int(first)

    return await file.reading(first_that_fits)


async def _remove_until(file: LogFile, part: Part, offset: int) -> None:
    """Remove all packs before this offset, and move the low end."""
    while part.low < offset:
        await file.write(lambda: _remove_some(file, part, offset))
        await asyncio.sleep(0)


def _remove_some(file: LogFile, part: Part, offset: int) -> None:
    begin, end = ids_of(part.serial, 0, offset - 1)
    beyond = file.execute("some_between", (begin, end, _SLICE))
    stop = offset if not beyond else int(beyond[0][0]) & OFFSET_MASK
    between = ids_of(part.serial, 0, stop - 1)
    ((size,),) = file.execute("size_between", between)
    file.execute("remove_between", between)
    file.execute("removed", (part.serial, stop, size))
    part.low = max(part.low, stop)


async def _compact(file: LogFile, part: Part) -> None:
    """Keep the last event of each key, when as much is new as was left the last time."""
    ((_, end, _, clean_to, clean),) = await file.reading(lambda: file.select("state", (part.serial,)))
    if end - clean_to < max(1, clean):
        return
    seen: Seen = {}
    left, before = 0, end - 1
    while before >= 0:
        found = await file.reading(lambda before=before: _slice_before(file, part, before))  # type: ignore[misc]
        if not found:
            break
        changes = []
        for one in found:
            kept = latest(list(one.envelopes), seen)
            left += len(kept)
            if len(kept) < len(one.envelopes):
                changes.append((one, kept))
        if changes:
            await file.write(lambda changes=changes: _rewrite(file, part, changes))  # type: ignore[misc]
        before = found[-1].first - 1
        await asyncio.sleep(0)
    await file.write(lambda: file.execute("compacted", (part.serial, end, left)))
    file.forget()


def _slice_before(file: LogFile, part: Part, offset: int) -> list[Pack]:
    found = []
    for row in file.each("packs_back", ids_of(part.serial, 0, offset)):
        found.append(decode(row))
        if len(found) == _SLICE // 10:
            break
    return found


def _rewrite(file: LogFile, part: Part, changes: list[tuple[Pack, list[int]]]) -> None:
    """Each row by itself, if it is still as it was read: another process may be at the same work."""
    saved = 0
    for one, kept in changes:
        row, count = ids_of(part.serial, one.first)[0], len(one.envelopes)
        events = [one.envelopes[place] for place in kept]
        if not events:
            changed = file.execute("remove_pack", (row, count))
            saved += one.bytes if changed else 0
        else:
            _, body = packed(events)
            offsets = pack_offsets([one.offsets[place] for place in kept])
            changed = file.execute("rewrite_pack", (row, count, len(kept), events[0].time, offsets, body))
            saved += one.bytes - len(body) if changed else 0
        file.reader.cache.drop(row)
    file.execute("shrunk", (part.serial, saved))
