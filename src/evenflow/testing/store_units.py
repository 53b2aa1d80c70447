"""Checks of a store, fourth part: what units of work that share a commit do together."""

from __future__ import annotations

import asyncio
from typing import Any

from evenflow.errors import StatementFailed
from evenflow.store import Session
from evenflow.testing.store_statements import ADD, ALL, StoreFactory, make
from evenflow.testing.suite import expect


async def check_the_last_statements_run_once_for_those_that_share_a_commit(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        together: list[list[int]] = []

        async def last(session: Session, results: list[int]) -> None:
            together.append(results)
            for number in results:
                await session.execute(ADD, (1000 + number, "last"))

        async def unit(number: int, *, alone: bool) -> int:
            async def work(session: Session) -> int:
                await session.execute(ADD, (number, "w"))
                if number % 10 == 3:
                    raise LookupError(number)
                return number

            return await store.transact(work, last=None if alone else last)

        outcomes = await asyncio.gather(*(unit(n, alone=n % 7 == 0) for n in range(60)), return_exceptions=True)
        good = [n for n in range(60) if n % 10 != 3]
        expect([each for each in outcomes if isinstance(each, int)] == good, "other units failed than those at fault")
        ordered = [number for results in together for number in results]
        if store.capabilities.writers != 1:  # several commits at the same time
            ordered.sort()
        expect(ordered == [n for n in good if n % 7], f"`last` was given {together}")
        rows = [row[0] for row in await store.read(ALL)]
        expect(sorted(rows) == good + [1000 + n for n in ordered], "not exactly what was done is there")


async def check_a_failure_of_the_last_statements_is_that_of_all(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)

        async def last(session: Session, _: list[Any]) -> None:
            await session.execute(ADD, (5, "twice"))

        async def unit(number: int) -> None:
            await store.transact(lambda session: session.execute(ADD, (number, "w")), last=last)

        outcomes = await asyncio.gather(*map(unit, range(5, 8)), return_exceptions=True)
        expect(isinstance(outcomes[0], Exception), f"the one that shares with the clash got {outcomes[0]!r}")
        told = [n for n, outcome in zip(range(5, 8), outcomes, strict=True) if outcome is None]
        kept = [row[0] for row in await store.read("select id from made where word = 'w' order by id")]
        expect(kept == told, f"{told} were told that they are durable, {kept} are")
        await store.transact(lambda session: session.execute(ADD, (100, "after")))


async def check_a_unit_commits_nothing_of_those_that_share_with_it(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)

        async def nothing(_: Session) -> None:
            return

        async def last(session: Session, _: list[Any]) -> None:
            await session.execute(ADD, (1, "undone"))
            await session.execute(ADD, (1, "twice"))

        async def lone(session: Session) -> None:
            await session.run([(ADD, (2, "once"))], last=True)

        units = [store.transact(nothing, last=last), store.transact(lone)]
        first, second = await asyncio.gather(*units, return_exceptions=True)
        expect(isinstance(first, Exception), f"the one whose last statements fail got {first!r}")
        kept = [(2, "once")] if second is None else []
        expect(await store.read(ALL) == kept, f"the other got {second!r}, and {await store.read(ALL)} was committed")


async def check_a_unit_behind_one_that_failed_need_not_run_a_statement(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)

        async def nothing(_: Session) -> None:
            return

        async def last(session: Session, _: list[Any]) -> None:
            await session.execute(ADD, (2, "last"))

        async def add(session: Session) -> None:
            await session.execute(ADD, (1, "w"))

        units = [store.transact(add), store.transact(add), store.transact(nothing, last=last)]
        told = await asyncio.gather(*units, return_exceptions=True)
        expect(isinstance(told[1], StatementFailed) and told[0] is told[2] is None, f"the units got {told}")
        expect([row[0] for row in await store.read(ALL)] == [1, 2], "not exactly what was done is there")
