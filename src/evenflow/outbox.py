"""The outbox: events that a transaction publishes, and the relay that moves them to the engine in commit order.

One process of a service relays at a time: whoever owns the relay's position row, under its fence. A crash between an
append and the removal of its rows appends them again with the same numbers, which every group drops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from evenflow.clock import Clock, Signal
from evenflow.engine import Engine, Outcome, Partition
from evenflow.envelope import Envelope, pack, unpack
from evenflow.errors import EngineUnavailable, EvenflowError, FenceLost, OutboxFull, StoreUnavailable
from evenflow.ids import new_id, new_ids, slot_of
from evenflow.oversize import Aside
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
FIRST_LOOK = 0.005
"""Seconds after which the rows of a joined transaction are looked for: its user commits it unseen."""
EARLY = 1000
"""Rows that the relay may have moved before this process has heard of its own commit: so many ids are kept."""
HELD = (2 * POLL, 5.0)
"""Seconds at least and at most that the relay lets a topic be whose engine has not taken its events: as long as it took
to find that out."""
JOINED_FOR = 60.0
"""Seconds after which the rows of a joined transaction, of which at most `EARLY` are kept, are not looked for."""


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
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.source = source
        self.store = store
        self.registry = registry
        self.clock = clock
        self.event_limit = event_limit
        self._event_limits = {} if limits is None else limits
        self.producer = ""
        self.gates: Gates | None = None
        self.full = False
        self.moved = 0
        self.moved_to = 0
        self.owned: Owned | None = None
        self.trouble = ""
        self.elsewhere = False
        """Whether events of it belong in an engine that this process does not know: another one may relay them."""
        self._ready = ready
        self._place = place
        self._limits = (limit_events, limit_bytes)
        self.mine: dict[int, tuple[str, frozenset[int]]] = {}
        """Topic and slots of the rows that this process has committed and that are not in the engine yet."""
        self._early: dict[int, None] = {}
        self.joined: dict[int, tuple[str, frozenset[int]]] = {}
        """The same of transactions of the user's own, which may be committed by now, or never."""
        self._joined = -inf
        self._empty_until = -inf  # until when the relay need not look: others have, and have found nothing
        self._removed = Signal()
        self._work = Signal()
        self._moving = False
        self._rows = RELAY_ROWS
        self._aside = Aside(source)
        self._held: dict[str, float] = {}
        """Topics whose engine has not taken their events, and until when they are let be: others go on meanwhile."""

    # -- what a unit of work asks -----------------------------------------------------------------------------------

    def fields(self, event: Any, id_: str, because: Envelope | None) -> tuple[str, tuple[Any, ...]]:
        """The topic and the fields of an envelope but for producer and number; see `Envelope` for their order.

        An id that is "" is drawn with the number, unless the slot depends on it.
        """
        limit = self.event_limit
        if self._event_limits:
            limit = self._event_limits.get(self._place(self.registry.add(type(event)).spec.topic.name), limit)
        spec, key, slot, data, content_type = self.registry.encode(event, limit)
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
        missing, producer = 0, ""
        for unit in units:
            for topic, fields in unit.published:
                missing += not fields[0]
                slots = counts.setdefault(topic, {})
                slots[fields[5]] = slots.get(fields[5], 0) + 1
        numbers: dict[str, dict[int, int]] = {}
        for topic, slots in sorted(counts.items()):
            wanted = _json(sorted(slots.items())).decode()
            drawn = await session.fetch(self.store.sql["counters_draw"], (topic, wanted))
            numbers[topic] = {slot: number - slots[slot] for slot, number, _ in drawn}
            producer = self.producer + drawn[0][2]
        ids = iter(new_ids(missing, self.clock.now()))
        topics: dict[str, list[Envelope]] = {topic: [] for topic in counts}
        for unit in units:
            for topic, fields in unit.published:
                slot = fields[5]
                number = numbers[topic][slot] = numbers[topic][slot] + 1
                id_ = fields[0] or next(ids)
                topics[topic].append(Envelope(*(id_, *fields[1:8], producer, number, *fields[8:])))
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
        if joined:
            self._forget_joined()
            self._joined = self.clock.monotonic()
            self.joined.update({row: (topic, slots) for row, topic, slots in rows})
        else:
            for row, topic, slots in rows:
                self._committed(row, topic, slots)
        self._work.set()

    def _committed(self, row: int, topic: str, slots: frozenset[int]) -> None:
        if row in self._early:
            del self._early[row]
        else:
            self.mine[row] = (topic, slots)

    def _forget_joined(self) -> None:
        if self.clock.monotonic() - self._joined > JOINED_FOR:
            self.joined.clear()
        while len(self.joined) >= EARLY:
            del self.joined[next(iter(self.joined))]

    async def _look_for_joined(self, topic: str, slots: frozenset[int]) -> None:
        """See which joined transactions that have published for these slots are committed by now."""
        self._forget_joined()
        wanted = [row for row, (t, s) in self.joined.items() if topic == t and not slots.isdisjoint(s)]
        for (row,) in await self.store.read(self.store.sql["outbox_there"], (_json(wanted).decode(),)):
            found = self.joined.pop(row, None)
            if found is not None:  # if not, the relay has moved it meanwhile
                self._committed(row, *found)
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
        """Whether this process has, or may have, committed events for one of these slots that are not in the engine."""
        return _among(self.mine, topic, slots) or _among(self.joined, topic, slots)

    async def wait_for_slots(self, topic: str, slots: frozenset[int], until: float = inf) -> bool:
        """Wait until all of those are in the engine: a direct publish comes after. False when they are not in time."""
        if _among(self.joined, topic, slots):
            await self._look_for_joined(topic, slots)
        while _among(self.mine, topic, slots):
            if self.owned is None:  # another process's relay tells by its commit
                await self.measure()
                if not _among(self.mine, topic, slots):
                    return True
            if self.clock.monotonic() >= until:
                return False
            self._removed.clear()
            heard = self._hear(self._removed)
            try:
                await self.clock.wait(self._removed, POLL)
            finally:
                heard.cancel()
        return True

    @property
    def idle(self) -> bool:
        """Whether nothing of this process is on its way."""
        return not (self.mine or self._work.is_set() or (self._moving and self.owned is not None))

    async def measure(self) -> None:
        """See how full it is, and what another process's relay has moved meanwhile."""
        known = list(self.mine)
        ((events, size, _oldest, first),) = await self.store.read(self.store.sql["outbox_size"])
        self.full = events >= self._limits[0] or size >= self._limits[1]
        self._begins(first if events else None, known)
        late = [row for row in known if row in self.mine]
        if late and (self.owned is None or first < late[0]):  # behind a row of a topic that has to wait
            rows = await self.store.read(self.store.sql["outbox_there"], (_json(late).decode(),))
            for row in set(late) - {row for (row,) in rows}:
                self.mine.pop(row, None)

    def _begins(self, first: int | None, known: Sequence[int]) -> None:
        """This row, or none, was the first that is not moved, when these of `mine` were committed."""
        for row in known:
            if first is None or row < first:
                self.mine.pop(row, None)
        self._removed.set()

    async def measure_from(self, first: int | None, known: Sequence[int]) -> None:
        """The same as `measure`, for who has just read which row is the first; `known` was in `mine` before."""
        if first is not None:
            await self.measure()
        else:
            self.full = False
            self._begins(None, known)

    # -- the relay --------------------------------------------------------------------------------------------------

    def nudge(self) -> None:
        """The relay looks again at once."""
        self._work.set()

    async def relay(self, stopping: Signal) -> None:
        """Move what is committed, as long as this process owns the relay. Returns when told to stop."""
        heard, due = self._hear(self._work), inf
        try:
            while not stopping.is_set():
                asked = self._work.is_set()
                self._work.clear()
                if heard.done():  # before the look at the store, so that nothing comes unnoticed after it
                    heard = self._hear(self._work)
                told, wait = self._work, POLL
                try:
                    now = self.clock.monotonic()
                    if self.owned is not None and not asked and min(due, self._empty_until) > now + FIRST_LOOK:
                        wait = min(POLL, due - now, self._empty_until - now)
                    elif self.owned is not None:
                        self._empty_until = -inf
                        wait = await self.step()
                        due = self.clock.monotonic() + wait if wait < POLL else inf
                        wait = min(wait, self._pace())
                        if not self._held:
                            self.trouble = self._aside.trouble
                except FenceLost:
                    self.owned = None
                except Exception as error:
                    await self._troubled(error)
                    told = stopping
                if wait > 0:
                    await self.clock.wait(told, wait)
        finally:
            heard.cancel()

    def seen(self, first: int | None, due: float | None) -> None:
        """Somebody has looked into the store: the first row, if there is one, and when the next event falls due."""
        free = min(2 * POLL, inf if due is None else due - self.clock.now())
        rests = first is None and self._pace() >= POLL and not self.trouble
        self._empty_until = self.clock.monotonic() + free if rests else -inf

    def _pace(self) -> float:
        """Seconds to the next look: few after a joined transaction, more and more while its rows do not come."""
        return min(POLL, max(FIRST_LOOK, (self.clock.monotonic() - self._joined) / 2))

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
        asked, now = self._rows, self.clock.monotonic()
        held = [topic for topic, until in self._held.items() if until > now]
        aside = self._aside.rows(now)
        if held or aside:
            others = (asked, _json(held).decode(), _json(list(aside)).decode())
            rows = await self.store.read(self.store.sql["relay_others"], others)
        else:
            rows = await self.store.read(self.store.sql["relay_next"], (asked,))
            self._held = self._held if rows else {}
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
        """Append the events of these rows, and remove the rows. A topic that fails holds up no other."""
        position = events = 0
        stored: list[int] = []
        cut: list[tuple[int, str, list[Envelope]]] = []
        trouble: Exception | None = None
        while position < len(rows):
            topic = rows[position][1]
            end = position + 1
            while end < len(rows) and rows[end][1] == topic:
                end += 1
            part, position = rows[position:end], end
            began = self.clock.monotonic()
            if self._held.get(topic, 0.0) > began:
                continue
            unpacked = [unpack(row[2]) for row in part]
            envelopes = [envelope for each in unpacked for envelope in each]
            try:
                self._aside.left.clear()
                await self._append(topic, envelopes)
            except Exception as error:
                trouble = trouble or error
                now = self.clock.monotonic()
                self._held[topic] = now + min(max(now - began, HELD[0]), HELD[1])
            else:
                self._held.pop(topic, None)
                stuck = self._aside.left
                events += len(envelopes) - len(stuck)
                for row, whole in zip(part, unpacked, strict=True):
                    left = [each for each in whole if each.id in stuck] if stuck else []
                    if not left:
                        stored.append(row[0])
                    elif not self._aside.put(row[0]):
                        self._held[topic] = self.clock.monotonic() + HELD[1]
                    if 0 < len(left) < len(whole):
                        cut.append((row[0], topic, left))
        if stored or cut:
            self.moved += events
            self._rows = max(1, min(RELAY_ROWS, RELAY_EVENTS * (len(stored) + len(cut)) // events))
            await (self._remove(owned, stored, cut) if cut else self._remove(owned, stored))
        if trouble is not None:
            raise trouble

    async def _append(self, topic: str, envelopes: list[Envelope]) -> None:
        """Append all, in order per slot; what is refused or unknown is appended again, with the same numbers.

        Some may be set aside.
        """
        envelopes = self._aside.without(topic, envelopes)
        while envelopes:
            engine = await self._ready(topic)
            outcomes = await engine.append(topic, envelopes)
            left = [e for e, outcome in zip(envelopes, outcomes, strict=True) if outcome is not Outcome.STORED]
            if Outcome.OVERSIZE in outcomes:
                over = {e.slot: e for e, o in zip(envelopes, outcomes, strict=True) if o is Outcome.OVERSIZE}
                self._aside.found(topic, over, engine.trouble, self.clock.monotonic())
                left = self._aside.without(topic, left)
            elif len(left) == len(envelopes):
                trouble = f"the {engine.name} engine does not take events of {topic!r}: {engine.trouble}"
                with suppress(EngineUnavailable):  # why it does not take them tells more
                    found = await engine.log(topic) if Outcome.REFUSED in outcomes else None
                    self.elsewhere |= found is not None and found.sealed and bool(found.goes_on)
                raise EngineUnavailable(trouble)
            envelopes = left

    async def _remove(
        self, owned: Owned, stored: Sequence[int], cut: Sequence[tuple[int, str, list[Envelope]]] = ()
    ) -> None:
        """Remove these rows, and no others between them: a lower id may be committed later. `cut`: what is left."""
        sql, ids = self.store.sql, _json(stored).decode()

        async def work(session: Session) -> None:
            await _guarded(session, sql["position_guard"], owned)
            await session.execute(sql["outbox_remove"], (ids,))
            for row, _, left in cut:
                body = pack(left)
                await session.execute(sql["outbox_cut"], (row, len(left), len(body), body))

        await self.store.transact(work)
        self.moved_to = max([self.moved_to, *stored])
        for row, topic, left in cut:
            if row in self.mine:
                self.mine[row] = topic, frozenset([each.slot for each in left])
        for row in stored:
            if self.mine.pop(row, None) is None and self.joined.pop(row, None) is None:
                self._early[row] = None
        while len(self._early) > EARLY:
            del self._early[next(iter(self._early))]
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


def _among(rows: Mapping[int, tuple[str, frozenset[int]]], topic: str, slots: frozenset[int]) -> bool:
    return any(topic == t and not slots.isdisjoint(s) for t, s in rows.values())


def _trace(headers: dict[str, str] | None) -> dict[str, str] | None:
    """The trace context, which an event passes on to those that it causes."""
    return (
        None if headers is None else {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
    )


async def _guarded(session: Session, sql: str, owned: Owned) -> None:
    statement, args = guard(sql, owned)
    if await session.execute(statement, args) != 1:
        raise FenceLost("another process relays this outbox now")
