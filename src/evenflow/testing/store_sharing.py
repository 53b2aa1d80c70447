"""Checks of a store, second part: many writers, and other processes' objects."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from evenflow.errors import StatementFailed, TransactionError
from evenflow.store import Session, Store
from evenflow.testing.store_statements import ADD, ALL, StoreFactory, make, need_shared, refused, write
from evenflow.testing.suite import NotApplicable, expect


async def check_work_gives_its_result(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)

        async def work(session: Session) -> str:
            await session.execute(ADD, (1, "one"))
            return f"{(await session.fetch(ALL))[0][1]}!"

        expect(await store.transact(work) == "one!", "transact did not return what the work did")


async def check_a_failing_unit_fails_alone(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)

        async def unit(number: int) -> int:
            async def work(session: Session) -> int:
                await session.execute(ADD, (number, "w"))
                await session.savepoint()
                await session.execute(ADD, (1000 + number, "w"))
                if number % 10 == 3:
                    raise LookupError(number)
                if number % 10 == 4:
                    await session.execute(ADD, (number, "again"))
                await session.release()
                return number

            return await store.transact(work)

        outcomes = await asyncio.gather(*map(unit, range(200)), return_exceptions=True)
        good = [n for n in range(200) if n % 10 not in {3, 4}]
        expect([each for each in outcomes if isinstance(each, int)] == good, "other units failed than those at fault")
        expect(isinstance(outcomes[13], LookupError), f"the work's own error became {outcomes[13]!r}")
        expect(isinstance(outcomes[14], StatementFailed), f"the statement's error became {outcomes[14]!r}")
        rows = await store.read("select id from made where id < 1000 order by id")
        expect([row[0] for row in rows] == good, "not exactly the good units were committed")
        ((count,),) = await store.read("select count(*) from made")
        expect(count == 2 * len(good), "a unit was committed in part")


async def check_a_failing_unit_that_let_others_run_fails_whole(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)

        async def unit(number: int) -> None:
            async def work(session: Session) -> None:
                await session.execute(ADD, (number, "begun"))
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                await session.execute(ADD, (1000 + number, "ended"))
                if number % 2:
                    raise LookupError(number)

            await store.transact(work)

        await asyncio.gather(*map(unit, range(40)), return_exceptions=True)
        rows = {row[0] for row in await store.read(ALL)}
        good = set(range(0, 40, 2))
        expect(rows == good | {1000 + n for n in good}, f"not exactly the good units, whole: {sorted(rows)}")


async def check_units_run_in_the_order_of_asking(factory: StoreFactory) -> None:
    async with factory() as store:
        if store.capabilities.writers != 1:
            raise NotApplicable("units run side by side")
        await make(store)
        order: list[int] = []
        session = store.session()
        await session.begin()

        async def unit(number: int) -> None:
            async def work(session: Session) -> None:
                order.append(number)
                await session.execute(ADD, (number, ""))

            await store.transact(work)

        async def whole(number: int) -> None:
            session = store.session()
            await session.begin()
            order.append(number)
            await session.execute(ADD, (number, ""))
            await session.commit()

        tasks = [asyncio.ensure_future((whole if n % 7 == 5 else unit)(n)) for n in range(100)]
        await asyncio.sleep(0.01)
        expect(order == [], "somebody wrote beside an open session")
        await session.commit()
        await asyncio.gather(*tasks)
        expect(order == list(range(100)), f"they ran in the order {order}")


async def check_a_cancelled_waiter_is_passed_over(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        session = store.session()
        await session.begin()
        await session.execute(ADD, (0, "held"))
        tasks: list[asyncio.Future[object]] = [asyncio.ensure_future(write(store, ADD, n, "w")) for n in range(1, 10)]
        sessions = [store.session() for _ in range(3)]
        tasks += [asyncio.ensure_future(each.begin()) for each in sessions]
        await asyncio.sleep(0.01)
        waited = [number for number in (0, 3, 8, 9, 10, 11) if tasks[number].cancel()]
        await session.commit()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        cancelled = [n for n, each in enumerate(outcomes) if isinstance(each, asyncio.CancelledError)]
        expect(cancelled == waited, f"cancelled were {cancelled} of {waited}")
        expect(store.capabilities.writers > 1 or len(waited) == 6, "a session began beside an open one")
        for each in sessions:  # where there are several writers, these may have begun
            await each.rollback()
        async with asyncio.timeout(10):
            await write(store, ADD, 50, "after")
        expect([row[0] for row in await store.read(ALL)] == [0, 2, 3, 5, 6, 7, 8, 50], "not exactly the others wrote")


async def check_a_waiter_cancelled_as_its_turn_comes_passes_it_on(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        for number in range(0, 40, 4):
            session = store.session()
            await session.begin()
            if number % 8:
                first = asyncio.ensure_future(store.session().begin())
            else:
                first = asyncio.ensure_future(_nothing(store))
            second = asyncio.ensure_future(write(store, ADD, number, "w"))
            await asyncio.sleep(0)
            await session.commit()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            async with asyncio.timeout(10):
                expect(await second == 1, "the next one did not write")


async def _nothing(store: Store) -> None:
    await store.transact(lambda session: session.run([]))


async def check_cancellation_at_any_moment_leaves_the_store_working(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        for steps in range(12):
            tasks = [asyncio.ensure_future(write(store, ADD, 100 * steps + n, "w")) for n in range(8)]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in tasks[1::2]:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            expect(all(each == 1 for each in outcomes[::2]), f"a unit that nobody cancelled failed: {outcomes}")
            done = {100 * steps + n for n, each in enumerate(outcomes) if each == 1}
            rows = await store.read("select id from made where id >= $1", (100 * steps,))
            expect(done <= {row[0] for row in rows}, "a unit that returned is not there")


async def check_a_cancelled_session_leaves_nothing(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        inside = asyncio.Event()

        async def slow() -> None:
            session = store.session()
            try:
                await session.begin()
                await session.execute(ADD, (1, "gone"))
                inside.set()
                await asyncio.Event().wait()
                await session.commit()
            finally:
                await session.rollback()

        task = asyncio.ensure_future(slow())
        await inside.wait()
        waiting = asyncio.ensure_future(write(store, ADD, 2, "kept"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await waiting
        expect(await store.read(ALL) == [(2, "kept")], "what was cancelled was written")


async def check_a_unit_is_ended_by_the_store(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        kept: list[Session] = []

        async def work(session: Session) -> None:
            kept.append(session)
            for step in (session.begin(), session.commit(), session.rollback()):
                await refused(step, TransactionError)
            await session.savepoint()
            await session.execute(ADD, (1, "left in a savepoint"))

        await store.transact(work)
        await refused(kept[0].execute(ADD, (2, "late")), TransactionError)
        expect(await store.read(ALL) == [(1, "left in a savepoint")], "the unit was not committed as it was left")


async def check_a_task_cannot_wait_for_itself(factory: StoreFactory) -> None:
    async with factory() as store:
        if store.capabilities.writers != 1:
            raise NotApplicable("transactions run side by side")
        await make(store)
        session = store.session()
        await session.begin()
        await session.execute(ADD, (1, "one"))
        async with asyncio.timeout(10):
            await refused(write(store, ADD, 2, "two"), TransactionError)
            await refused(store.session().begin(), TransactionError)
            expect(len(await store.read(ALL)) <= 1, "a read inside a transaction gives an answer")
        await session.commit()
        expect(await store.read(ALL) == [(1, "one")], "the open transaction was disturbed")


async def check_concurrent_counting_loses_nothing(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store, "create table counter (number bigint)", "insert into counter values (0)")

        async def unit(session: Session) -> None:
            ((number,),) = await session.fetch("select number from counter")
            await session.execute("update counter set number = $1", (number + 1,))

        async def whole() -> None:
            session = store.session()
            await session.begin()
            await unit(session)
            await session.commit()

        if store.capabilities.writers != 1:
            raise NotApplicable("its transactions may run side by side; counting takes a lock there")
        await asyncio.gather(*(whole() if n % 5 == 0 else store.transact(unit) for n in range(150)))
        expect(await store.read("select number from counter") == [(150,)], "an update was lost")


async def check_changed_tells_of_another_objects_commit(factory: StoreFactory) -> None:
    async with factory() as store:
        need_shared(store)
        await make(store)
        async with factory() as other:
            for number in range(5):
                await _settled(store)
                waiter = store.changed.waiter()
                await write(other, ADD, number, "w")
                async with asyncio.timeout(5):
                    await waiter
                expect(store.changed.is_set(), "woken and not set")


async def _settled(store: Store) -> None:
    """Wait until nothing that was committed before is still to be told."""
    while True:
        store.changed.clear()
        waiter = store.changed.waiter()
        await asyncio.wait([waiter], timeout=0.1)
        if not waiter.done():
            waiter.cancel()
            return


async def check_objects_on_one_location_are_one_database(factory: StoreFactory) -> None:
    async with factory() as store:
        need_shared(store)
        async with factory() as other:
            expect(store.id == other.id and store.id, "the identity differs")
            await make(store)
            await write(other, ADD, 1, "one")
            expect(await store.read(ALL) == [(1, "one")], "another object's commit is not read")


async def check_one_writer_waits_for_another_objects(factory: StoreFactory) -> None:
    async with factory() as store:
        need_shared(store)
        await make(store)
        await write(store, ADD, 1, "")
        async with factory() as other:
            session = store.session()
            await session.begin()
            await session.execute("update made set word = word || 'a'")
            task = asyncio.ensure_future(write(other, "update made set word = word || 'b'"))
            await asyncio.sleep(0.05)  # the loop goes on while the other waits
            expect(not task.done(), "two wrote the same row at once")
            await session.commit()
            await task
            expect(await store.read(ALL) == [(1, "ab")], "the writers did not go one after the other")


async def check_compare_and_set_has_one_winner(factory: StoreFactory) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(factory())
        rivals = [store, store]
        if store.capabilities.shared:
            rivals += [await stack.enter_async_context(factory()) for _ in range(3)]
        await make(
            store, "create table fence (name text primary key, number bigint)", "insert into fence values ('a', 0)"
        )
        sql = "update fence set number = number + 1 where name = $1 and number = $2"
        for number in range(10):
            counts = await asyncio.gather(*(write(rival, sql, "a", number) for rival in rivals))
            expect(sum(counts) == 1, f"{sum(counts)} of {len(rivals)} rivals won")
