"""The app: services put together. A value that you pass; making it does no I/O."""

from __future__ import annotations

import logging
import typing
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from evenflow.codec import Codec
from evenflow.errors import DefinitionError, Refused, TransactionError
from evenflow.event import EventSpec, is_event
from evenflow.ids import NAME_RULE, is_name
from evenflow.provide import Providers
from evenflow.registry import Registry
from evenflow.service import Service
from evenflow.store import Joinable, Row
from evenflow.topic import Topic
from evenflow.unit_of_work import Transaction, UnitOfWork, open_unit, rehearsed

if TYPE_CHECKING:  # what only an app that is opened needs is imported then: it costs half of the start-up time
    import apsw

    from evenflow.clock import Clock, Signal
    from evenflow.report import Promise
    from evenflow.running import Running
    from evenflow.settings import Settings
    from evenflow.sync import SyncApp

log = logging.getLogger("evenflow")
F = TypeVar("F", bound=Callable[..., Any])
Lifespan = Callable[["App"], AbstractAsyncContextManager[None]]


class App:
    """Services that run together, as one process or as many.

    name      the source of events that are published outside of any service
    events    classes that are published here and handled elsewhere, so that a wrong one is told at the start
    codecs    more codecs, which topics name
    lifespan  a context around everything else, entered first
    """

    def __init__(
        self,
        *services: Service,
        name: str = "app",
        events: Iterable[type] = (),
        codecs: Iterable[Codec] = (),
        lifespan: Lifespan | None = None,
    ) -> None:
        if not is_name(name):
            raise DefinitionError(f"the app name {name!r} cannot be used", remedy=f"use {NAME_RULE}")
        names = [service.name for service in services]
        for twice in {each for each in names if names.count(each) > 1}:
            raise DefinitionError(f"two services are called {twice!r}", remedy="a service is one store: rename one")
        self.name = name
        self.services = services
        self.codecs = tuple(codecs)
        self.providers = Providers()
        self.lifespan = lifespan
        self._events = tuple(events)
        self._middleware: dict[str, list[Callable[..., Any]]] = {"event": [], "chunk": []}
        self._running: Running | None = None
        self._sync: SyncApp | None = None
        self._refuse_wrong()

    def _refuse_wrong(self) -> None:
        """Raise the first thing that is wrong with handlers and events, with all others in `also`."""
        problems = self._wrong()
        if problems:
            problems[0].also = tuple(problems[1:])
            raise problems[0]

    def _wrong(self) -> list[DefinitionError]:
        problems = [problem for service in self.services for problem in service.read()[1]]
        if not problems:
            registry, topics = Registry((), self.codecs), dict[str, Topic]()
            for cls in self.event_classes():
                try:
                    spec = registry.add(cls).spec
                    known = topics.setdefault(spec.topic.name, spec.topic)
                    if known != spec.topic and known.owned and spec.topic.owned:
                        raise DefinitionError(
                            f"the topic {known.name!r} is declared twice with different facts",
                            where=spec.where,
                            remedy="declare it once, and import it",
                        )
                    self._refuse_never(spec)
                except DefinitionError as error:
                    problems.append(error)
        return problems

    def _refuse_never(self, spec: EventSpec) -> None:
        """Raise `DefinitionError` for a class that is handled, and that no record of its topic ever becomes."""
        records = spec.topic.records
        handled = any(spec.cls in each.events for service in self.services for each in service.handlers())
        if handled and records is not None and records.always not in ("", spec.type):
            raise DefinitionError(
                f"{spec.cls.__qualname__} is of type {spec.type!r}, and every record of {spec.topic.name!r} is "
                f"{records.always!r}",
                where=spec.where,
                remedy="say the type of each by Records(header=…) or Records(field=…), or correct one of the two",
            )

    # -- putting together -------------------------------------------------------------------------------------------

    def provide(self, function: F) -> F:
        """Register what handlers may ask for by type: a function, or a generator that yields once and cleans up.

        It is called once, when the app starts to handle; a test replaces it by `overrides={Type: value}`.
        """
        self.providers.add(function)
        return function

    def middleware(self, *, per: Literal["chunk", "event"]) -> Callable[[F], F]:
        """Wrap handling: per="chunk" `async def around(group: str, events: int, call_next)`, cheap; per="event"
        `async def around(delivery: Delivery, call_next)`, at a cost for every event. Both return what
        `await call_next()` returns. The first one registered is the outermost.
        """

        def register(function: F) -> F:
            self._middleware[per].append(function)
            return function

        return register

    def around(self, per: Literal["chunk", "event"]) -> Callable[..., Any] | None:
        """All middleware of this kind as one function, or None."""
        functions = self._middleware[per]
        return reduce(_inside, functions) if functions else None

    def event_classes(self) -> list[type]:
        """The classes that this app is known to handle or publish: from handlers, what they return, and `events`."""
        classes: dict[type, None] = {}
        for service in self.services:
            for spec in service.handlers():
                classes.update(dict.fromkeys(spec.events))
                returned = typing.get_type_hints(spec.function).get("return")
                classes.update(dict.fromkeys(_event_classes(returned)))
        classes.update(dict.fromkeys(self._events))
        return list(classes)

    def check(self) -> list[DefinitionError]:
        """Everything that is wrong with the definition, as far as it can be known without a server."""
        from evenflow.migrations import ANY, load_migrations

        problems = self._wrong()
        for service in self.services:
            if service.migrations is not None:
                try:
                    load_migrations(service.migrations, service.name, ANY)
                except Refused as error:
                    problems.append(DefinitionError(error.message, where=service.where, remedy=error.remedy))
            for spec in service.read()[0]:
                for _, wanted in spec.dependencies:
                    try:
                        self.providers.check(wanted, spec.where, {})
                    except DefinitionError as error:
                        problems.append(error)
        return problems

    # -- running ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self, *, handle: bool = False, settings: Settings | None = None) -> AsyncGenerator[None]:
        """Publish and transact inside. Handlers run in other processes (`evenflow run`), or here with `handle`.

        Usable as the lifespan of a Starlette or FastAPI application: `lifespan=lambda _: app.open()`.
        """
        async with self.running(handle=None if handle else (), settings=settings):
            yield

    def promises(self) -> list[Promise]:
        """What is promised for each group that is handled in this process, and why."""
        return list(self.opened.promises)

    async def wait_idle(self, seconds: float | None = None) -> bool:
        """Wait until nothing is left to do now in the services that are open here; False when the time is over.

        What waits for a person does not count: groups that are stopped or paused, which the log tells, dead letters.
        What a limit or an open breaker holds does count: it is waited for.
        """
        running = self.opened
        deadline = None if seconds is None else running.clock.monotonic() + seconds
        while not await running.idle():
            if deadline is not None and running.clock.monotonic() >= deadline:
                return False
            await running.clock.sleep(0.005)
        return True

    @asynccontextmanager
    async def running(
        self,
        *,
        handle: Collection[str] | None = (),
        settings: Settings | None = None,
        clock: Clock | None = None,
        join: bool = True,
        overrides: Mapping[Any, object] | None = None,
    ) -> AsyncGenerator[Running]:
        """The open app. `handle`: the services whose handlers run here, None for all; `join` False only looks."""
        from evenflow.clock import SystemClock
        from evenflow.running import Running
        from evenflow.settings import Settings

        if self._running is not None:
            raise TransactionError("this app is open already in this process", remedy="open it once, and share it")
        names = [service.name for service in self.services]
        chosen = names if handle is None else list(handle)
        for name in chosen:
            if name not in names:
                raise DefinitionError(f"this app has no service {name!r}", remedy=f"known: {', '.join(names)}")
        running = Running(
            self, settings or Settings.load(), clock or SystemClock(), handle=chosen, join=join, overrides=overrides
        )
        self._running = running
        try:
            await running.open()
            try:
                yield running
            finally:
                running.clean = await running.close()
        finally:
            self._running = None

    async def run(
        self,
        *,
        services: Collection[str] | None = None,
        stop: Signal | None = None,
        settings: Settings | None = None,
        started: Callable[[Running], None] | None = None,
    ) -> bool:
        """Handle events until `stop` is set, or for ever. False when the drain ran out of time.

        `services` names those whose handlers run here; all by default. `started` is called once all is open.
        """
        from evenflow.clock import Signal

        async with self.running(handle=services, settings=settings) as running:
            for promise in running.promises:
                log.info("%s", promise)
            if started is not None:
                started(running)
            await running.clock.wait(stop or Signal(), None)
        return running.clean

    @property
    def opened(self) -> Running:
        """The app as it is open in this process. Raises `TransactionError` when it is not."""
        if self._running is None:
            raise TransactionError(
                "this app is not open", remedy="use it inside `async with app.open():` (the lifespan of your web app)"
            )
        return self._running

    # -- publishing -------------------------------------------------------------------------------------------------

    async def publish(
        self, *events: Any, after: float | None = None, at: float | None = None, name: str | None = None
    ) -> None:
        """Publish now, durable when it returns; each key in the order given.

        With `after` (seconds) or `at` (Unix time) the events wait in the outbox of the app's only service. Raises
        `EventInvalid` and `EventTooLarge` before anything is published, `PublishRefused`, `PublishUnknown`, and
        `BacklogFull` for a topic with a limit.
        """
        running = self._running or self.opened
        if after is None and at is None:
            await running.publisher.publish(events)
            return
        if len(running.outboxes) != 1:
            raise TransactionError(
                "app.publish(after=…) does not know which service keeps the event until then",
                remedy="use `async with app.transaction(service) as tx: tx.publish(event, after=…)`",
            )
        async with self.transaction(next(iter(running.outboxes))) as tx:
            for event in events:
                tx.publish(event, after=after, at=at, name=name)

    def transaction(
        self, service: Service | str, *, on: Joinable | apsw.Connection | None = None, wait: float = 30.0
    ) -> AbstractAsyncContextManager[Transaction]:
        """One transaction of the service's store: what is written and published inside is real together, or not at all.

        With `on` (a connection of yours to the same database, or a session of SQLAlchemy's) it joins your transaction,
        and never commits it. Raises `TransactionError` with the remedy where that cannot be.
        While the outbox is full it waits up to `wait` seconds, then raises `OutboxFull`. Into a topic that is full (see
        `Topic`) it publishes only once there is room: its commit waits, or raises `BacklogFull`; where a statement of
        it has run already, `tx.publish` raises at once.
        """
        return _OpenTransaction(self, service, on, wait)

    async def unit_of_work(self, service: Service | str, *, on: object | None = None, wait: float = 30.0) -> UnitOfWork:
        """A unit of work of the service with its transaction as `current`; the caller commits it or rolls it back."""
        name = service if isinstance(service, str) else service.name
        running = self.opened
        running.refuse_elsewhere()
        outbox = running.outboxes.get(name)
        if (outside := rehearsed.get()) is not None:
            raise outside.refuse(f"opens a transaction of {name!r}")
        if outbox is None:
            raise TransactionError(f"the service {name!r} is not open here", remedy="give it to the App")
        if outbox.full:
            await outbox.wait_for_space(wait)
        unit = UnitOfWork(outbox)
        if on is not None:
            unit.join(await outbox.store.join(on))
        if outbox.gates:
            from evenflow.protection.backpressure import GatedTransaction

            unit.current = GatedTransaction(unit)
        else:
            unit.current = Transaction(unit)
        return unit

    async def read(self, service: Service | str, sql: str, *args: Any) -> list[Row]:
        """Committed rows of the service's store, as named tuples; outside of any transaction."""
        name = service if isinstance(service, str) else service.name
        running = self.opened
        running.refuse_elsewhere()
        store = running.stores.get(name)
        if store is None:
            raise TransactionError(f"the service {name!r} is not open here", remedy="give it to the App")
        return await store.read(sql, args)

    @property
    def sync(self) -> SyncApp:
        """The same for code without an event loop: `with app.sync.open(): app.sync.publish(event)`.

        While `async with app.open():` lasts, other threads (`def` endpoints, say) use it without opening it.
        """
        if self._sync is None:
            from evenflow.sync import SyncApp

            self._sync = SyncApp(self)
        return self._sync


class _OpenTransaction(AbstractAsyncContextManager[Transaction]):
    __slots__ = ("_app", "_before", "_given", "_unit")

    def __init__(self, app: App, service: Service | str, on: object | None, wait: float) -> None:
        self._app = app
        self._given = service, on, wait

    async def __aenter__(self) -> Transaction:
        service, on, wait = self._given
        self._unit = unit = await self._app.unit_of_work(service, on=on, wait=wait)
        assert unit.current is not None
        self._before = open_unit.get()
        open_unit.set(unit)
        return unit.current

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self._unit.commit()
        except BaseException:
            kind = BaseException
            raise
        finally:
            open_unit.set(self._before)
            if kind is not None:
                await self._unit.rollback()


def _inside(outer: Callable[..., Any], inner: Callable[..., Any]) -> Callable[..., Any]:
    def both(*args: Any) -> Awaitable[Any]:
        *given, call_next = args
        result: Awaitable[Any] = outer(*given, lambda: inner(*given, call_next))
        return result

    return both


def _event_classes(hint: Any) -> list[type]:
    if is_event(hint):
        return [hint]
    return [cls for part in typing.get_args(hint) for cls in _event_classes(part)]
