"""Checks of a store, first part: statements, values, one transaction."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

from evenflow.errors import EvenflowError, StatementFailed, TransactionError
from evenflow.store import Session, Statement, Store
from evenflow.testing.suite import NotApplicable, expect

StoreFactory = Callable[[], AbstractAsyncContextManager[Store]]

MADE = "create table made (id bigint not null primary key, word text)"
ADD = "insert into made (id, word) values ($1, $2)"
ALL = "select id, word from made order by id"
_ZONE = timezone(timedelta(hours=2))


class _Colour(Enum):
    RED = "red"


TYPES: tuple[tuple[str, Any, Any], ...] = (
    ("boolean", True, True),
    ("boolean", False, False),
    ("bigint", 2**63 - 1, 2**63 - 1),
    ("bigint", -(2**63), -(2**63)),
    ("double precision", 0.1, 0.1),
    ("double precision", -1e300, -1e300),
    ("numeric(30, 6)", Decimal("12.10"), Decimal("12.1")),
    ("numeric(30, 6)", Decimal("-999999999.123456"), Decimal("-999999999.123456")),
    ("numeric(30, 6)", Decimal("0.000001"), Decimal("0.000001")),
    ("numeric(30, 6)", Decimal(0), Decimal(0)),
    ("decimal(20)", Decimal(10) ** 19, Decimal(10) ** 19),
    ("text", "grüße 'quoted' $1 \U0001f600", "grüße 'quoted' $1 \U0001f600"),
    ("text", "", ""),
    ("bytea", b"\x00\xff{}", b"\x00\xff{}"),
    ("uuid", UUID(int=7), UUID(int=7)),
    ("uuid", UUID("12345678-1234-4234-9234-123456789012"), UUID("12345678-1234-4234-9234-123456789012")),
    ("timestamptz", datetime(2026, 1, 31, 12, 0, 0, 1, UTC), datetime(2026, 1, 31, 12, 0, 0, 1, UTC)),
    ("timestamptz", datetime(2026, 1, 31, 1, 0, tzinfo=_ZONE), datetime(2026, 1, 30, 23, 0, tzinfo=UTC)),
    ("date", date(2026, 1, 31), date(2026, 1, 31)),
    ("jsonb", {"a": [1, None, "ü", {"b": 0.5}]}, {"a": [1, None, "ü", {"b": 0.5}]}),
    ("jsonb", ["1", 2, True], ["1", 2, True]),
    ("json", {}, {}),
    ("text", _Colour.RED, "red"),
)
"""Declared type, what goes in, what comes back: of the same type and value."""


async def make(store: Store, *statements: str) -> None:
    """Create what a check needs."""

    async def work(session: Session) -> None:
        for statement in statements or (MADE,):
            await session.execute(statement)

    await store.transact(work)


async def write(store: Store, sql: str, *args: object) -> int:
    """One statement as a unit of work."""

    async def work(session: Session) -> int:
        return await session.execute(sql, args)

    return await store.transact(work)


async def refused(work: Awaitable[object], kind: type[EvenflowError] = StatementFailed) -> EvenflowError:
    """The error that the work must raise."""
    try:
        await work
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def need_shared(store: Store) -> None:
    """Go on where several objects may be on the same store."""
    if not store.capabilities.shared:
        raise NotApplicable("several objects cannot share this store")


async def check_placeholders_go_by_number(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        await write(store, "insert into made (word, id) values ($2, $1)", 1, "one")
        await write(store, "update made set word = $2 where id = $1", 1, "uno")
        expect(await store.read(ALL) == [(1, "uno")], "$2 before $1 took the arguments in the order of appearance")
        await write(store, "update made set word = $1 || $2 || $1 where id = $3", "a", "b", 1)
        expect(await store.read("select word from made where word = $1", ("aba",)) == [("aba",)], "a repeated $1")


async def check_placeholders_are_not_sought_in_literals(factory: StoreFactory) -> None:
    async with factory() as store:
        sql = "select '$1' as a, $1 as b, 'it''s $2' as c, 1 as \"d$3\" -- $4\n /* $5 */ where $1 = 'x'"
        (row,) = await store.read(sql, ("x",))
        expect(tuple(row) == ("$1", "x", "it's $2", 1), f"a literal, a name or a comment was taken for more: {row!r}")


async def check_every_type_comes_back(factory: StoreFactory) -> None:
    async with factory() as store:
        for number, (declared, given, wanted) in enumerate(TYPES):
            table = f"typed_{number}"
            await make(store, f"create table {table} (value {declared}, absent {declared})")
            await write(store, f"insert into {table} values ($1, $2)", given, None)
            ((value, absent),) = await store.read(f"select value, absent from {table}")
            same = type(value) is type(wanted) and value == wanted
            expect(same and absent is None, f"{declared}: {given!r} came back as {value!r}, null as {absent!r}")
            if declared.startswith("json"):  # equal JSON need not be the same text
                continue
            found = await store.read(f"select count(*) from {table} where value = $1", (given,))
            expect(found == [(1,)], f"{declared}: {given!r} is not found by its value")


async def check_types_come_back_from_returning(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store, "create table paid (at timestamptz, amount numeric(12, 2))")
        session = store.session()
        await session.begin()
        at = datetime(2026, 1, 1, tzinfo=UTC)
        sql = "insert into paid (amount, at) values ($2, $1) returning amount, at as paid_at"
        (row,) = await session.fetch(sql, (at, Decimal("1.50")))
        await session.commit()
        expect(row == (Decimal("1.5"), at) and row.paid_at == at, f"returning gave {row!r}")  # type: ignore[attr-defined]


async def check_times_sort(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store, "create table moments (at timestamptz)")
        base = datetime(2026, 3, 1, 23, 59, 59, 999999, UTC)
        moments = [
            base,
            base + timedelta(microseconds=1),
            base - timedelta(days=400),
            base.astimezone(_ZONE) + timedelta(hours=1),
        ]
        for moment in moments:
            await write(store, "insert into moments values ($1)", moment)
        rows = await store.read("select at from moments where at > $1 order by at", (base - timedelta(days=500),))
        expect([row[0] for row in rows] == sorted(moments), "times do not sort in the database as they do in Python")


async def check_values_that_would_change_are_refused(factory: StoreFactory) -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001  # that is the point
    numbers = (float("nan"), float("inf"), Decimal("NaN"), Decimal("Infinity"), 2**63)
    wrong: tuple[object, ...] = (*numbers, naive, {"a": float("nan")}, object(), {1, 2}, "\ud800")
    async with factory() as store:
        await make(store, "create table any_value (id bigint, value text)")
        for value in wrong:
            await refused(write(store, "insert into any_value values (1, $1)", value))

            async def handed_over(session: Session, value: object = value) -> None:
                await session.run(
                    [
                        ("insert into any_value values ($1, null)", (1,)),
                        ("insert into any_value values (2, $1)", (value,)),
                    ]
                )

            error = await refused(store.transact(handed_over))
            expect(getattr(error, "index", None) == 1, f"{value!r} was blamed on another statement: {error}")
        expect(await store.read("select * from any_value") == [], "something was written")


async def check_rows_are_named(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        await write(store, ADD, 1, "one")
        (row,) = await store.read("select id, word as name from made")
        expect((row.id, row.name) == (1, "one"), f"not a named tuple: {row!r}")  # type: ignore[attr-defined]
        expect(isinstance(row, tuple) and len(row) == 2, "a row is a tuple")


async def check_run_keeps_order(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)

        async def work(session: Session) -> None:
            await session.run([])
            updates = [("update made set word = word || $1 where id = $2", (str(n), 1)) for n in range(10)]
            await session.run([(ADD, (1, "")), *updates])

        await store.transact(work)
        expect(await store.read(ALL) == [(1, "0123456789")], "statements did not run in order")
        session = store.session()
        await session.begin()
        await session.run(
            [("update made set word = '' where id = $1 returning id", (1,)), (f"{ADD} returning id", (2, ""))]
        )
        await session.commit()
        expect(await store.read(ALL) == [(1, ""), (2, "")], "a statement with rows is run like any other")


async def check_guards_are_counted_up_to_the_first_that_fails(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        await write(store, ADD, 1, "one")
        guard = "update made set word = word where id = $1 returning id"
        for places, held in (((1, 1), 2), ((1, 9), 1), ((9, 1), 0)):
            session = store.session()
            await session.begin()
            found = await session.run([(ADD, (2, "two"))], [(guard, (place,)) for place in places])
            expect(found == held, f"{found} guards of {places} hold, not {held}")
            await session.rollback()
        session = store.session()
        await session.begin()
        error = await refused(session.run([(ADD, (3, "w")), (ADD, (3, "w"))], [(guard, (1,))]))
        expect(getattr(error, "index", None) == 1, f"the index counts guards: {error}")
        await session.rollback()


async def check_last_statements_are_done_if_every_guard_holds(factory: StoreFactory) -> None:
    async with factory() as store:
        reference = "of_made bigint references made (id) deferrable initially deferred"
        await make(store, MADE, f"create table child (id bigint primary key, {reference})")
        await write(store, ADD, 0, "")
        guard = "update made set word = word where id = $1 returning id"

        async def last(n: int, places: Sequence[int], session: Session, child: int = 0) -> None:
            statements: list[Statement] = [(ADD, (n, "")), ("insert into child values ($1, $2)", (n, child))]
            if await session.run(statements, [(guard, (place,)) for place in places], last=True) < len(places):
                raise LookupError

        ways = ((0,), (0, 0), (0, 99), (99,), ())
        for n, places in enumerate(ways, 1):
            session = store.session()
            await session.begin()
            await session.savepoint()
            await session.execute(ADD, (n + 50, ""))
            await session.release()
            try:
                await last(n, places, session)
            except LookupError:
                await session.rollback()
            else:
                await session.commit()
        units = [store.transact(partial(last, n, places)) for n, places in enumerate(ways, 11)]
        await units.pop(0)
        await asyncio.gather(*units, return_exceptions=True)
        wrong = store.session()
        await wrong.begin()
        try:
            await last(20, (), wrong, child=99)
            await wrong.commit()
        except StatementFailed as error:
            expect(error.index == -1, f"a commit's error names statement {error.index}")
        else:
            expect(False, "a deferred constraint was not seen")
        await wrong.rollback()
        told = await refused(store.transact(partial(last, 21, (), child=99)))
        expect(isinstance(told, StatementFailed), f"{told} is told of a deferred constraint")
        found = [row[0] for row in await store.read(ALL)]
        expect(found == [0, 1, 2, 5, 11, 12, 15, 51, 52, 55], f"{found} was committed")


async def check_run_names_the_statement_that_failed(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        for place in (0, 2, 4):
            statements: list[Statement] = [(ADD, (n, "w")) for n in range(5)]
            wrong: list[Statement] = [(ADD, (None, "w")), ("insert into nowhere values ($1)", (1,)), (ADD, (1,))]
            for sql, args in wrong:
                statements[place] = (sql, args)
                session = store.session()
                await session.begin()
                await session.savepoint()
                error = await refused(session.run(statements))
                expect(isinstance(error, StatementFailed), "wrong kind")
                named = (getattr(error, "index", -1), getattr(error, "sql", ""), getattr(error, "arguments", ()))
                expect(named == (place, sql, args), f"{named} is named instead of {(place, sql, args)}")
                await session.rollback_to()
                await session.rollback()


async def check_failed_statement_spares_the_transaction(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        session = store.session()
        await session.begin()
        await session.execute(ADD, (1, "kept"))
        await session.savepoint()
        await refused(session.run([(ADD, (2, "gone")), (ADD, (1, "again"))]))
        await session.rollback_to()
        await session.execute(ADD, (3, "kept"))
        await session.commit()
        expect(await store.read(ALL) == [(1, "kept"), (3, "kept")], "not exactly what was kept")


async def check_what_failed_in_an_inner_savepoint_spares_the_outer(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        session = store.session()
        await session.begin()
        await session.savepoint()
        await session.execute(ADD, (1, "kept"))
        await session.savepoint()
        await refused(session.execute(ADD, (1, "again")))
        await session.rollback_to()
        await session.release()
        await session.commit()
        expect(await store.read(ALL) == [(1, "kept")], "not exactly what was kept")


async def check_execute_counts_rows(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        session = store.session()
        await session.begin()
        counts = [await session.execute(ADD, (n, "w")) for n in range(3)]
        counts.append(await session.execute("update made set word = word"))
        counts.append(await session.execute("update made set word = '' where id = 99"))
        counts.append(await session.execute("create table more (id bigint)"))
        counts.append(await session.execute("delete from made where id > 0"))
        counts.append(await session.execute("update made set id = id where id = 0 returning id"))
        await session.rollback()
        expect(counts == [1, 1, 1, 3, 0, 0, 2, 1], f"counted {counts}")


async def check_savepoints_nest(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        session = store.session()
        await session.begin()
        await session.savepoint()
        await session.execute(ADD, (1, "outer"))
        await session.savepoint()
        await session.execute(ADD, (2, "inner, undone"))
        await session.rollback_to()
        await session.savepoint()
        await session.execute(ADD, (3, "inner, kept"))
        await session.release()
        await session.release()
        await session.savepoint()
        await session.execute(ADD, (4, "undone"))
        await session.rollback_to()
        await refused(session.release(), TransactionError)
        await session.commit()
        expect([row[0] for row in await store.read(ALL)] == [1, 3], "savepoints do not nest")


async def check_rollback_undoes_all_and_is_always_safe(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        await store.session().rollback()
        session = store.session()
        await session.begin()
        await session.savepoint()
        await session.execute(ADD, (1, "gone"))
        await refused(session.execute("nonsense"))
        await session.rollback()
        await session.rollback()
        again = store.session()
        await again.begin()
        await again.execute(ADD, (2, "kept"))
        await again.commit()
        await again.rollback()
        expect(await store.read(ALL) == [(2, "kept")], "rollback undid too little or too much")


async def check_a_transaction_that_is_over_is_refused(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        session = store.session()
        await refused(session.execute(ADD, (1, "early")), TransactionError)
        await session.begin()
        await refused(session.begin(), TransactionError)
        await session.commit()
        for late in (
            session.execute(ADD, (1, "")),
            session.run([(ADD, (1, ""))]),
            session.fetch(ALL),
            session.commit(),
        ):
            await refused(late, TransactionError)
        expect(await store.read(ALL) == [], "a statement ran outside of a transaction")


async def check_statements_cannot_end_the_transaction(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        session = store.session()
        await session.begin()
        await session.execute(ADD, (1, "gone"))
        for sql in ("commit", "rollback", " /* sly */ COMMIT", "savepoint x", f"{ADD}; commit", "begin"):
            await session.savepoint()
            await refused(session.execute(sql, (2, "two") if "$" in sql else ()))
            await session.rollback_to()
        await session.rollback()
        expect(await store.read(ALL) == [], "a statement ended the transaction")


async def check_commit_is_visible_and_what_is_uncommitted_is_not(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        session = store.session()
        await session.begin()
        await session.execute(ADD, (1, "one"))
        reader = asyncio.ensure_future(store.read(ALL))
        await asyncio.sleep(0.01)
        early = reader.result() if reader.done() else None
        expect(await session.fetch(ALL) == [(1, "one")], "a transaction sees its own writes")
        await session.commit()
        expect(early in (None, []), f"uncommitted rows were read: {early}")
        await reader
        expect(await store.read(ALL) == [(1, "one")], "committed rows were not read")


async def check_read_cannot_write(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)
        await refused(store.read("insert into made (id) values (1) returning id"))
        await refused(store.read("select * from nowhere"))
        await write(store, ADD, 2, "after")
        expect(await store.read(ALL) == [(2, "after")], "read wrote, or hindered the next writer")


async def check_deferred_constraint_fails_at_the_commit(factory: StoreFactory) -> None:
    async with factory() as store:
        reference = "of_made bigint references made (id) deferrable initially deferred"
        await make(store, MADE, f"create table child (id bigint primary key, {reference})")
        session = store.session()
        await session.begin()
        await session.execute("insert into child values (1, 99)")
        await refused(session.commit())
        await session.rollback()
        units = [write(store, "insert into child values ($1, $2)", n, None if n != 3 else 99) for n in range(6)]
        outcomes = await asyncio.gather(*units, return_exceptions=True)
        wrong = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)]
        expect(wrong == [3] and isinstance(outcomes[3], StatementFailed), f"units failed: {outcomes}")
        rows = await store.read("select id from child order by id")
        expect([row[0] for row in rows] == [0, 1, 2, 4, 5], "a neighbour's constraint undid a unit")


async def check_a_dropped_session_leaves_nothing_open(factory: StoreFactory) -> None:
    async with factory() as store:
        await make(store)

        async def careless() -> None:
            session = store.session()
            await session.begin()
            await session.execute(ADD, (1, "forgotten"))

        await careless()
        gc.collect()
        async with asyncio.timeout(10):
            await write(store, ADD, 2, "kept")
        expect(await store.read(ALL) == [(2, "kept")], "a forgotten transaction was kept, or blocks the next")
