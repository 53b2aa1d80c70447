"""An app that is open in this process: its engines, stores, services and providers, as settings place them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evenflow.batch import BatchLoop
from evenflow.chunk import ChunkLoop
from evenflow.clock import DAY, HOUR, Clock, Signal
from evenflow.engine import Engine
from evenflow.errors import DefinitionError, EngineUnavailable, EvenflowError, Refused
from evenflow.group import GroupLoop
from evenflow.handler import HandlerSpec, Kind, caller, direct
from evenflow.ids import new_id
from evenflow.migrations import load_migrations
from evenflow.outbox import RELAY_GROUP, RELAY_PARTITION, Outbox
from evenflow.ownership import check_outbox, create_group
from evenflow.places import make_engine, make_store
from evenflow.protection.backpressure import Gates
from evenflow.protection.protecting import ProtectedLoop
from evenflow.publish import Publisher, opened_elsewhere
from evenflow.redrive.redriving import Redriving
from evenflow.registry import BrokenRecord, Registry
from evenflow.report import Promise, promise_of
from evenflow.routes import Routes
from evenflow.runtime import ServiceRuntime
from evenflow.schedules.scheduling import Schedules
from evenflow.schemas import Learning
from evenflow.settings import Settings
from evenflow.settings_sources import masked
from evenflow.store import Store
from evenflow.topic import Topic
from evenflow.waiting import LaneLoop
from evenflow.watching.keeping import ending
from evenflow.work import Work

if TYPE_CHECKING:
    from evenflow.app import App

log = logging.getLogger("evenflow")

MAINTAIN = 5.0
PRUNE = HOUR
REMEMBERED = 7 * DAY
"""Seconds for which the ids of strangers' records are kept: a repeat within them is dropped, a later one runs again."""
_LOOPS: dict[Kind, type[GroupLoop]] = {Kind.CHUNK: ChunkLoop, Kind.BATCH: BatchLoop, Kind.LANES: LaneLoop}


class Running:
    """Opens what an app needs, and closes it again. `handle` names the services whose groups are run here."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        clock: Clock,
        *,
        handle: Collection[str] = (),
        join: bool = True,
        overrides: Mapping[Any, object] | None = None,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.app = app
        self.settings = settings
        self.clock = clock
        self.overrides = dict(overrides or {})
        self.promises: list[Promise] = []
        self._named: dict[str, str] = {}
        self.stores: dict[str, Store] = {}
        self.outboxes: dict[str, Outbox] = {}
        self.runtimes: dict[str, ServiceRuntime] = {}
        self.schedules: dict[str, Schedules] = {}
        self.engines: dict[str, Engine] = {}
        self.publisher: Publisher
        self.loop: asyncio.AbstractEventLoop | None = None
        self._random = random
        self.draw: Callable[[], float] = lambda: int.from_bytes(random(7), "big") / (1 << 56)
        """Random numbers from 0 to 1, which lengthen delays."""
        self.make_store = make_store
        self._handle = set(handle)
        self._join = join
        self._ready: dict[str, Engine] = {}
        self.limits: dict[str, int] = {}
        """Bytes that an event may have, by the names of topics on their engines: less than the settings say."""
        self._stack = AsyncExitStack()
        self._learning = Learning(app.codecs, settings.registry)
        self._stopping = Signal()
        self._upkeep: asyncio.Task[None] | None = None
        self.engine: Engine
        """The engine; where the settings name several, all of them as one."""
        self._first: Engine
        self._relayed: dict[str, int] = {}
        self.clean = True
        self.registry = Registry((), app.codecs)
        self.specs = {service.name: [self._placed(spec) for spec in service.handlers()] for service in app.services}
        self.gates = Gates(self.ready, clock)
        self.topics: dict[str, Topic] = {}
        """Topics by the names that they have on their engines."""
        for cls in app.event_classes():
            self.know(cls)

    def _placed(self, spec: HandlerSpec) -> HandlerSpec:
        topics = tuple(self._physical(topic) for topic in spec.topics)
        return replace(spec, group=self.settings.group_name(spec.group), topics=topics)

    def _physical(self, topic: Topic) -> Topic:
        name = self.place(topic.name)
        return topic if name == topic.name else replace(topic, name=name)

    def place(self, name: str) -> str:
        """The name that a topic has on its engine, by its name in the code."""
        place = self._named.get(name)
        if place is None:
            place = self._named[name] = self.settings.topic_name(name)
        return place

    def know(self, cls: type) -> None:
        """Make an event class known, and its topic."""
        topic = self._physical(self.registry.add(cls).spec.topic)
        known = self.topics.get(topic.name)
        if known is not None and known != topic and known.owned and topic.owned:
            raise DefinitionError(
                f"the topic {topic.name!r} is declared twice with different facts",
                remedy="declare it once, and import it",
            )
        if known is None or topic.owned:
            self.topics[topic.name] = topic
            self.gates.add(topic)

    # -- opening and closing ----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open everything, or nothing. Raises `Refused`, `DefinitionError`, `SettingsError` with the remedy."""
        try:
            await self._open()
        except BaseException:
            await self.close(seconds=0.0)
            raise

    def refuse_elsewhere(self) -> None:
        """What is open belongs to one event loop. Raises `TransactionError` in another."""
        if asyncio.get_running_loop() is not self.loop:
            raise opened_elsewhere()

    async def _open(self) -> None:
        self.loop = asyncio.get_running_loop()
        for line in self.settings.check_names([s.name for s in self.app.services], self._named):
            log.warning("settings: %s", line)
        known = [binding.spec for binding in self.registry.by_type.values()]
        await self._learning.open([spec.topic for spec in known], known if self._join else (), self.place)
        self.engine = await self._opened_engines()
        for service in self.app.services:
            if self._handle and service.name not in self._handle:
                continue
            store = self.make_store(self.settings.store_url(service.name), service.name, self.clock)
            self._refuse_mixed(service.name, store)
            await store.open()
            self.stores[service.name] = store
            if service.migrations is not None and self._join:  # who only looks changes nothing
                await store.migrate(load_migrations(service.migrations, service.name, store.dialect))
            self.outboxes[service.name] = await self._outbox(service.name, store)
            self.outboxes[service.name].gates = self.gates
            if self._join:
                await check_outbox(self.relay_name(service.name), service.name, self.engine, store)
        self.publisher = Publisher(
            self.app.name, self.registry, self.ready, self.place, list(self.outboxes.values()), self.clock,
            event_limit=self.settings.max_event_bytes, limits=self.limits,
        )  # fmt: skip
        self.publisher.gates = self.gates
        if not self._join:
            return
        values = await self._provide()
        for name, store in self.stores.items():
            await self._start(name, store, values)
        self._begin_upkeep()

    def _begin_upkeep(self, before: asyncio.Task[None] | None = None) -> None:
        """Keep it up until we close: whatever ends its task before, another begins."""
        if self._stopping.is_set() or (self.loop is not None and self.loop.is_closed()):
            return
        if before is not None:
            log.error("app %s: its upkeep has ended, and is begun again", self.app.name, exc_info=ending(before))
        self._upkeep = asyncio.create_task(self._maintain())
        self._upkeep.add_done_callback(self._begin_upkeep)

    async def _outbox(self, name: str, store: Store) -> Outbox:
        outbox = Outbox(
            name, store, self.ready, self.place, self.registry, self.clock,
            limit_events=self.settings.outbox_events, limit_bytes=self.settings.outbox_bytes,
            event_limit=self.settings.max_event_bytes, limits=self.limits,
        )  # fmt: skip
        outbox.producer = (await store.read(store.sql["store_producer"]))[0][0]
        await outbox.measure()
        return outbox

    def _refuse_mixed(self, service: str, store: Store) -> None:
        engine = self.engine
        if engine.capabilities.durable is store.capabilities.durable:
            return
        lasting, other = (engine.name, f"the store of {service!r}") if engine.capabilities.durable else (
            f"the store of {service!r}", f"the {engine.name} engine",
        )  # fmt: skip
        raise Refused(
            f"{lasting} outlives this process and {other} does not: one remembers what the other has forgotten",
            remedy="keep both in files or on servers, or both in memory (engine memory: with store sqlite::memory:)",
        )

    async def _provide(self) -> dict[Any, Any]:
        opened: dict[Any, Any] = dict(self.overrides)
        if self.app.lifespan is not None:
            await self._stack.enter_async_context(self.app.lifespan(self.app))
        for name in sorted(self._handle):
            for spec in self.specs[name]:
                for _, wanted in spec.dependencies:
                    self.app.providers.check(wanted, spec.where, opened)
                    await self.app.providers.resolve(wanted, opened, self._stack)
        return opened

    async def _start(self, name: str, store: Store, values: dict[Any, Any]) -> None:
        loops: list[GroupLoop] = []
        for spec in self.specs[name] if name in self._handle else ():
            for topic in spec.topics:
                await self.ready(topic.name)
            kind = ProtectedLoop if spec.limit or spec.breaker else _LOOPS[spec.kind]
            loops.append(kind(self._work(spec, name, store, values)))
            self.promises.append(promise_of(spec, self.engine, store))
        process = new_id(self.clock.now, self._random)
        runtime = ServiceRuntime(
            name, store, self.outboxes[name], loops, self.ready, self.clock,
            process=process, lease=self.settings.lease,
        )  # fmt: skip
        self.runtimes[name] = runtime
        schedules = self.schedules[name] = Schedules(
            self.outboxes[name], self.clock, process, lambda: runtime.live, self.specs[name],
            handles=name in self._handle,
        )  # fmt: skip
        runtime.leading.chores.append(schedules)
        runtime.leading.chores.append(Redriving(store, self.clock))
        await self.create_groups(name)
        await runtime.start()
        await schedules.declare()
        runtime.leading.nudge()

    async def create_groups(self, name: str) -> None:
        """Create the groups of a service that are new, before something is published that is for them.

        Where a service is handled elsewhere, what needs a person is left to that process: it refuses, and says why.
        """
        for spec in self.specs[name]:
            for topic in spec.topics:
                try:
                    engine = await self.ready(topic.name)
                    found = await engine.log(topic.name)
                    if found is not None:
                        await create_group(
                            spec.group, found, engine, self.stores[name], self.clock,
                            start=spec.start, where=spec.where,
                        )  # fmt: skip
                except (EngineUnavailable, Refused) as error:
                    if name in self._handle:
                        raise
                    log.debug("group %s is not created yet: %s", spec.group, error.message)

    def _work(self, spec: HandlerSpec, name: str, store: Store, values: dict[Any, Any]) -> Work:
        dependencies = {parameter: values[wanted] for parameter, wanted in spec.dependencies}
        registry = Registry((*spec.events, BrokenRecord), self.app.codecs)
        return Work(
            spec=spec,
            call=caller(spec, dependencies),
            direct=direct(spec),
            bindings=dict(registry.by_type),
            engine=self.engine,
            store=store,
            outbox=self.outboxes[name],
            clock=self.clock,
            draw=self.draw,
            prepare=self._learning.preparing(spec.topics),
            compacted=frozenset(topic.name for topic in spec.topics if self.topics.get(topic.name, topic).compacted),
            around_event=self.app.around("event"),
            around_chunk=self.app.around("chunk"),
        )

    async def close(self, seconds: float | None = None) -> bool:
        """Finish or give back what is in flight, and close everything; False when it took too long."""
        clean = True
        self._stopping.set()
        limit = self.settings.drain if seconds is None else seconds
        try:
            for runtime in self.runtimes.values():
                clean = await self._quietly(runtime.stop(limit), clean) and clean
            if self._upkeep is not None:
                await asyncio.gather(self._upkeep, return_exceptions=True)
            if hasattr(self, "publisher"):  # it opened so far
                await self._quietly(self.publisher.close(), None)
            self.gates.close()
            await self._quietly(self._tell_relays(), None)
            await self._quietly(self._stack.aclose(), None)
            await self._learning.close()
        finally:  # whatever a provider raises
            for store in self.stores.values():
                await self._quietly(store.close(), None)
            for engine in self.engines.values():
                await self._quietly(engine.close(), None)
        return clean

    async def _quietly(self, work: Any, default: Any, doing: str = "while closing") -> Any:
        try:
            return await work
        except EvenflowError as error:
            log.warning("%s: %s", doing, error)
            return default

    async def _maintain(self) -> None:
        pruned = self.clock.monotonic()
        while not await self.clock.wait(self._stopping, MAINTAIN):
            self.gates.look()
            rare = self.clock.monotonic() - pruned >= PRUNE
            if rare:
                pruned = self.clock.monotonic()
                for name in self.runtimes:
                    await self._quietly(self._prune(self.stores[name]), None, f"store of {name}: upkeep waits")
            for topic in list(self._ready if rare else self.limits):
                with suppress(EngineUnavailable, Refused):  # it is as it was
                    await self._learn_limit(topic)
            for engine in list(self.engines.values()):
                try:
                    await engine.maintain()
                    if engine is self._first:
                        await self._tell_relays()
                except EngineUnavailable as error:
                    log.warning("engine %s: upkeep waits: %s", engine.name, error.message)
                except Exception:
                    log.exception("engine %s: upkeep failed", engine.name)

    async def _prune(self, store: Store) -> None:
        """Forget strangers' ids that are older than `REMEMBERED`."""
        before = self.clock.now() - REMEMBERED
        await store.transact(lambda session: session.execute(store.sql["inbox_prune"], (before,)))

    def relay_name(self, service: str) -> str:
        """The name under which the engine remembers how far a service's outbox was relayed."""
        return self.settings.group_name(f"{RELAY_GROUP}.{service}")

    async def _tell_relays(self) -> None:
        """Let the engine know, so that a store that was restored from a backup is noticed before it numbers again."""
        for name, outbox in self.outboxes.items():
            if outbox.moved_to > self._relayed.get(name, 0):
                to = outbox.moved_to
                await self.engine.told(self.relay_name(name), outbox.store.id, {RELAY_PARTITION: to})
                self._relayed[name] = to

    # -- topics -----------------------------------------------------------------------------------------------------

    async def ready(self, topic: str) -> Engine:
        """The engine of a topic (by its name there), opened, with the topic declared if it is ours.

        Raises `EngineUnavailable` for a topic that is not there, and `Refused`.
        """
        engine = self._ready.get(topic)
        return engine if engine is not None else await self._prepare(topic)

    async def _prepare(self, topic: str) -> Engine:
        for binding in list(self.registry.by_type.values()):
            self.know(binding.spec.cls)
        engine = self.engine
        declared = self.topics.get(topic)
        if declared is not None and (declared.owned or self._join):
            await engine.declare(declared)
        elif await engine.log(topic) is None:
            raise EngineUnavailable(f"there is no topic {topic!r} on the engine, and nobody here declares it")
        await self._learn_limit(topic)
        self._ready[topic] = engine
        return engine

    async def _learn_limit(self, topic: str) -> None:
        limit = await self.engine.limit(topic)
        if limit is None or limit >= self.settings.max_event_bytes:
            self.limits.pop(topic, None)
        else:
            self.limits[topic] = limit

    async def prepare(self, topic: str, data: Sequence[bytes]) -> None:
        """Have what reading these of a topic needs, by its name on its engine. Raises `SchemasUnavailable`."""
        known = self.topics.get(topic)
        if known is not None:
            await self._learning.prepare(known, data)

    async def _opened_engines(self) -> Engine:
        """The engine; several are opened as far as they are well, so that one that nothing is in does no harm."""
        urls = self.settings.engine_urls()
        self._first = await self.engine_of(self.settings.engine)
        for url in urls[1:]:
            try:
                await self.engine_of(url)
            except (EngineUnavailable, Refused) as error:
                log.warning("the engine %s cannot be used now: %s", masked(url), error)
        return Routes(urls, self.home, self.engine_of, self.engines, self.clock) if len(urls) > 1 else self._first

    def home(self, topic: str) -> str:
        """The URL of the engine that a topic is made in, by its name there."""
        return self.settings.engine_url(next((name for name, place in self._named.items() if place == topic), topic))

    async def engine_of(self, url: str) -> Engine:
        """One single engine, open."""
        engine = self.engines.get(url)
        if engine is None:
            engine = make_engine(url, self.clock, random=self._random)
            await engine.open()
            self.engines[url] = engine
        return engine

    async def idle(self, *, cut_off: bool = False) -> bool:
        """Whether nothing is left to do now in any service that is open here.

        With `cut_off`, groups whose breaker is open count as idle until their next probe.
        """
        return all([await runtime.idle(cut_off=cut_off) for runtime in self.runtimes.values()])

    def loops(self) -> Sequence[GroupLoop]:
        """All groups that are run in this process."""
        return [loop for runtime in self.runtimes.values() for loop in runtime.loops.values()]
