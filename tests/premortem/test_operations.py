"""Operations under kills: the leading process ends at any moment of a step, and another goes on where it was.

Each case is run again with its mend taken out, and must fail then.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Policy, Service, Transaction, operate
from evenflow.redrive import redriving
from evenflow.clock import Signal
from evenflow.errors import FenceLost
from evenflow.operate import Filter, Pace, naming
from evenflow.redrive.operation import Operation
from evenflow.redrive.redriving import Redriving
from evenflow.running import Running

from . import stage
from .planted import fails_without, must_fail, planted
from .stage import CLOCK, EFFECT, Wide, case, drive, killed, opened

Patch = pytest.MonkeyPatch
KEYS = [f"k{n:02}" for n in range(24)]
BAD = {"k03", "k17"}


def shop(failing: set[str], group: str = "keep") -> App:
    """An app that keeps what it handles, but for the keys that fail."""
    service = Service("shop", policy=Policy(attempts=1))

    @service.on(Wide, group=group, start="beginning")
    async def keep(event: Wide, tx: Transaction) -> None:
        if event.key in failing:
            raise ValueError("no card")
        tx.write(EFFECT, event.key, event.number)

    return App(service)


async def parked(path: Path, *, behind: int = 1) -> None:
    """Every key has a dead letter, and others behind it."""
    app = shop(set(KEYS))
    async with opened(app, path) as running:
        await app.publish(*[Wide(key=key, number=n) for n in range(1 + behind) for key in KEYS])
        await until(running, "select count(*) from evenflow_parked", len(KEYS) * (1 + behind))


async def until(running: Running, sql: str, value: Any, seconds: float = 15.0) -> None:
    deadline = CLOCK.monotonic() + min(seconds, stage.PATIENCE)
    while (found := (await running.stores["shop"].read(sql))[0][0]) != value:
        assert CLOCK.monotonic() < deadline, (sql, found, value)
        await CLOCK.wait(Signal(), 0.01)


async def ended(running: Running, name: str) -> Operation:
    await until(running, "select sum(open) from evenflow_operation", 0)
    return (await operate.operation_named(running, name)).asked.operation


async def ask(path: Path, pace: Pace) -> str:
    async with opened(shop(set()), path, handle=(), join=False) as running:
        (begun,) = await operate.ask(running, "redrive", Filter(), "ann", pace=pace)
        return begun.name


async def effects(running: Running) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for key, number in await running.stores["shop"].read("select key, number from effects order by id"):
        found.setdefault(key, []).append(number)
    return found


def die(patch: Patch, *, committed: bool, step: int) -> None:
    """End this process in its n-th step that moves something: before its commit, or right after it."""
    steps = 0
    real = redriving.move_on

    async def counted(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        moved = await real(*args)
        if steps == step and not committed:
            os.kill(os.getpid(), signal.SIGKILL)
        return moved

    original = Redriving.step

    async def stepping(self: Redriving, owned: Any) -> float:
        wait = await original(self, owned)
        if committed and steps >= step:
            os.kill(os.getpid(), signal.SIGKILL)
        return wait

    patch.setattr(redriving, "move_on", counted)
    patch.setattr(Redriving, "step", stepping)


@pytest.mark.parametrize("committed", [False, True])
def test_the_leader_is_killed_in_a_step_and_another_goes_on(committed: bool, tmp_path: Path) -> None:
    """Twice; and nothing is asked for twice, no key out of order, and the figures are those of one that nobody killed."""
    killed(lambda: _prepared(tmp_path))

    async def test(path: Path) -> None:
        async with opened(shop(BAD), path) as running:
            it = await ended(running, "1")
            assert (it.state, it.total, it.asked) == ("done", 24, 24)
            assert (it.passed, it.failed, it.gone) == (22, 2, 0)
            assert await effects(running) == {key: [0, 1] for key in KEYS if key not in BAD}
            store = running.stores["shop"]
            attempts = "select lane, attempts from evenflow_parked where head = 1 order by lane"
            assert [tuple(row) for row in await store.read(attempts)] == [("kk03", 2), ("kk17", 2)]
            told = await store.read("select count(*) from evenflow_audit where what = 'operation done'")
            assert told[0][0] == 1

    for step in (1, 2):
        killed(partial(_dying, tmp_path, committed=committed, step=step))
    drive(lambda: test(tmp_path), 30.0)


async def _prepared(path: Path) -> None:
    await parked(path)
    await ask(path, Pace(batch=5))
    os.kill(os.getpid(), signal.SIGKILL)


async def _dying(path: Path, *, committed: bool, step: int) -> None:
    with Patch.context() as patch:
        die(patch, committed=committed, step=step)
        async with opened(shop(BAD), path):
            await CLOCK.wait(Signal(), 15.0)


# -- what becomes of the group ----------------------------------------------------------------------------------------


def it_keeps_the_old_name(patch: Patch) -> None:
    patch.setattr(naming, "_PARTS", tuple(each for each in naming._PARTS if each != "rename_operation"))


@fails_without(it_keeps_the_old_name)
def test_an_operation_goes_with_its_group_when_that_is_renamed() -> None:
    async def test(path: Path) -> None:
        await parked(path)
        name = await ask(path, Pace(batch=5))
        async with opened(shop(set(), "kept"), path, join=False) as looking:
            await operate.rename(looking, "shop.keep", "shop.kept", "bob")
        async with opened(shop(set(), "kept"), path) as running:
            it = await ended(running, name)
            assert (it.group, it.state, it.passed, it.gone) == ("shop.kept", "done", 24, 0)

    case(test)


def it_is_not_told(patch: Patch) -> None:
    patch.setattr(naming, "_DROPS", tuple(each for each in naming._DROPS if "operation" not in each))


@fails_without(it_is_not_told)
def test_an_operation_ends_with_its_group_when_that_is_dropped() -> None:
    """What it had asked for has not passed: it is gone with the rest."""

    async def test(path: Path) -> None:
        await parked(path)
        name = await ask(path, Pace(batch=5))
        app = App(Service("shop"), events=[Wide])
        async with opened(app, path, join=False) as looking:
            await operate.drop(looking, "shop.keep", "bob")
        async with opened(app, path) as running:
            it = await ended(running, name)
            assert (it.state, it.passed, it.gone, it.asked) == ("cancelled", 0, 5, 5)
            assert await running.stores["shop"].read("select * from evenflow_operation_item") == []

    case(test)


# -- twins ------------------------------------------------------------------------------------------------------------


def no_guard(patch: Patch) -> None:
    patch.setattr(redriving, "guard", lambda sql, owned: ("update evenflow_store set producer = producer", ()))


@fails_without(no_guard)
def test_a_process_that_led_before_asks_for_nothing_any_more() -> None:
    """It was frozen between its look and its transaction, and another leads by now."""

    async def test(path: Path) -> None:
        await parked(path)
        name = await ask(path, Pace(batch=5, rate=1.0))
        async with opened(shop(set()), path) as running:
            await until(running, "select min(case when asked > 1 then 1 else 0 end) from evenflow_operation", 1)
            owned = running.outboxes["shop"].owned
            assert owned is not None
            await operate.pause_operation(running, name, "ann")
            await operate.resume_operation(running, name, "ann")  # there is a credit of one lane now or soon
            stale = replace(owned, fence=owned.fence - 1)
            chore = Redriving(running.stores["shop"], _Later())  # type: ignore[arg-type]
            with pytest.raises(FenceLost):
                await chore.step(stale)

    case(test)


class _Later:
    """A clock by which much time has passed, so that the rate allows more."""

    def now(self) -> float:
        return CLOCK.now() + 100.0


def asked_in_two_transactions(patch: Patch) -> None:
    """What is asked for is noted in a transaction, the wish made in the next."""
    real = redriving._ask

    async def half(session: Any, sql: Any, each: Operation, count: int, now: float) -> int:
        without = {**sql, "operation_wish": "select 1"}
        return (
            await real(session, without, each, count, now) if each.asked else await real(session, sql, each, count, now)
        )

    patch.setattr(redriving, "_ask", half)


def outcomes_are_forgotten(patch: Patch) -> None:
    async def nothing(session: Any, sql: Any, each: Operation, now: float) -> Operation:
        return each

    patch.setattr(redriving, "_learn", nothing)


@fails_without(asked_in_two_transactions, outcomes_are_forgotten)
def test_two_processes_share_the_work_and_one_of_them_leads() -> None:
    """Half of the partitions belong to one that does not lead: it takes up the wishes, the other learns of them."""

    async def test(path: Path) -> None:
        await parked(path)
        name = await ask(path, Pace(batch=5))
        async with opened(shop(set()), path) as one, opened(shop(set()), path) as two:
            it = await ended(one, name)
            assert (it.state, it.passed, it.failed, it.gone) == ("done", 24, 0, 0)
            assert await effects(two) == {key: [0, 1] for key in KEYS}
            leads = [running.outboxes["shop"].owned is not None for running in (one, two)]
            assert sorted(leads) == [False, True]

    case(test, 25.0)


@planted(__name__)
def test_the_case_fails_without_its_mend(case: Any, plant: Any, monkeypatch: Patch) -> None:
    monkeypatch.setattr(stage, "PATIENCE", 1.5)
    must_fail(case, plant, monkeypatch)
