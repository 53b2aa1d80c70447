"""Rehearsal: dead letters run through the code at hand, each lane in a transaction that is rolled back.

It tells which would pass now. Nothing that a transaction reaches is changed, and nothing is published. What only a
commit would show (a deferred constraint) is not seen, and what a handler does outside of its transaction cannot be
taken back: so a handler that may do so is refused, and one that is seen to wait for anything else is ended there, and
the rehearsal with it.
A call that blocks the event loop, or that is given to a thread before the first wait, is not seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Generator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal

from evenflow.calling import publish_all
from evenflow.drive import ends_us
from evenflow.errors import EvenflowError, Refused, StoreUnavailable
from evenflow.failure import describe, fingerprint
from evenflow.handler import Delivery, HandlerSpec, Kind, caller
from evenflow.operate.finding import Home, has_transactions, home
from evenflow.operate.letters import Letter, dead_lanes, letters
from evenflow.operate.parked_filter import Filter
from evenflow.policy import HandlerTimeout
from evenflow.registry import Registry
from evenflow.running import Running
from evenflow.unit_of_work import Outside, Transaction, UnitOfWork, open_unit, rehearsed

ALL = Filter()
LANES = 1000
DEPTH = 100
"""Events of one lane that are tried: its head, and those behind it."""
HELD = 0.2
"""Seconds after which a lane is left, so that nobody waits long for its write lock."""
PAUSE = 0.02
"""Seconds of transactions after which there is a pause as long; and it is given back after each lane."""
NAMED = 5

Outcome = Literal["passes", "fails", "outside"]


class ActsOutside(EvenflowError):
    """The handler does something that no rollback takes back."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One event that was run. `published`: events that it would publish. `behind`: it waits behind a dead letter."""

    lane: str
    topic: str
    partition: int
    offset: int
    id: str
    type: str
    outcome: Outcome
    behind: bool
    published: int = 0
    error: str = ""
    error_type: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Alike:
    """Events that fail alike: how many, the error of the first, and the lanes of the first few."""

    fingerprint: str
    error_type: str
    error: str
    count: int
    lanes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of it. `cut`: lanes that were left before their end; `gone`: no dead letters any more.

    `stopped` says why it has ended before all lanes were tried, if it has; `where` is "file:line" of the handler.
    """

    group: str
    lanes: int
    tried: Sequence[Tried]
    cut: int = 0
    gone: int = 0
    stopped: str = ""
    where: str = ""

    def count(self, outcome: Outcome, *, behind: bool) -> int:
        """How many dead letters (or, behind, of those that wait behind them) had this outcome."""
        return sum(each.outcome == outcome and each.behind is behind for each in self.tried)

    @property
    def published(self) -> int:
        """How many events they would publish."""
        return sum(each.published for each in self.tried)

    def alike(self) -> list[Alike]:
        """Errors by fingerprint, the most frequent first."""
        found: dict[str, list[Tried]] = {}
        for each in self.tried:
            if each.outcome == "fails":
                found.setdefault(each.fingerprint, []).append(each)
        groups = [
            Alike(name, some[0].error_type, some[0].error, len(some), tuple(each.lane for each in some[:NAMED]))
            for name, some in found.items()
        ]
        return sorted(groups, key=lambda each: -each.count)


async def rehearse(
    running: Running,
    group: str,
    wanted: Filter = ALL,
    *,
    limit: int = LANES,
    depth: int = DEPTH,
    trust: bool = False,
) -> Rehearsal:
    """Run dead letters of a group through the code at hand, at most `limit`, and take everything back.

    When a dead letter passes, those behind it are run after it, `depth` in all. `trust` says that what the handler
    asks for, or does in its thread, reaches nothing outside; its providers are opened as a running app opens them.
    Raises `NotFound`, and `Refused` for a handler whose acts no rollback takes back.
    """
    found = await home(running, group, orphan=False)
    spec = _refuse(found, trust=trust)
    async with AsyncExitStack() as stack:
        stage = _Stage(running, found, spec, await _provided(running, spec, stack), depth)
        return await stage.run(await dead_lanes(found, wanted, limit))


def _refuse(found: Home, *, trust: bool) -> HandlerSpec:
    spec = found.spec
    assert spec is not None
    if not has_transactions(spec):
        raise Refused(
            f"{found.group!r} cannot be rehearsed: its handler has no transaction of its own, so what it does could "
            "not be rolled back",
            remedy=f"redrive a few of them first: evenflow parked redrive {found.group} --all --canary 5",
        )
    if trust:
        return spec
    if spec.dependencies:
        names = ", ".join(getattr(wanted, "__name__", str(wanted)) for _, wanted in spec.dependencies)
        raise Refused(
            f"{found.group!r} is not rehearsed: its handler asks for {names}, and what it does with that could not be "
            "rolled back",
            remedy="--trust opens it and goes on, if you know that nothing which it does reaches the outside",
        )
    if spec.blocking:
        raise Refused(
            f"{found.group!r} is not rehearsed: its handler blocks, in a thread where nobody sees what it waits for",
            remedy="--trust goes on, if you know that nothing which it does reaches the outside",
        )
    return spec


async def _provided(running: Running, spec: HandlerSpec, stack: AsyncExitStack) -> dict[str, Any]:
    opened: dict[Any, Any] = dict(running.overrides)
    if spec.dependencies and running.app.lifespan is not None:
        await stack.enter_async_context(running.app.lifespan(running.app))
    found = {}
    for name, wanted in spec.dependencies:
        running.app.providers.check(wanted, spec.where, opened)
        found[name] = await running.app.providers.resolve(wanted, opened, stack)
    return found


class _Stage:
    """One rehearsal of one group."""

    def __init__(self, running: Running, home: Home, spec: HandlerSpec, values: dict[str, Any], depth: int) -> None:
        self._running = running
        self._home = home
        self._spec = spec
        self._depth = depth
        self._call = caller(spec, values)
        self._around = running.app.around("event") if spec.kind is Kind.CHUNK else None
        self._bindings = Registry(spec.events, running.app.codecs).by_type
        self._outbox = running.outboxes[home.service]
        self._tried: list[Tried] = []
        self._cut = self._gone = 0
        self._held = 0.0

    async def run(self, lanes: Sequence[tuple[str, str]]) -> Rehearsal:
        stopped, count = "", 0
        for topic, lane in lanes:
            count += 1
            try:
                await self._lane(topic, lane)
            except ActsOutside as error:
                stopped = error.message
                break
            pause = 0.0
            if self._held > PAUSE:  # others have the lock to themselves for as long
                pause, self._held = min(self._held, HELD), 0.0
            await self._running.clock.sleep(pause)
        return Rehearsal(self._home.group, count, self._tried, self._cut, self._gone, stopped, self._spec.where)

    async def _lane(self, topic: str, lane: str) -> None:
        store = self._home.store
        rows = await letters(store.read, store.sql["parked_whole"], (self._home.group, topic, lane), self._depth + 1)
        if not rows or not rows[0].at_rest:
            self._gone += 1
            return
        unit = UnitOfWork(self._outbox, self._home.group)
        token = open_unit.set(unit)
        begun = time.perf_counter()
        try:
            for place, row in enumerate(rows):
                if place == self._depth or (place and time.perf_counter() - begun > HELD):
                    self._cut += 1
                    break
                tried = await self._event(unit, row)
                self._tried.append(tried)
                if tried.outcome == "outside":
                    raise ActsOutside(tried.error)
                if tried.outcome == "fails":
                    break
        finally:
            open_unit.reset(token)
            await unit.rollback()
            self._held += time.perf_counter() - begun

    async def _event(self, unit: UnitOfWork, row: Letter) -> Tried:
        binding = self._bindings.get(row.envelope.type)
        about = (row.name, row.topic, row.partition, row.offset, row.envelope.id, row.envelope.type)
        if binding is None:  # the handler does not take it (any more): it passes
            return Tried(*about, "passes", not row.head)
        before, outside = _publishes(unit), Outside()
        token = rehearsed.set(outside)
        try:
            await self._running.prepare(row.topic, [row.envelope.data])
            event = binding.read(row.envelope, row.topic)
            await self._called(unit, row, event)
            unit.current = None
            await unit.flush()
        except BaseException as error:
            if ends_us(error) or isinstance(error, StoreUnavailable):
                raise
            if not isinstance(error, ActsOutside) and not outside.seen:
                kind, mark = type(error).__name__, fingerprint(error)
                return Tried(*about, "fails", not row.head, 0, describe(error), kind, mark)
            outside.seen = outside.seen or str(error)
        finally:
            rehearsed.reset(token)
        if outside.seen:
            return Tried(*about, "outside", not row.head, error=self._acts(row, outside.seen))
        return Tried(*about, "passes", not row.head, _publishes(unit) - before)

    def _acts(self, row: Letter, what: str) -> str:
        return f"at {row.envelope.type} of {row.name!r} the handler {what}"

    async def _called(self, unit: UnitOfWork, row: Letter, event: Any) -> None:
        spec = self._spec
        tx = unit.current = Transaction(unit, row.envelope)
        delivery = Delivery(
            group=self._home.group, attempt=row.attempts + 1, envelope=row.envelope, partition=row.partition,
            offset=row.offset,
        )  # fmt: skip
        given = [event] if spec.kind is Kind.BATCH else event
        wanted = delivery if spec.delivery is not None else None
        if self._around is None:
            coroutine = self._invoke(unit, given, tx, wanted)
        else:
            coroutine = self._around(delivery, lambda: self._invoke(unit, given, tx, wanted))
        with _NoTasks(unit):
            publish_all(tx, await _Inside(coroutine, unit))

    async def _invoke(self, unit: UnitOfWork, event: Any, tx: Transaction, delivery: Delivery | None) -> Any:
        if not self._spec.blocking:
            return await self._call(event, tx, delivery)
        unit.waiting = "thread"
        try:
            async with asyncio.timeout(self._spec.policy.timeout):
                return await asyncio.to_thread(self._call, event, tx, delivery)
        except TimeoutError:
            raise HandlerTimeout(self._spec.policy.timeout) from None
        finally:
            unit.waiting = ""


def _publishes(unit: UnitOfWork) -> int:
    """How many events it publishes so far, at once and later."""
    due = unit.outbox.store.sql["due_add"]
    return len(unit.published) + sum(sql == due for sql, _ in unit.statements)


class _NoTasks:
    """While it lasts, a task of the handler that is rehearsed does nothing. All others of this event loop go on."""

    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        self._before = self._loop.get_task_factory()
        self._loop.set_task_factory(self._make)

    def __exit__(self, *_: object) -> None:
        if self._loop.get_task_factory() == self._make:  # otherwise another rehearsal began meanwhile
            self._loop.set_task_factory(self._before)

    def _make(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        outside = rehearsed.get()  # of whoever makes the task
        if self._before is not None:
            task = self._before(loop, coroutine, **options)
        else:
            task = asyncio.Task(coroutine, loop=loop, **options)
        if outside is not None and not self._unit.waiting:  # while it waits for its transaction, the store works
            outside.refuse("starts a task of its own")
            task.cancel()  # before its first step: nothing of it runs
        return task


class _Inside:
    """Awaits a coroutine as long as it waits for its transaction alone; what else it waits for is not begun."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], unit: UnitOfWork) -> None:
        self._coroutine = coroutine
        self._unit = unit

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        try:
            yielded = coroutine.send(None)
            while True:
                if not self._unit.waiting:
                    self._end(yielded)
                    raise ActsOutside("waits for something other than its transaction")
                try:
                    value = yield yielded
                except BaseException as error:
                    yielded = coroutine.throw(error)
                else:
                    yielded = coroutine.send(value)
        except StopIteration as stop:
            return stop.value

    def _end(self, yielded: Any) -> None:
        if isinstance(yielded, asyncio.Future):
            yielded.cancel()
        with suppress(Exception):
            self._coroutine.close()
