"""Checks of a store, third part: what it keeps when it is closed, migrations, heartbeats, our own tables."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from evenflow.errors import Refused, StoreUnavailable
from evenflow.store import Migration, Process
from evenflow.testing.store_statements import ADD, ALL, MADE, StoreFactory, make, need_shared, refused, write
from evenflow.testing.suite import NotApplicable, expect


async def check_reopening_keeps_everything(factory: StoreFactory) -> None:
    async with factory() as store:
        if not store.capabilities.durable:
            raise NotApplicable("it keeps nothing")
        identity = store.id
        await make(store)
        await asyncio.gather(*(write(store, ADD, n, "w") for n in range(20)))
        lost = store.session()
        await lost.begin()
        await lost.execute(ADD, (99, "not committed"))
    async with factory() as store:
        expect(store.id == identity, "the identity changed")
        expect(len(await store.read(ALL)) == 20, "not exactly what was committed is there")


async def check_a_closed_store_says_so(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
    await refused(store.read(ALL), StoreUnavailable)
    await refused(write(store, ADD, 1, ""), StoreUnavailable)


def _migrations(*scripts: str) -> list[Migration]:
    return [Migration("shop", n, f"{n:04}_step.sql", sql) for n, sql in enumerate(scripts, 1)]


_STEPS = _migrations(
    f"{MADE};\n-- a comment; with a semicolon\ninsert into made values (1, 'a;b');", "insert into made values (2, '$1')"
)


async def check_migrations_are_applied_once(factory: StoreFactory) -> None:
    async with factory() as store:
        expect(await store.migrate(_STEPS[:1]) == _STEPS[:1], "the first was not applied")
        expect(await store.migrate(_STEPS) == _STEPS[1:], "not exactly the second was applied")
        expect(await store.migrate(_STEPS) == [], "one was applied twice")
        other = [Migration("other", 1, "0001_other.sql", "insert into made values (3, 'other')")]
        expect(await store.migrate(other) == other, "owners share their numbers")
        expect(await store.read(ALL) == [(1, "a;b"), (2, "$1"), (3, "other")], "they did not do what they say")


async def check_what_is_applied_is_told(factory: StoreFactory) -> None:
    async with factory() as store:
        await store.migrate(_STEPS)
        found = await store.applied()
        expect([each.number for each in found if each.owner == "shop"] == [each.number for each in _STEPS], "not ours")
        own = [each.number for each in store.own_migrations()]
        expect([each.number for each in found if each.owner == "evenflow"] == own, "not the steps of our tables")
        wrong = [each for each in await store.examine(deep=True) if each.level == "wrong"]
        expect(not wrong, f"a sound database is wrong: {wrong}")


async def check_a_changed_migration_is_refused(factory: StoreFactory) -> None:
    async with factory() as store:
        await store.migrate(_STEPS)
        changed = [_STEPS[0], _STEPS[1]._replace(sql="insert into made values (5, 'other')")]
        error = await refused(store.migrate(changed), Refused)
        expect("0002_step.sql" in str(error), f"the file is not named: {error}")
        lines = [each._replace(sql=each.sql.replace("\n", "\r\n")) for each in _STEPS]
        expect(await store.migrate(lines) == [], "another system's line ends are a change")


async def check_a_failing_migration_leaves_nothing(factory: StoreFactory) -> None:
    async with factory() as store:
        bad = _migrations(
            MADE, "insert into made values (1, 'x'); insert into nowhere values (1)", "create table never (id bigint)"
        )
        error = await refused(store.migrate(bad), Refused)
        expect("0002_step.sql" in str(error) and "nowhere" in str(error), f"it is not named: {error}")
        expect(await store.read(ALL) == [], "half a migration was applied")
        good = _migrations(MADE, "insert into made values (1, 'x')")
        expect(await store.migrate(good) == good[1:], "the corrected file was not applied")


async def check_migrations_at_once_are_applied_once(factory: StoreFactory) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(factory())
        need_shared(store)
        stores = [store, *[await stack.enter_async_context(factory()) for _ in range(4)]]
        applied = await asyncio.gather(*(each.migrate(_STEPS) for each in stores))
        expect(sorted(each.number for some in applied for each in some) == [1, 2], f"applied: {applied}")
        expect(len(await store.read(ALL)) == 2, "they did not do what they say, once")


def _process(name: str, beat: int) -> Process:
    return Process(id=name, pid=17, boot="boot", started=2**40, groups=("a.b", "c.d"), beat=beat)


async def check_heartbeats(factory: StoreFactory) -> None:
    async with factory() as store:
        expect(await store.processes() == [], "somebody is there already")
        for beat in range(3):
            await store.beat(_process("one", beat))
        await store.beat(_process("two", 7))
        found = sorted(await store.processes(), key=lambda each: each.id)
        expect(found == [_process("one", 2), _process("two", 7)], f"found {found}")
        await store.forget("one")
        await store.forget("nobody")
        expect(await store.processes() == [_process("two", 7)], "not exactly the one was forgotten")


async def check_a_heartbeat_and_a_look_are_one_call(factory: StoreFactory) -> None:
    async with factory() as store:
        await store.beat(_process("other", 3))
        for beat in range(3):
            group = (f"g{beat}", "t", "log", 0.0)
            await store.transact(
                lambda session, group=group: session.execute(store.sql["group_create"], group)  # type: ignore[misc]
            )
            rows, processes = await store.beat_and_look(_process("one", beat), store.sql["group_list"])
            expect([row[0] for row in rows] == [f"g{n}" for n in range(beat + 1)], f"found {rows}")
            found = sorted(processes, key=lambda each: each.id)
            expect(found == [_process("one", beat), _process("other", 3)], f"found {found}")


async def check_heartbeats_do_not_wait_for_a_writer(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        session = store.session()
        await session.begin()
        await session.execute(ADD, (1, "held"))
        async with asyncio.timeout(1):
            await store.beat(_process("one", 1))
            expect(await store.processes() == [_process("one", 1)], "the beat is not there")
        await session.rollback()
        expect(await store.processes() == [_process("one", 1)], "the beat was part of the transaction")


async def check_heartbeats_are_seen_by_others(factory: StoreFactory) -> None:
    async with factory() as store:
        need_shared(store)
        async with factory() as other:
            await store.beat(_process("one", 1))
            expect(await other.processes() == [_process("one", 1)], "another object does not see it")
            await other.forget("one")
            expect(await store.processes() == [], "another object cannot forget it")


async def check_our_own_statements_are_there(factory: StoreFactory) -> None:
    async with factory() as store:
        await store.transact(
            lambda session: session.execute(store.sql["audit_add"], (1.5, "who", "what", "subject", ""))
        )
        rows = await store.read("select at, who from evenflow_audit")
        expect(rows == [(1.5, "who")], f"our tables are not as our statements say: {rows}")
        expect(bool(store.id) and bool(store.name), "it has no identity")
