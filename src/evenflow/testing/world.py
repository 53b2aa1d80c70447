"""An app in a test: all its services in this process, real SQL in memory, and time that only the test moves.

    async with testing.world(app, overrides={Mailer: FakeMailer()}) as world:
        await world.publish(OrderPlaced(order_id="1"))
        await world.advance(3 * DAY)
        assert world.published(PaymentOverdue) == [PaymentOverdue(order_id="1")]

Needs no test runner. Nothing sleeps: only a handler that waits for something real is waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from copy import copy
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from evenflow.app import App
from evenflow.clock import VirtualClock
from evenflow.engine import Log, Outcome
from evenflow.engines.memory import MemoryEngine
from evenflow.envelope import Envelope
from evenflow.errors import EvenflowError, TransactionError
from evenflow.group import GroupLoop
from evenflow.parking import Parked, ask, parked
from evenflow.places import make_store
from evenflow.registry import Registry
from evenflow.running import Running
from evenflow.service import Service
from evenflow.settings import Settings
from evenflow.settings_sources import MEMORY_STORE
from evenflow.store import Row
from evenflow.strangers import Record, envelope_of
from evenflow.testing.attended import Waits, attended
from evenflow.topic import Topic
from evenflow.unit_of_work import Transaction

E = TypeVar("E")

START = 1_800_000_000.0
TURNS = 200_000
"""Turns of the event loop after which an app that is still at work is taken to be at work for ever."""
TURNS_BLIND = 100
"""Turns that are taken where the event loop does not tell whether anything is left to run."""
SERVER = 0.0005
"""Seconds of real time between two looks whether a server has answered."""
LEAD = 1.0
"""Seconds before the next due time at which time begins to move timer by timer: every loop looks once in them."""
DRAIN = 5.0
PARKED_LIMIT = 100_000


class NotSettled(EvenflowError):
    """The app is still at work, and only time or the outside can end that."""


@asynccontextmanager
async def world(
    app: App,
    *,
    overrides: Mapping[Any, object] | None = None,
    start: datetime | float = START,
    settings: Mapping[str, Any] | None = None,
    patience: float = 5.0,
) -> AsyncGenerator[World]:
    """The app, opened with all its handlers on engine and stores in memory, in virtual time. Delays have no jitter.

    SQL that only a server speaks has one in `settings={"store": "postgresql://…"}`: a database, or `?schema=`, that
    is new, as the engine is. Time stands still while the server is waited for.

    overrides  values by type, in the place of what the app provides
    start      the time at the beginning, as Unix time or a datetime with a zone
    settings   as in `Settings.load`; sources outside of the test are not read
    patience   seconds of real time that a handler may wait for something real before that is an error
    """
    clock = VirtualClock(start.timestamp() if isinstance(start, datetime) else start)
    given = {"drain": DRAIN, "store": MEMORY_STORE, **(settings or {}), "engine": "memory:"}
    running = Running(
        app,
        Settings.load(given, env={}, cwd="/"),
        clock,
        handle=[service.name for service in app.services],
        overrides=overrides,
    )
    waits = Waits()
    running.make_store = lambda url, service, clock: attended(make_store(url, service, clock), waits)
    engine = _RecordingEngine(clock, durable=given["store"] != MEMORY_STORE)
    running.engines[running.settings.engine] = engine
    running.draw = lambda: 0.0
    if app._running is not None:
        raise TransactionError("this app is open already in this process", remedy="one world at a time for each app")
    made = World(running, engine, patience, waits)
    app._running = running
    closing = asyncio.create_task(made._move_time_while_closing())
    try:
        await running.open()
        try:
            await made.settle()
            yield made
        finally:
            running.clean = await running.close()
    finally:
        app._running = None
        closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing


class World:
    """What a test does with the app, and what it sees of it. Made by `world`."""

    def __init__(self, running: Running, engine: _RecordingEngine, patience: float, waits: Waits) -> None:
        self.app = running.app
        self.running = running
        self._engine = engine
        self._clock: VirtualClock = running.clock  # type: ignore[assignment]  # `world` made it
        self._patience = patience
        self._waits = waits

    @property
    def clock(self) -> VirtualClock:
        """The time of this world. Move it with `advance`."""
        return self._clock

    # -- doing ------------------------------------------------------------------------------------------------------

    async def publish(
        self, *events: Any, after: float | None = None, at: float | None = None, name: str | None = None
    ) -> None:
        """`app.publish`, and then `settle`."""
        await self.app.publish(*events, after=after, at=at, name=name)
        await self.settle()

    async def receive(
        self, topic: Topic, value: bytes | None, *, key: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """A record of another team's comes to lie in this topic, as on a broker; then `settle`. None: a tombstone."""
        place = self.running.place(topic.name)
        log = await self._engine.declare(replace(topic, name=place))
        partition = log.partitions(log.generations[-1].number)[0]
        given = [(name, text.encode()) for name, text in (headers or {}).items()]
        offset, now = self._engine.bounds_nowait(partition).high, self._clock.now()
        record = Record(place, log.incarnation, partition.number, offset, now, key, value, given)
        await MemoryEngine.append(self._engine, place, [envelope_of(record, topic)])
        await self.settle()

    @asynccontextmanager
    async def transaction(self, service: Service | str) -> AsyncGenerator[Transaction]:
        """`app.transaction`, and after its commit `settle`."""
        async with self.app.transaction(service) as tx:
            yield tx
        await self.settle()

    async def settle(self) -> None:
        """Return when all that can be done without time has been done. Raises `NotSettled`, saying what has not."""
        if not await self._calm(self._patience):
            raise await self._not_settled()

    async def advance(self, seconds: float) -> None:
        """Let time pass: whatever falls due meanwhile is done at its time. Costs nothing for time without events.

        A handler that still waits for something real at the end does not make this an error.
        """
        clock = self._clock
        target = clock.now() + seconds
        calm = await self._calm(self._patience)
        stuck, walked_from, due = not calm, clock.monotonic(), clock.now()
        while clock.now() < target:
            if calm or clock.monotonic() - walked_from >= clock.LONG:
                due, walked_from = await self._skip(target), clock.monotonic()
            timer = clock.next_timer()
            clock.advance_to(target if timer is None else min(timer, target))
            await self._run_ready()
            calm = False
            if clock.now() >= due or self._at_work():
                calm = await self._calm(0.0 if stuck else self._patience)
                stuck = not calm
        await self._engine.maintain()

    async def redrive(self, *events: Parked) -> int:
        """Put these dead letters (all, when none is named) back in line, and `settle`. How many were."""
        chosen = events or [each for each in await self.parked() if each.dead]
        count = 0
        for each in chosen:
            store = self.running.stores[self._service_of(each.group)]
            count += await ask(store, each.group, [each], "redrive", "test", self._clock)
        for loop in self.running.loops():
            loop.look()
        await self.settle()
        return count

    # -- seeing -----------------------------------------------------------------------------------------------------

    def published(self, event: type[E]) -> list[E]:
        """All events of this class that went into topics, in order; whoever published them."""
        (binding,) = Registry([event], self.app.codecs).by_type.values()
        return [
            binding.read(envelope, topic)
            for topic, envelope in self._engine.stored
            if envelope.type == binding.spec.type
        ]

    def envelopes(self) -> list[Envelope]:
        """Everything that went into topics, in order, as it travels: with ids, causes and times."""
        return [envelope for _, envelope in self._engine.stored]

    async def rows(self, service: Service | str, sql: str, *args: Any) -> list[Row]:
        """Rows of the service's store, as named tuples."""
        name = service if isinstance(service, str) else service.name
        if name not in self.running.stores:
            raise TransactionError(
                f"this app has no service {name!r}", remedy=f"known: {', '.join(self.running.stores)}"
            )
        return await self.running.stores[name].read(sql, args)

    async def parked(self, group: str | None = None) -> list[Parked]:
        """Events that are set aside: failed ones (`attempts`, `error`, `due`), dead letters (`dead`), those behind."""
        groups = [loop.name for loop in self.running.loops()]
        if group is not None and group not in groups:
            raise TransactionError(f"there is no group {group!r} here", remedy=f"known: {', '.join(groups)}")
        found = []
        for each in groups if group is None else [group]:
            store = self.running.stores[self._service_of(each)]
            found += [parked(each, row) for row in await store.read(store.sql["parked_list"], (each, PARKED_LIMIT))]
        return found

    def _service_of(self, group: str) -> str:
        return next(name for name, runtime in self.running.runtimes.items() if group in runtime.loops)

    # -- settling ---------------------------------------------------------------------------------------------------

    async def _calm(self, patience: float) -> bool:
        """Run until nothing is left to run: whether all is done. What is at work may take `patience` seconds."""
        deadline = time.monotonic() + patience
        while True:
            await self._run_ready()
            at_work = self._at_work()
            if not at_work and await self._all_done():
                return True
            if not at_work or time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.001)

    async def _run_ready(self) -> None:
        """Turns of the event loop until no other task can go on by itself."""
        ready: Sequence[object] | None = getattr(asyncio.get_running_loop(), "_ready", None)
        until = time.monotonic() + max(1.0, self._patience)
        for _ in range(TURNS_BLIND if ready is None else TURNS):
            await asyncio.sleep(0)
            if ready is not None and not ready:
                if not self._waits.count:
                    return
                if time.monotonic() >= until:
                    self._waits.give_up()
                    return
                await asyncio.sleep(SERVER)
        if ready is not None:
            raise await self._not_settled()

    def _at_work(self) -> list[GroupLoop]:
        at_work = [loop for loop in self.running.loops() if loop.busy or loop.in_flight()]
        return [loop for loop in at_work if loop.busy or loop.counters.in_flight or not loop.holding]

    async def _all_done(self) -> bool:
        """Whether nothing is left to do now. A partition whose parking lot is full has nothing to do before it is."""
        try:
            async with asyncio.timeout(max(1.0, self._patience)):  # a transaction that a task keeps open holds up reads
                if await self.running.idle():
                    return True
        except TimeoutError:
            return False
        return any(loop._blocked or loop.holding for loop in self.running.loops())

    async def _not_settled(self) -> NotSettled:
        reasons = []
        for loop in self._at_work():
            where = loop.spec.where
            reasons.append(f"group {loop.name} is at work ({loop.counters.handled} events done; its handler: {where})")
        reasons += [f"group {loop.name} waits: {loop.trouble}" for loop in self.running.loops() if loop.trouble]
        for name, runtime in self.running.runtimes.items():
            if runtime.outbox.trouble:
                reasons.append(f"the outbox of {name} waits: {runtime.outbox.trouble}")
            elif not runtime.outbox.idle:
                reasons.append(f"the outbox of {name} holds events that are not moved yet")
        return NotSettled(
            "the app does not come to rest: " + ("; ".join(reasons) or "something waits for time to pass"),
            remedy="a handler that waits for something real needs patience=…, or a fake of it in overrides; what waits "
            "for time goes on with `advance`; events that cause each other for ever never come to rest",
        )

    # -- time -------------------------------------------------------------------------------------------------------

    async def _skip(self, target: float) -> float:
        """Go near to the next time at which the application has something to do; that time, or the target."""
        due = min(target, await self._next_due(), self._clock.next_timer(long=True) or target)
        distance = due - LEAD - self._clock.now()
        if distance > 0:
            self._clock.skip(distance)
            await self._engine.maintain()
        return due

    async def _next_due(self) -> float:
        """When the next event or retry is due; now, while somebody waits for room in a topic."""
        found: list[float | None] = [self._clock.now()] if self.running.gates.waiting else []
        for name, runtime in self.running.runtimes.items():
            if any(loop.busy for loop in runtime.loops.values()):
                continue  # a handler that hangs in its transaction holds up the reads of its store
            found += [row[0] for row in await runtime.store.read(runtime.store.sql["due_next"])]
            found.append(await self.running.schedules[name].next_due())
            for loop in runtime.loops.values():
                found += [await loop.parking.next_due(owned) for owned in loop.owned.values() if owned.lanes]
                found.append(loop.resumes())
        return min((due for due in found if due is not None), default=float("inf"))

    async def _move_time_while_closing(self) -> None:
        """What ends the app waits for time as well, and nobody calls `advance` then."""
        await self._clock.wait(self.running._stopping, None)
        while True:
            with suppress(NotSettled):
                await self._run_ready()
            await asyncio.sleep(0.001 if self._at_work() else 0)
            timer = self._clock.next_timer()
            if timer is not None:
                self._clock.advance_to(timer)


class _RecordingEngine(MemoryEngine):
    """The engine in memory, which keeps what was published in order, and in which other teams' topics exist too."""

    def __init__(self, clock: VirtualClock, *, durable: bool) -> None:
        super().__init__(clock)
        self.capabilities = replace(self.capabilities, durable=durable)  # as the stores are: both are new
        self.stored: list[tuple[str, Envelope]] = []

    async def declare(self, topic: Topic, *, after: Log | None = None) -> Log:
        if topic.partitions is None and await self.log(topic.name) is None:
            topic = copy(topic)  # whatever its name: another team's may be one that ours may not have
            object.__setattr__(topic, "partitions", 1)
        return await super().declare(topic, after=after)

    async def append(self, topic: str, envelopes: Sequence[Envelope]) -> Sequence[Outcome]:
        outcomes = await super().append(topic, envelopes)
        self.stored += [(topic, envelope) for envelope in envelopes]
        return outcomes
