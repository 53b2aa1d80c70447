"""What a process looks at while nothing happens, and what it must notice all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Service, Transaction, outbox as outbox_module, testing
from evenflow.errors import StoreUnavailable
from evenflow.leading import Leading
from evenflow.outbox import Outbox
from evenflow.runtime import ServiceRuntime
from . import stage
from .planted import fails_without, must_fail, planted
from .stage import EFFECT, Order, Wide, case, drained, effects, eventually, log_of, opened, publishing, shop

Patch = pytest.MonkeyPatch


def several(groups: int) -> App:
    service = Service("shop")

    async def handle(event: Wide, tx: Transaction) -> None:
        tx.write(EFFECT, event.key, event.number)

    for number in range(groups):
        service.on(Wide, group=f"g{number}", start="beginning")(handle)
    return App(service, events=[Wide])


def test_a_tick_costs_a_read_and_a_list_of_processes_for_all_groups() -> None:
    async def test(path: Path) -> None:
        async with opened(several(6), path, lease=600.0) as running:  # no tick but ours
            runtime, counts = running.runtimes["shop"], {"reads": 0, "processes": 0}
            await eventually(lambda: len(runtime._resumed) == 6)
            await eventually(lambda: all(len(loop.owned) == 4 for loop in running.loops()))
            runtime.outbox.step = never  # type: ignore[method-assign]
            runtime.store.read = counted("reads", runtime.store.read, counts)  # type: ignore[method-assign]
            runtime.store.processes = counted("processes", runtime.store.processes, counts)  # type: ignore[method-assign]
            await runtime.tick()
            assert counts == {"reads": 1, "processes": 1}

    case(test)


def relay_looks_by_itself(patch: Patch) -> None:
    patch.setattr(Outbox, "seen", lambda *_: None)


def leader_looks_by_itself(patch: Patch) -> None:
    patch.setattr(Leading, "seen", lambda *_, **__: None)


@fails_without(relay_looks_by_itself, leader_looks_by_itself)
def test_while_nothing_happens_the_tick_looks_for_relay_and_leader() -> None:
    async def test() -> None:
        async with testing.world(publishing()) as world:
            store, asked = world.running.stores["shop"], list[str]()
            names, read = {text: name for name, text in store.sql.items()}, store.read

            async def counted_read(sql: str, args: tuple[Any, ...] = ()) -> Any:
                asked.append(names.get(sql, ""))
                return await read(sql, args)

            await world.advance(2.0)
            store.read = counted_read  # type: ignore[method-assign]
            for _ in range(20):
                await world.advance(1.0)
            assert asked.count("owner_list") >= 35
            assert asked.count("relay_next") <= 2
            assert asked.count("operation_open") <= 5

    asyncio.run(test())


def test_that_the_store_answers_again_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with testing.world(publishing()) as world:
            runtime = world.running.runtimes["shop"]
            tick, gone = runtime.tick, StoreUnavailable("the store is away")

            async def fails() -> None:
                raise gone

            caplog.set_level("INFO", "evenflow")
            runtime.tick = fails  # type: ignore[method-assign]
            await world.advance(3.0)
            runtime.tick = tick  # type: ignore[method-assign]
            await world.advance(3.0)

    asyncio.run(test())
    said = [each.getMessage() for each in caplog.records if each.getMessage().startswith("service shop: ")]
    assert said == ["service shop: the store is away", "service shop: its store and its engine answer again"]


async def never() -> float:
    return 3600.0


def counted(name: str, real: Callable[..., Awaitable[Any]], counts: dict[str, int]) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any) -> Any:
        counts[name] += 1
        return await real(*args)

    return call


def stops_with_the_heartbeat(patch: Patch) -> None:
    async def tick(self: ServiceRuntime) -> None:
        rows, processes = await self.store.beat_and_look(self._next_beat(), self.store.sql["owner_list"])
        await self._look(rows, processes, [])

    patch.setattr(ServiceRuntime, "tick", tick)


@fails_without(stops_with_the_heartbeat)
def test_a_heartbeat_that_cannot_be_written_stops_nothing_else() -> None:
    async def test(path: Path) -> None:
        app = shop(Order)
        async with opened(app, path) as running:
            (loop,), store = running.loops(), running.stores["shop"]
            await eventually(lambda: loop.owned)

            async def refused(_process: Any) -> None:
                raise StoreUnavailable("the disk is full")

            store.beat = refused  # type: ignore[method-assign]
            pause = (loop.name, "", 0, -1, 0.0, "somebody", "")
            await store.transact(lambda session: session.execute(store.sql["pause_put"], pause))
            await eventually(lambda: not loop.owned)
            await store.transact(lambda session: session.execute(store.sql["pause_remove"], pause[:4]))
            await eventually(lambda: loop.owned)
            await app.publish(Order(key="k", number=1))
            await drained(running)
            assert await effects(running) == [("k", 1)]

    case(test)


def deaf_to_the_store(patch: Patch) -> None:
    def hear(_self: Outbox, _told: Any) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    patch.setattr(Outbox, "_hear", hear)


@fails_without(deaf_to_the_store)
def test_a_publish_behind_another_processes_relay_is_woken_by_its_commit() -> None:
    """No poll and no tick comes in time here; the two hear of each other by their commits alone."""
    real, outbox_module.POLL = outbox_module.POLL, 3600.0

    async def test(path: Path) -> None:
        first, second = publishing(), publishing()
        async with opened(first, path, handle=(), lease=72000.0) as relays:
            await eventually(lambda: relays.outboxes["shop"].owned)
            async with opened(second, path, handle=(), lease=72000.0) as other:
                assert other.outboxes["shop"].owned is None
                async with second.transaction("shop") as tx:
                    tx.publish(Order(key="k", number=1))
                publishes = asyncio.create_task(_published(second))
                try:
                    await eventually(publishes.done)
                finally:
                    publishes.cancel()
                    await asyncio.gather(publishes, return_exceptions=True)
                assert len(await log_of(relays, "orders")) == 2

    async def _published(app: App) -> None:
        await app.publish(Order(key="k", number=2))

    try:
        case(test)
    finally:
        outbox_module.POLL = real


def test_what_is_due_is_told_to_the_relay_of_this_process_and_of_another() -> None:
    real, outbox_module.POLL = outbox_module.POLL, 3600.0

    async def test(path: Path) -> None:
        first, second = publishing(), publishing()
        async with opened(first, path, handle=(), lease=72000.0) as relays:
            await eventually(lambda: relays.outboxes["shop"].owned)
            async with opened(second, path, handle=(), lease=72000.0):
                for number, app in enumerate((first, second)):
                    async with app.transaction("shop") as tx:
                        tx.publish(Order(key="k", number=number), after=0.2)
                await eventually(lambda: _stored(relays, 2))

    async def _stored(running: Any, count: int) -> bool:
        return len(await log_of(running, "orders")) == count

    try:
        case(test)
    finally:
        outbox_module.POLL = real


@planted(__name__)
def test_the_case_fails_without_its_mend(case: Any, plant: Any, monkeypatch: Patch) -> None:
    monkeypatch.setattr(stage, "PATIENCE", 2.0)
    must_fail(case, plant, monkeypatch)
