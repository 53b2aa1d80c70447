"""Schedules in several processes: one run per due time through kills, and old code beside new."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Due, Service, Transaction
from evenflow.outbox import RELAY_GROUP
from evenflow.position import Owned
from evenflow.running import Running
from evenflow.schedules.scheduling import Schedules

from .planted import Case, Plant, fails_without, must_fail, planted
from .stage import EFFECT, case, drained, effects, ended, eventually, folder, in_child, opened, settings

STEP = 0.1


def sweeping(seconds: float = STEP, missed: Any = "all", name: str = "sweep") -> App:
    """An app whose schedule writes down, in its transaction, for which time it ran."""
    service = Service("shop")

    @service.every(name, seconds, missed=missed)
    async def sweep(due: Due, tx: Transaction) -> None:
        tx.write(EFFECT, due.name, round(due.due.timestamp() * 1000))

    return App(service)


async def _for_ever(app: App, path: Path) -> None:
    async with opened(app, path):
        await asyncio.sleep(60)


def test_processes_that_are_killed_and_frozen_have_one_run_for_each_due_time() -> None:
    with folder() as path:

        async def begin() -> None:
            async with opened(sweeping(), path):
                pass

        asyncio.run(begin())
        children = [in_child(lambda: _for_ever(sweeping(), path)) for _ in range(2)]

        async def kills() -> None:
            looks = App(Service("shop"))
            async with looks.running(handle=(), settings=settings(path), join=False) as running:
                for turn in range(6):
                    seen = len(await effects(running))
                    await eventually(lambda seen=seen: _more(running, seen + 2), 8.0)
                    victim = await eventually(lambda: _leader(running, children), 8.0)
                    if turn % 3 == 2:  # frozen until another leads, and back too late
                        os.kill(victim, signal.SIGSTOP)
                        rest = [pid for pid in children if pid != victim]
                        await eventually(lambda rest=rest: _leader(running, rest), 15.0)
                        os.kill(victim, signal.SIGCONT)
                        continue
                    os.kill(victim, signal.SIGKILL)
                    ended(victim)
                    children.remove(victim)
                    children.append(in_child(lambda: _for_ever(sweeping(), path)))

        try:
            asyncio.run(kills())
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
                ended(pid)

        async def counts() -> None:
            async with opened(sweeping(), path) as running:
                await drained(running)
                times = [number for _, number in await effects(running)]
            steps = {later - earlier for earlier, later in zip(sorted(times), sorted(times)[1:], strict=False)}
            assert steps == {round(STEP * 1000)}, f"a time has no run, or two: {sorted(times)}"

        asyncio.run(counts())


async def _more(running: Running, count: int) -> bool:
    return len(await effects(running)) >= count


async def _leader(running: Running, children: list[int]) -> int:
    store = running.stores["shop"]
    owners = [row[7] for row in await store.read(store.sql["owner_list"]) if row[8] == RELAY_GROUP]
    pids = [each.pid for each in await store.processes() if each.id in owners]
    return next((pid for pid in pids if pid in children), 0)


# -- the row that says once -------------------------------------------------------------------------------------------


def no_compare_and_set(patch: pytest.MonkeyPatch) -> None:
    real = Schedules.step

    async def step(self: Schedules, owned: Owned) -> float:
        anything = "and cast($2 as double precision) is not null"
        moves = re.sub(r"and next_due is (not distinct from )?\$2", anything, self._store.sql["schedule_move"])
        self._store.sql = {**self._store.sql, "schedule_move": moves}  # type: ignore[misc]
        return await real(self, owned)

    patch.setattr(Schedules, "step", step)


@fails_without(no_compare_and_set)
def test_who_read_the_row_before_another_moved_it_publishes_nothing() -> None:
    async def test(path: Path) -> None:
        app = sweeping(3600.0)
        async with opened(app, path) as running:
            store, chore = running.stores["shop"], running.schedules["shop"]
            owned = await eventually(lambda: running.outboxes["shop"].owned)
            await eventually(lambda: running.runtimes["shop"].leading.looked)
            past = "update evenflow_schedule set anchor = anchor - 1800, next_due = $1"
            fire, turn, read = chore._fire, asyncio.Event(), asyncio.Event()

            async def late(*args: Any) -> None:  # both have read the row before either has its transaction
                if not turn.is_set():
                    turn.set()
                    await read.wait()
                await fire(*args)
                read.set()

            chore._fire = late  # type: ignore[method-assign]
            await store.transact(lambda session: session.execute(past, (running.clock.now() - 1.0,)))
            steps = [asyncio.create_task(chore.step(owned)) for _ in range(2)]
            await asyncio.gather(*steps)
            await drained(running)
            assert len(await effects(running)) == 1

    case(test)


# -- old code and new -------------------------------------------------------------------------------------------------


async def _row(running: Running) -> tuple[float, float, float]:
    rows = await running.stores["shop"].read("select seconds, anchor, next_due from evenflow_schedule")
    return tuple(rows[0])  # type: ignore[return-value]


def test_the_last_to_start_says_when_and_nobody_takes_turns() -> None:
    async def test(path: Path) -> None:
        async with opened(sweeping(3600.0), path) as old:
            await eventually(lambda: old.runtimes["shop"].leading.looked)
            assert (await _row(old))[0] == 3600.0
            async with opened(sweeping(1800.0), path) as new:
                before = await _row(new)
                assert before[0] == 1800.0
                for running in (old, new):  # each of them looks as the one that leads does
                    chore, owned = running.schedules["shop"], old.outboxes["shop"].owned
                    assert owned is not None
                    for _ in range(3):
                        await running.runtimes["shop"].tick()
                        await chore.step(owned)
                assert await _row(new) == before
            await eventually(lambda: _says(old, 3600.0))  # the new code has gone: it was rolled back

    case(test)


async def _says(running: Running, seconds: float) -> bool:
    return (await _row(running))[0] == seconds


def test_code_as_before_changes_nothing_at_a_restart() -> None:
    async def test(path: Path) -> None:
        async with opened(sweeping(3600.0), path) as running:
            before = await _row(running)
        async with opened(sweeping(3600.0), path) as running:
            assert await _row(running) == before
        async with opened(sweeping(1800.0), path) as running:
            after = await _row(running)
            assert after[0] == 1800.0
            assert after[2] == after[1] + 1800.0

    case(test)


def test_a_leader_with_old_code_fires_what_new_code_handles_and_nobody_what_nobody_handles() -> None:
    async def test(path: Path) -> None:
        async with opened(App(Service("shop")), path) as old:
            await eventually(lambda: old.outboxes["shop"].owned)
            async with opened(sweeping(), path) as new:
                await eventually(lambda: _more(new, 3))
                assert new.outboxes["shop"].owned is None
            seen = len(await effects(old))
            runs = "select runs from evenflow_schedule"
            await eventually(lambda: _stands(old))
            ((count,),) = await old.stores["shop"].read(runs)
            owned = old.outboxes["shop"].owned
            assert owned is not None
            await old.schedules["shop"].step(owned)
            assert [tuple(row) for row in await old.stores["shop"].read(runs)] == [(count,)]
            assert count >= seen

    case(test)


async def _stands(running: Running) -> bool:
    return all("shop.sweep" not in each.groups for each in running.runtimes["shop"].live)


def test_waiting_for_idle_ends_although_a_schedule_goes_on() -> None:
    async def test(path: Path) -> None:
        app = sweeping(STEP)
        async with opened(app, path) as running:
            assert await app.wait_idle(10.0)
            await eventually(lambda: _more(running, 2))
            assert await app.wait_idle(10.0)

    case(test)


@planted(__name__)
def test_the_case_fails_without_its_mend(case: Case, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    must_fail(case, plant, monkeypatch)
