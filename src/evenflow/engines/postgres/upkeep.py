"""Retention and compaction of PostgreSQL's log.

Retention moves the low end, which is one small update, and drops a segment when all of it stands before that. The last
segment is closed by time and size. A drop needs the table for itself for a moment: it waits for no more than
`LOCK_WAIT`, so that it holds up appends for no longer, and is tried again at the next turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from evenflow.drivers.postgres.errors import LOCK_TIMEOUT, PostgresError
from evenflow.drivers.postgres.link import Statement
from evenflow.engines.compaction import Seen, latest
from evenflow.engines.packs import Pack, pack_offsets
from evenflow.engines.postgres.making import Making
from evenflow.engines.postgres.tables import LogTables, Part, TopicState, decode
from evenflow.engines.postgres.wire import BEGIN, Wire
from evenflow.envelopes import packed

SEGMENTS = 8
"""A topic keeps about so many segments of its retention."""
LEAST_SECONDS = 60.0
LEAST_BYTES = 64 << 20
LOCK_WAIT = "set local lock_timeout = '200ms'"
_SLICE = 10
_DUPLICATE_TABLE = "42P07"


class Upkeep:
    """What `maintain` does. Looks at a few rows of topics that have facts, and no further if nothing is due."""

    def __init__(self, tables: LogTables, making: Making) -> None:
        self._tables = tables
        self._making = making
        self._text = tables.text

    async def maintain(self) -> None:
        """Do what is due. Raises `EngineUnavailable`."""
        ((*names,),) = await self._tables.ask((self._text("topics_to_maintain"), ()))
        for (name,) in names:
            state = await self._tables.topic(name)
            if state is not None:
                await self._topic(state)

    async def _topic(self, state: TopicState) -> None:
        retention, retention_bytes, compacted = state.facts
        keys = [key for each in state.log.generations for key in state.log.partitions(each.number)]
        parts = await self._tables.parts(keys)
        if retention is not None or retention_bytes is not None:
            await self._retain(state, parts)
            await self._segments(state)
        if compacted:
            for part in parts:
                await self._compact(part)

    # Retention.

    async def _retain(self, state: TopicState, parts: Sequence[Part]) -> None:
        """Move the low ends. What is looked up is asked for all partitions at once."""
        retention, retention_bytes, _ = state.facts
        asked: list[Statement] = []
        for part in parts:
            if retention is not None:
                asked.append((self._text("first_since", state.id), (part.serial, None, retention)))
            if retention_bytes is not None:
                asked.append((self._text("over_bytes", state.id), (part.serial, retention_bytes)))
        answers = await self._tables.ask(*asked)
        share = len(asked) // len(parts)
        moves = []
        for n, part in enumerate(parts):
            found = [row[0] for rows in answers[n * share : (n + 1) * share] for row in rows]
            if max(found, default=0) > part.low:
                moves.append((self._text("move_low"), (part.serial, max(found))))
        if moves:
            async with self._making.aside() as wire:
                await wire.transaction(moves)
            await self._tables.bounds(part.key for part in parts)

    async def _segments(self, state: TopicState) -> None:
        (rows,) = await self._tables.ask((self._text("segments", state.id), ()))
        retention, retention_bytes, _ = state.facts
        for name, size, last, age in rows:
            segment = int(name.rpartition("_")[2])
            if segment != last:
                await self._drop(state, segment)
                continue
            old = retention is not None and age > max(LEAST_SECONDS, retention / SEGMENTS)
            limit = None if retention_bytes is None else retention_bytes * len(state.last)
            if (old and size > 0) or (limit is not None and size > max(LEAST_BYTES, limit / SEGMENTS)):
                await self.close_segment(state, last)

    async def close_segment(self, state: TopicState, last: int) -> None:
        """Let appends go to a new segment. Another process may be at the same."""
        new = last + 1
        async with self._making.aside() as wire:
            try:
                make = [(self._text(name, state.id, new), ()) for name in ("create_segment", "attach_segment")]
                await wire.run(make, before=(BEGIN, LOCK_WAIT), after=("commit",))
            except PostgresError as error:
                if error.sqlstate == LOCK_TIMEOUT:
                    return
                if error.sqlstate != _DUPLICATE_TABLE:  # else somebody was stopped between the two
                    raise
        async with self._making.aside() as wire:
            lock = self._text("lock_topic"), (state.id,)
            roll = [(self._text(name, state.id, new), ()) for name in ("roll_partitions", "roll_topic")]
            await wire.transaction([lock, *roll])

    async def _drop(self, state: TopicState, segment: int) -> None:
        (((over,),),) = await self._tables.ask((self._text("segment_is_over", state.id, segment), ()))
        if not over:
            return
        async with self._making.aside() as wire:
            try:
                drop = self._text("drop_segment", state.id, segment), ()
                await wire.run([drop], before=(BEGIN, LOCK_WAIT), after=("commit",))
            except PostgresError as error:
                if error.sqlstate != LOCK_TIMEOUT:
                    raise

    # Compaction.

    async def _compact(self, part: Part) -> None:
        """Keep the last event of each key, when as much is new as was left the last time."""
        (((clean_to, clean, end),),) = await self._tables.ask((self._text("compaction", part.topic), (part.serial,)))
        if end - clean_to < max(1, clean):
            return
        seen: Seen = {}
        left, before = 0, end - 1
        async with self._making.aside() as wire:
            while rows := (await wire.run([(self._text("packs_back", part.topic), (part.serial, before, _SLICE))]))[0]:
                found = [decode(*row) for row in rows]
                left += await self._thin(wire, part, found, seen)
                before = rows[-1][0] - 1
            await wire.run([(self._text("compacted"), (part.serial, end, left))])
        self._tables.cache.clear()

    async def _thin(self, wire: Wire, part: Part, found: Sequence[Pack], seen: Seen) -> int:
        """Each row by itself, if it is still as it was read: another process may be at the same work."""
        left = 0
        changes: list[Statement] = []
        for one in found:
            kept = latest(list(one.envelopes), seen)
            left += len(kept)
            row = part.serial, one.last, len(one.envelopes)
            if not kept:
                changes.append((self._text("remove_pack", part.topic), row))
            elif len(kept) < len(one.envelopes):
                events = [one.envelopes[place] for place in kept]
                offsets = pack_offsets([one.offsets[place] for place in kept])
                changed = (len(kept), events[0].time, offsets, packed(events)[1])
                changes.append((self._text("rewrite_pack", part.topic), (*row, *changed)))
        if changes:
            await wire.run(changes)
        return left
