"""Schedules, migrations and the check-up, by the functions that the commands call."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Event, Service, Settings, Topic, Transaction, operate
from evenflow.checkup import Finding
from evenflow.clock import SystemClock
from evenflow.errors import Refused
from evenflow.operate import NotFound
from evenflow.operate.doctor import examine
from evenflow.operate.doctor_url import examine_url
from evenflow.drivers.sqlite.examine import disk, holders
from evenflow.stores.sqlite.schema import own_migrations
from tests.on_postgres import files_only

ORDERS = Topic("orders", partitions=2)


class OrderPlaced(Event, type="order.placed", topic=ORDERS, key="order_id"):
    order_id: str


def make(folder: Path, *, start: Any = None, services: tuple[str, ...] = ("billing",)) -> tuple[App, Settings]:
    (folder / "sql").mkdir(exist_ok=True)
    (folder / "sql" / "0001_done.sql").write_text("create table done (id text primary key);\n")
    made = []
    for name in services:
        service = Service(name, migrations=folder / "sql")

        @service.on(OrderPlaced, group="write", start=start)
        async def write(order: OrderPlaced, tx: Transaction) -> None:
            tx.write("insert into done values ($1)", order.order_id)

        made.append(service)
    return App(*made), Settings.load({"folder": folder / "data", "lease": 2.0}, env={}, cwd=folder)


async def findings(app: App, settings: Settings, *, deep: bool = True) -> list[Finding]:
    return [each async for each in examine(app, settings, SystemClock(), deep=deep)]


def bad(found: list[Finding]) -> list[Finding]:
    return [each for each in found if each.level != "ok" and each.about != "disk"]


async def ran(app: App, settings: Settings, *ids: str) -> None:
    async with app.running(handle=None, settings=settings):
        await app.publish(*[OrderPlaced(order_id=each) for each in ids])
        assert await app.wait_idle(20)


# -- schedules --------------------------------------------------------------------------------------------------------


def test_what_is_scheduled_is_listed_in_order_and_cancelled_by_its_name(tmp_path: Path) -> None:
    async def main() -> None:
        app, settings = make(tmp_path, services=("billing", "stock"))
        async with app.running(settings=settings) as running:
            for service, name, after in (("billing", "b", 300), ("stock", "s", 100), ("billing", None, 200)):
                async with app.transaction(service) as tx:
                    tx.publish(OrderPlaced(order_id=f"{after}"), after=after, name=name)
            found = await operate.scheduled(running)
            assert [(each.service, each.name, each.envelope.key) for each in found] == [
                ("stock", "s", "100"), ("billing", None, "200"), ("billing", "b", "300"),
            ]  # fmt: skip
            assert [each.name for each in await operate.scheduled(running, "billing", 1)] == [None]
            later = {each.service: (each.count, each.next) for each in await operate.later(running)}
            assert later == {"billing": (2, found[1].due), "stock": (1, found[0].due)}
            with pytest.raises(NotFound, match="no service 'stok'"):
                await operate.scheduled(running, "stok")
            with pytest.raises(NotFound, match="nothing is scheduled under the name 'bb'"):
                await operate.cancel(running, "bb", "ann")
            assert (await operate.cancel(running, "b", "ann")).envelope.key == "300"
            assert len(await operate.scheduled(running)) == 2
            audit = await running.stores["billing"].read("select who, what, subject from evenflow_audit")
            assert audit == [("ann", "schedule cancel", "b")]
            async with app.transaction("billing") as tx:
                tx.publish(OrderPlaced(order_id="1"), after=100, name="s")
            with pytest.raises(Refused, match="billing and stock have scheduled something"):
                await operate.cancel(running, "s", "ann")
            assert (await operate.cancel(running, "s", "ann", "stock")).service == "stock"

    asyncio.run(main())


# -- migrations -------------------------------------------------------------------------------------------------------


OURS = [each.name for each in own_migrations()]


@files_only
def test_a_plan_changes_nothing_and_tells_pending_applied_changed_and_gone(tmp_path: Path) -> None:
    async def states() -> list[tuple[str, str]]:
        app, settings = make(tmp_path)
        (tmp_path / "sql" / "0001_done.sql").write_text(text)
        (plan,) = await operate.plan_migrations(app, settings, SystemClock())
        return [(step.migration.name, step.state) for step in plan.steps]

    async def main() -> None:
        assert await states() == [(name, "pending") for name in (*OURS, "0001_done.sql")]
        assert not (tmp_path / "data").exists()
        app, settings = make(tmp_path)
        (tmp_path / "data").mkdir()
        done = [(s, m.name) async for s, m in operate.apply_migrations(app, settings, SystemClock())]
        assert done == [("billing", name) for name, _ in await states()]
        assert {state for _, state in await states()} == {"applied"}
        assert [each async for each in operate.apply_migrations(app, settings, SystemClock())] == []

    text = "create table done (id text primary key);\n"
    asyncio.run(main())
    text = "create table done (id integer primary key);\n"
    assert dict(asyncio.run(states()))["0001_done.sql"] == "changed"
    (tmp_path / "sql" / "0001_done.sql").rename(tmp_path / "sql" / "0002_done.sql")
    text = "select 1;\n"
    assert ("0002_done.sql", "pending") in asyncio.run(states())


@files_only
def test_a_migration_that_fails_is_told_with_file_and_line_and_those_before_it_stay(tmp_path: Path) -> None:
    async def main() -> None:
        app, settings = make(tmp_path)
        file = tmp_path / "sql" / "0002_more.sql"
        file.write_text("create table a (x);\n\n-- a note\ncreate table b (\n  x int,\n  y int,,\n  z int\n);\n")
        (tmp_path / "data").mkdir()
        done = []
        with pytest.raises(Refused, match=f'near ",": syntax error\n  in {file}:6:\n'):
            async for _, migration in operate.apply_migrations(app, settings, SystemClock()):
                done.append(migration.name)
        assert done == [*OURS, "0001_done.sql"]
        with pytest.raises(NotFound, match="did you mean billing"):
            await operate.plan_migrations(app, settings, SystemClock(), ["biling"])

    asyncio.run(main())


def test_who_only_looks_applies_no_migration_of_the_service(tmp_path: Path) -> None:
    async def main() -> None:
        app, settings = make(tmp_path)
        async with app.running(settings=settings, join=False):
            pass
        (plan,) = await operate.plan_migrations(app, settings, SystemClock())
        assert [step.migration.name for step in plan.in_state("pending")] == ["0001_done.sql"]

    asyncio.run(main())


# -- doctor -----------------------------------------------------------------------------------------------------------


def test_a_check_up_of_what_has_not_run_makes_nothing(tmp_path: Path) -> None:
    app, settings = make(tmp_path)
    assert bad(asyncio.run(findings(app, settings))) == []
    assert not (tmp_path / "data").exists()


def test_a_check_up_of_a_sound_system_changes_no_table(tmp_path: Path) -> None:
    async def main() -> None:
        app, settings = make(tmp_path)
        await ran(app, settings, "1", "2")
        found = await findings(app, settings)
        assert bad(found) == [], found
        said = {each.about: each.message for each in found}
        assert said["topic orders"] == "2 partitions, 2 offsets kept"
        assert said["start"] == "nothing would be refused"
        assert any(each.message.startswith("its integrity is fine") for each in found)
        assert not any("integrity" in each.message for each in await findings(app, settings, deep=False))

    asyncio.run(main())


@files_only
def test_a_store_of_before_is_told_left_alone_by_the_check_up_and_brought_up_to_date_by_a_start(tmp_path: Path) -> None:
    def tables() -> set[str]:
        return {row[0] for row in connection.execute("select name from sqlite_schema")}

    app, settings = make(tmp_path)
    asyncio.run(ran(app, settings, "1"))
    connection = sqlite3.connect(tmp_path / "data" / "billing.db", isolation_level=None)
    for statement in (
        "drop table evenflow_schedule", "delete from evenflow_migration where owner = 'evenflow' and number = 5",
    ):  # fmt: skip
        connection.execute(statement)
    found = asyncio.run(findings(app, settings))
    assert [each.about for each in bad(found)] == ["schema of billing"] and "evenflow_schedule" not in tables()
    app, settings = make(tmp_path)
    asyncio.run(ran(app, settings, "2"))
    assert "evenflow_schedule" in tables()
    connection.close()
    assert bad(asyncio.run(findings(app, settings))) == []


@files_only
def test_a_check_up_names_what_is_wrong_with_its_remedy(tmp_path: Path) -> None:
    """One after another: a group that nobody runs, an orphan, a pause, a new group, a lost log, a restored store."""

    async def main() -> None:
        app, settings = make(tmp_path)
        await ran(app, settings, "1", "2")
        shutil.copytree(tmp_path / "data", tmp_path / "backup")
        async with app.running(settings=settings, join=False) as running:
            await app.publish(OrderPlaced(order_id="3"))
            await operate.pause(running, "billing.write", "ann", "why not")
            async with app.transaction("billing") as tx:
                tx.publish(OrderPlaced(order_id="4"))
        (paused,) = bad(await findings(app, settings))
        assert paused[:2] == ("warn", "group billing.write") and "why not; 1 waiting" in paused.message
        assert paused.remedy == "evenflow groups resume billing.write"

        service = Service("billing")

        @service.on(OrderPlaced, group="other")
        async def other(order: OrderPlaced) -> None: ...

        changed = App(service)
        found = bad(await findings(changed, settings))
        by_about = {each.about: each for each in found}
        assert "the code does not have it" in by_about["group billing.write"].message
        assert by_about["start"].level == "wrong" and "is new, and the topic" in by_about["start"].message
        assert by_about["schema of billing"].message == "0001_done.sql was applied, and its file is gone"

        for file in (tmp_path / "data").glob("billing.db*"):
            file.unlink()
        shutil.copy(tmp_path / "backup" / "billing.db", tmp_path / "data" / "billing.db")
        app, settings = make(tmp_path)
        await ran(app, settings, "5")
        for file in (tmp_path / "data").glob("billing.db*"):
            file.unlink()
        shutil.copy(tmp_path / "backup" / "billing.db", tmp_path / "data" / "billing.db")
        (wrong,) = [each for each in await findings(app, settings) if each.level == "wrong"]
        assert "was restored from a backup" in wrong.message and "evenflow store adopt billing" in wrong.remedy

    asyncio.run(main())


@files_only
def test_a_check_up_finds_a_damaged_file_and_one_of_another_kind(tmp_path: Path) -> None:
    async def main() -> None:
        app, settings = make(tmp_path)
        await ran(app, settings, *map(str, range(500)))
        log, store = tmp_path / "data" / "log.db", tmp_path / "data" / "billing.db"
        assert bad([each async for each in examine_url(f"sqlite:///{log}", SystemClock())]) == []
        assert bad([each async for each in examine_url(f"sqlite:///{store}", SystemClock())]) == []
        log.rename(tmp_path / "kept.db")
        (lost,) = bad(await findings(app, settings))
        assert lost.level == "wrong" and "log.db is not there" in lost.message and not log.exists()
        (tmp_path / "kept.db").rename(log)
        with log.open("r+b") as file:
            file.seek(4096 * 3)
            file.write(os.urandom(4096 * 4))
        found = await findings(app, settings)
        assert any(each.level == "wrong" and "is damaged" in each.message for each in found), found
        assert found[-1].message == "not looked at, for what is wrong above"
        (wrong,) = [each async for each in examine_url(f"sqlite:///{__file__}", SystemClock()) if each.level == "wrong"]
        assert "is no SQLite database" in wrong.message

    asyncio.run(main())


HOLD = """
import sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute("begin immediate")
print("ready", flush=True); time.sleep(600)
"""


@files_only
def test_a_write_lock_that_is_held_is_told_with_its_holder(tmp_path: Path) -> None:
    app, settings = make(tmp_path)
    asyncio.run(ran(app, settings, "1"))
    command = [sys.executable, "-c", HOLD, str(tmp_path / "data" / "billing.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            (found,) = bad(asyncio.run(findings(app, settings)))
        finally:
            process.kill()
    assert (found.level, found.about) == ("warn", "store of billing")
    assert f"process {process.pid} " in found.message and f"kill {process.pid}" in found.remedy
    assert bad(asyncio.run(findings(app, settings))) == []


def test_little_room_and_few_inodes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)

    def statvfs(blocks: int, inodes: int) -> list[str]:
        values = list(real)
        values[1], values[4], values[5], values[7] = 4096, blocks, 1000, inodes
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))
        return [each.level for each in disk(str(tmp_path))]

    assert statvfs(1 << 20, 500_000) == ["ok"]
    assert statvfs(1 << 16, 500_000) == ["warn"]
    assert statvfs(10, 500_000) == ["wrong"]
    assert statvfs(1 << 20, 500) == ["ok", "warn"]
    assert statvfs(1 << 20, 5) == ["ok", "wrong"]


def test_who_has_a_file_open(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("x")
    assert holders(str(file)) == []
    with file.open():
        assert holders(str(file)) == [os.getpid()]
