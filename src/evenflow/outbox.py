"""The outbox: events that a transaction publishes, and the relay that moves them to the engine in commit order.

One process of a service relays at a time: whoever owns the relay's position row, under its fence. A crash between an
append and the removal of its rows appends them again with the same numbers, which every group drops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from evenflow.clock import Clock, Signal
from evenflow.engine import Engine, Outcome, Partition
from evenflow.envelope import Envelope, pack, unpack
from evenflow.errors import EngineUnavailable, EvenflowError, FenceLost, OutboxFull, StoreUnavailable
from evenflow.ids import new_id, new_ids, slot_of
from evenflow.position import Owned, guard
from evenflow.registry import SIZE_LIMIT, Registry
from evenflow.store import Row, Session, Store

if TYPE_CHECKING:
    from evenflow.protection.backpressure import Gates
    from evenflow.unit_of_work import Added, UnitOfWork

log = logging.getLogger("evenflow")
_json = msgspec.json.Encoder().encode

ROW_EVENTS = 1000
"""Events in one row of the outbox."""
RELAY_GROUP = "evenflow.relay"
RELAY_PARTITION = Partition("", 0, 0)
RELAY_ROWS = 50
RELAY_EVENTS = 5000
"""Events that the relay moves in one round, about; a round has at most `RELAY_ROWS` rows, and at least one."""
DUE_EVENTS = 1000
"""Events that fall due and are queued in one transaction."""
LIMIT_EVENTS = 1_000_000
LIMIT_BYTES = 1 << 30
POLL = 0.5
"""Seconds after which what should have been told is looked for by oneself."""


class Outbox:
    """The outbox of one service's store in this process: what its transactions publish through."""

    def __init__(
        self,
        source: str,
        store: Store,
        ready: Callable[[str], Awaitable[Engine]],
        place: Callable[[str], str],
        registry: Registry,
        clock: Clock,
        *,
        limit_events: int = LIMIT_EVENTS,
        limit_bytes: int = LIMIT_BYTES,
        event_limit: int = SIZE_LIMIT,
    ) -> None:
        self.source = source
        self.store = store
        self.registry = registry
        self.clock = clock
        self.event_limit = event_limit
        self.producer = ""
        self.gates: Gates | None = None
        self.full = False
        self.moved = 0
        self.moved_to = 0
        self.owned: Owned | None = None
        self.trouble = ""
        self._ready = ready
        self._place = place
        self._limits = (limit_events, limit_bytes)
        self.mine: dict[int, tuple[str, frozenset[int]]] = {}
        """Topic and slots of the rows that this process has committed and that are not in the engine yet."""
        self._joined: list[tuple[int, str, frozenset[int]]] = []
        self._removed = Signal()
        self._work = Signal()
        self._moving = False
        self._rows = RELAY_ROWS

    # -- what a unit of work asks -----------------------------------------------------------------------------------

    def fields(self, event: Any, id_: str, because: Envelope | None) -> tuple[str, tuple[Any, ...]]:
        """The topic and the fields of an envelope but for producer and number; see `Envelope` for their order.

        An id that is "" is drawn with the number, unless the slot depends on it.
        """
        spec, key, slot, data, content_type = self.registry.encode(event, self.event_limit)
        if key is None:
            id_ = id_ or new_id(self.clock.now)
            slot = slot_of(id_)
        if because is None:
            correlation, causation, headers = "", "", None
        else:
            correlation, causation, headers = because.correlation or because.id, because.id, _trace(because.headers)
        return self._place(spec.topic.name), (
            id_,
            self.source,
            spec.type,
            spec.version,
            key,
            slot,
            self.clock.now(),
            data,
            correlation,
            causation,
            content_type,
            headers,
        )

    async def keep(self, session: Session, units: list[UnitOfWork]) -> None:
        """Number what these units publish, and add it: the last statements before the commit that they share."""
        counts: dict[str, dict[int, int]] = {}
        missing = 0
        for unit in units:
            for topic, fields in unit.published:
                missing += not fields[0]
                slots = counts.setdefault(topic, {})
                slots[fields[5]] = slots.get(fields[5], 0) + 1
        numbers: dict[str, dict[int, int]] = {}
        for topic, slots in sorted(counts.items()):
            wanted = _json(sorted(slots.items())).decode()
            drawn = await session.fetch(self.store.sql["counters_draw"], (topic, wanted))
            numbers[topic] = {slot: number - slots[slot] for slot, number in drawn}
        ids = iter(new_ids(missing, self.clock.now()))
        topics: dict[str, list[Envelope]] = {topic: [] for topic in counts}
        for unit in units:
            for topic, fields in unit.published:
                slot = fields[5]
                number = numbers[topic][slot] = numbers[topic][slot] + 1
                id_ = fields[0] or next(ids)
                topics[topic].append(Envelope(*(id_, *fields[1:8], self.producer, number, *fields[8:])))
        added = [each for topic, envelopes in topics.items() for each in await self._add(session, topic, envelopes)]
        for unit in units:
            unit.added = added

    async def _add(self, session: Session, topic: str, envelopes: list[Envelope]) -> list[Added]:
        now, rows = self.clock.now(), []
        for start in range(0, len(envelopes), ROW_EVENTS):
            part = envelopes[start : start + ROW_EVENTS]
            body = pack(part)
            ((row,),) = await session.fetch(self.store.sql["outbox_add"], (topic, len(part), len(body), now, body))
            rows.append((row, topic, frozenset([each.slot for each in part])))
        return rows

    def added(self, rows: Sequence[Added], *, joined: bool) -> None:
        """These rows have been committed, or (joined) will be when the user commits."""
        if not joined:
            for row, topic, slots in rows:
                if row > self.moved_to:
                    self.mine[row] = (topic, slots)
        self._work.set()

    async def wait_for_space(self, seconds: float) -> None:
        """Wait while the outbox is full; raises `OutboxFull` after so long."""
        deadline = self.clock.monotonic() + seconds
        while self.full:
            left = deadline - self.clock.monotonic()
            if left <= 0:
                raise OutboxFull(
                    f"the outbox of {self.source!r} is full: its events cannot be moved to the engine ({self.trouble})",
                    remedy="mend the engine; what is in the outbox goes out by itself then",
                )
            self._removed.clear()
            await self.clock.wait(self._removed, min(left, POLL))
            await self.measure()

    def holds(self, topic: str, slots: frozenset[int]) -> bool:
        """Whether this process has committed events for one of these slots that are not in the engine yet."""
        return any(topic == t and not slots.isdisjoint(s) for t, s in self.mine.values())

    async def wait_for_slots(self, topic: str, slots: frozenset[int]) -> None:
        """Wait until all of those are in the engine: a direct publish comes after."""
        while self.holds(topic, slots):
            if self.owned is None:  # another process's relay tells by its commit
                await self.measure()
                if not self.holds(topic, slots):
                    return
            self._removed.clear()
            heard = self._hear(self._removed)
            try:
                await self.clock.wait(self._removed, POLL)
            finally:
                heard.cancel()

    @property
    def idle(self) -> bool:
        """Whether nothing of this process is on its way."""
        return not (self.mine or self._work.is_set() or (self._moving and self.owned is not None))

    async def measure(self) -> None:
        """See how full it is, and what another process's relay has moved meanwhile."""
        ((events, size, _oldest, first),) = await self.store.read(self.store.sql["outbox_size"])
        self.full = events >= self._limits[0] or size >= self._limits[1]
        self._begins(first if events else None)

    def _begins(self, first: int | None) -> None:
        """This row, or none, is now the first that is not moved."""
        for row in [row for row in self.mine if first is None or row < first]:
            del self.mine[row]
        self._removed.set()

    async def measure_from(self, first: int | None) -> None:
        """The same as `measure`, for who has just read which row is the first."""
        if first is not None:
            await self.measure()
        else:
            self.full = False
            self._begins(None)

    # -- the relay --------------------------------------------------------------------------------------------------

    def nudge(self) -> None:
        """The relay looks again at once."""
        self._work.set()

    async def relay(self, stopping: Signal) -> None:
        """Move what is committed, as long as this process owns the relay. Returns when told to stop."""
        heard = self._hear(self._work)
        try:
            while not stopping.is_set():
                self._work.clear()
                if heard.done():  # before the look at the store, so that nothing comes unnoticed after it
                    heard = self._hear(self._work)
                told, wait = self._work, POLL
                try:
                    if self.owned is not None:
                        wait = min(await self.step(), POLL)
                        self.trouble = ""
                except FenceLost:
                    self.owned = None
                except Exception as error:
                    await self._troubled(error)
                    told = stopping
                if wait > 0:
                    await self.clock.wait(told, wait)
        finally:
            heard.cancel()

    async def _troubled(self, error: Exception) -> None:
        """Keep what is wrong, and say it once; a relay that ended would be a silent stall."""
        known = isinstance(error, (EngineUnavailable, StoreUnavailable))
        trouble = error.message if isinstance(error, EvenflowError) else f"{type(error).__name__}: {error}"
        if not known and trouble != self.trouble:
            log.error("outbox of %s: unexpected, trying again", self.source, exc_info=error)
        self.trouble = trouble
        await self._measure_quietly()

    def _hear(self, told: Signal) -> asyncio.Future[None]:
        """Have this set as soon as another process is seen to have changed the store; cancel what this returns."""
        changed = self.store.changed.waiter()
        changed.add_done_callback(lambda future: None if future.cancelled() else told.set())
        return changed

    async def _measure_quietly(self) -> None:
        try:
            await self.measure()
        except StoreUnavailable as error:
            self.trouble = error.message

    async def step(self) -> float:
        """Queue what is due and move one round of rows to the engine; seconds until there is more to do.

        What is committed meanwhile is told: by `added`, or by `changed` of the store.
        """
        owned = self.owned
        assert owned is not None
        asked = self._rows
        rows = await self.store.read(self.store.sql["relay_next"], (asked,))
        due = rows[0][3] if rows else (await self.store.read(self.store.sql["due_next"]))[0][0]
        ready = due is not None and due <= self.clock.now()
        self._moving = ready or bool(rows)
        queued = await self._queue_due(owned) if ready else 0
        if rows:
            await self._move(owned, rows)
        self._moving = False
        if queued or len(rows) == asked:
            return 0.0
        return POLL if due is None else max(0.0, due - self.clock.now())

    async def _move(self, owned: Owned, rows: Sequence[Row]) -> None:
        """Append the events of these rows, and remove the rows."""
        position = stored_to = events = 0
        while position < len(rows):
            topic = rows[position][1]
            end = position + 1
            while end < len(rows) and rows[end][1] == topic:
                end += 1
            envelopes = [envelope for row in rows[position:end] for envelope in unpack(row[2])]
            try:
                await self._append(topic, envelopes)
            except Exception:
                if stored_to:  # what another topic's engine has taken is not sent again and again
                    await self._remove(owned, stored_to)
                raise
            events += len(envelopes)
            stored_to = rows[end - 1][0]
            position = end
        self.moved += events
        self._rows = max(1, min(RELAY_ROWS, RELAY_EVENTS * len(rows) // events))
        await self._remove(owned, stored_to)

    async def _append(self, topic: str, envelopes: list[Envelope]) -> None:
        """Append all, in order per slot; what is refused or unknown is appended again, with the same numbers."""
        while envelopes:
            engine = await self._ready(topic)
            outcomes = await engine.append(topic, envelopes)
            left = [e for e, outcome in zip(envelopes, outcomes, strict=True) if outcome is not Outcome.STORED]
            if len(left) == len(envelopes):
                raise EngineUnavailable(f"the {engine.name} engine does not take events of {topic!r}: {engine.trouble}")
            envelopes = left

    async def _remove(self, owned: Owned, to: int) -> None:
        sql = self.store.sql

        async def work(session: Session) -> None:
            await _guarded(session, sql["position_guard"], owned)
            await session.execute(sql["outbox_remove"], (to,))

        await self.store.transact(work)
        self.moved_to = to
        for row in [row for row in self.mine if row <= to]:
            del self.mine[row]
        if self.full:
            await self.measure()
        self._removed.set()

    async def _queue_due(self, owned: Owned) -> int:
        """Events that are due now take their number and their place in the outbox."""
        from evenflow.unit_of_work import UnitOfWork

        unit = UnitOfWork(self)
        unit.guards.append(guard(self.store.sql["position_guard"], owned))
        try:
            session = await unit.begin()
            rows = await session.fetch(self.store.sql["due_take"], (self.clock.now(), DUE_EVENTS))
            for _due, _id, topic, packed in sorted(rows):
                (e,) = unpack(packed)
                unit.published.append((topic, (
                    e.id, e.source, e.type, e.version, e.key, e.slot, e.time, e.data,
                    e.correlation, e.causation, e.content_type, e.headers,
                )))  # fmt: skip
            await unit.commit()
        except BaseException:
            await unit.rollback()
            raise
        return len(rows)


def _trace(headers: dict[str, str] | None) -> dict[str, str] | None:
    """The trace context, which an event passes on to those that it causes."""
    return (
        None if headers is None else {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
    )


async def _guarded(session: Session, sql: str, owned: Owned) -> None:
    statement, args = guard(sql, owned)
    if await session.execute(statement, args) != 1:
        raise FenceLost("another process relays this outbox now")
