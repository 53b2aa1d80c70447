"""Values and statements on PostgreSQL beyond what all stores have: what placeholders are taken for, arrays, odd types."""

import asyncio
import random
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from uuid import UUID, uuid4

import pytest

from evenflow.clock import SystemClock
from evenflow.errors import StatementFailed, TransactionError
from evenflow.places import make_store
from evenflow.drivers.postgres.errors import Trouble, trouble
from tests import servers


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@pytest.fixture(scope="module")
def url():
    with servers.database() as where:
        yield where


def on_store(url, work):
    async def main():
        store = make_store(url, "shop", SystemClock())
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(main())


def read(url, sql, *args):
    return on_store(url, lambda store: store.read(sql, args))


NOON = datetime(2026, 1, 31, 12, 0, 0, 1, UTC)
SAME = (
    5,
    2**40,
    True,
    0.1,
    "x",
    b"\x00\xff",
    Decimal("12.10"),
    UUID(int=7),
    NOON,
    date(2026, 1, 31),
    {"a": [1]},
    [1, "2"],
)


def test_a_placeholder_that_nothing_speaks_about_is_what_was_given(url):
    rows = read(url, "select " + ", ".join(f"${n} as c{n}" for n in range(1, len(SAME) + 1)), *SAME)
    assert [type(value) for value in rows[0][:10]] == [type(value) for value in SAME[:10]]
    assert tuple(rows[0][:10]) == SAME[:10]
    assert read(url, "select $1::jsonb, $2::jsonb", *SAME[10:]) == [({"a": [1]}, [1, "2"])]


@pytest.mark.parametrize(
    ("sql", "args", "wanted"),
    [
        ("select $1 + 1", (2**40,), 2**40 + 1),
        ("select left('abc', $1)", (2,), "ab"),
        ("select 'a' = $1", ("a",), True),
        ("select jsonb_build_object('a', $1)", ("x",), {"a": "x"}),
        ("select jsonb_build_object('a', $1)", (5,), {"a": 5}),
        ("select 7 = any($1)", ([1, 7],), True),
        ("select 'b' = any($1)", (["a", "b"],), True),
        ("select array_length($1::bytea[], 1)", ([b"a", None],), 2),
        ("select $1::text[]", ([],), []),
        ("select array[1.5::numeric, null]", (), [Decimal("1.5"), None]),
        ("select $1", (Colour.RED,), "red"),
        ("select $1::int", (Level.HIGH,), 3),
        ("select $1::text", (True,), "true"),
        ("select $1::int", (True,), 1),
        ("select sum(n) from (values (1::bigint), (2)) v(n)", (), Decimal(3)),
        ("select interval '1 day'", (), "1 day"),
        ("select ('infinity'::timestamptz)::text", (), "infinity"),
        ("select timestamp '2026-01-31 12:00'", (), datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("select $1::timestamp", (NOON.astimezone(timezone(timedelta(hours=5))),), NOON),
        ("select coalesce($1, 'none')", (None,), "none"),
    ],
)
def test_what_a_placeholder_is(url, sql, args, wanted):
    ((value,),) = read(url, sql, *args)
    assert value == wanted
    assert type(value) is type(wanted)


@pytest.mark.parametrize(
    ("sql", "args", "words"),
    [
        ("select $1::text", ("a\0b",), "invalid byte sequence"),
        ("select $1::varchar::int", ("a\0b",), "invalid byte sequence"),
        ("select $1::date", ("2026-01-01\0",), "character zero"),
        ("select $1::int", (2**40,), "out of range"),
        ("select $1::numeric", (2**64,), "64 bits"),
        ("select $1::numeric", (Decimal("Infinity"),), "cannot be kept"),
        ("select $1", (object(),), "a object cannot be kept"),
        ("select $1, $2", (1,), "2 placeholders, and 1 arguments"),
        ("select $1", (), "1 placeholders, and 0 arguments"),
        ("select $1 is null, $2::int", (1,), "2 placeholders, and 1 arguments"),
        ("select $1::int", (1.5,), "invalid input syntax"),
        ("select timestamptz 'infinity' as at", (), "'at' holds what Python has no value for"),
        ("select $1::text where $1 = 1", ("x",), "cast"),
        ("select 7 = any($1)", ([2**40],), "in a list"),
    ],
)
def test_what_does_not_fit_is_refused(url, sql, args, words):
    with pytest.raises(StatementFailed, match=f"(?s){words}") as caught:
        read(url, sql, *args)
    assert caught.value.sql == sql


def test_many_numerics_come_back_as_they_went_in(url):
    draw = random.Random(7)
    numbers = [Decimal(draw.randrange(-(10**28), 10**28)).scaleb(-draw.randrange(0, 25)) for _ in range(300)]
    numbers += [Decimal(0), Decimal("0.0001"), Decimal("10000"), Decimal("1e20"), Decimal("-0.00010001")]

    async def work(store):
        return [(await store.read("select $1::numeric", (each,)))[0][0] for each in numbers]

    assert on_store(url, work) == numbers


KINDS = ("int", "bigint", "smallint", "float8", "text", "bool", "uuid", "numeric", "jsonb", "timestamptz", "bytea")


def test_many_statements_at_once_are_sent_as_each_of_them_would_be(url):
    draw = random.Random(11)

    def row(number):
        return (
            number,
            draw.choice((-(2**63), 2**63 - 1, draw.randrange(-(2**40), 2**40))),
            draw.randrange(-(2**15), 2**15),
            draw.choice((0.1, -1e300, 5e-324, draw.random())),
            draw.choice(("", "grüße", "\U0001f600", f"c{number}")),
            bool(number % 2),
            UUID(int=draw.randrange(2**128)),
            Decimal(draw.randrange(10**12)).scaleb(-3),
            {"n": [number, None]},
            NOON + timedelta(microseconds=number),
            bytes([number % 256]) * (number % 3),
        )

    rows = [row(number) for number in range(120)]
    rows[70] = (70, *(None for _ in rows[70][1:]))  # of other classes: its text needs a look at each statement
    columns = ", ".join(f"c{n} {kind}" for n, kind in enumerate(KINDS))
    places = ", ".join(f"${n + 1}" for n in range(len(KINDS)))
    both = [f"insert into {name} values ({places})" for name in ("mixed", "alike")]

    async def work(store):
        await store.transact(lambda session: session.execute(f"create table mixed ({columns})"))
        await store.transact(lambda session: session.execute(f"create table alike ({columns})"))

        async def add(session, some):
            await session.run([(sql, row) for row in some for sql in both if row[1] is not None or sql == both[0]])

        for place in range(0, 120, 40):  # by the third time they are prepared
            await store.transact(lambda session, some=rows[place : place + 40]: add(session, some))
        return await store.read("select * from mixed order by ctid"), await store.read(
            "select * from alike order by ctid"
        )

    mixed, alike = on_store(url, work)
    assert mixed == rows
    assert alike == [row for row in rows if row[1] is not None]


def test_of_many_statements_at_once_the_one_whose_value_does_not_fit_is_named(url):
    async def work(store):
        sql = "insert into narrow values ($1, $2, $3)"
        await store.transact(lambda session: session.execute("create table narrow (id int, word text, share float8)"))
        plain = [(sql, (n, "w", 0.5)) for n in range(60)]
        for _ in range(3):
            await store.transact(lambda session: session.run(plain))
        for place, args in ((0, (2**31, "w", 0.5)), (31, (1, "\ud800", 0.5)), (59, (1, "w", float("nan"))), (40, (1,))):
            statements = [*plain[:place], (sql, args), *plain[place + 1 :]]
            with pytest.raises(StatementFailed) as caught:
                await store.transact(lambda session, some=statements: session.run(some))
            assert (caught.value.index, caught.value.arguments) == (place, args)
        return await store.read("select count(*) from narrow")

    assert on_store(url, work) == [(180,)]


def test_statements_keep_their_plans_through_changes_of_their_tables(url):
    async def work(store):
        async def run(*statements):
            session = store.session()
            await session.begin()
            for sql, args in statements:
                await session.execute(sql, args)
            await session.commit()

        await run(("create table changing (id int primary key, name text)", ()))
        for number in range(3):
            await run(("insert into changing values ($1, $2)", (number, "x")))
            await store.read("select * from changing order by id")
        await run(("alter table changing alter id type bigint, add more text default 'm'", ()))
        for number in (2**40, 2**41):
            for _ in range(3):
                try:
                    await run(("insert into changing values ($1, $2)", (number, "y")))
                    break
                except StatementFailed:
                    pass  # once, as the integer that it was: the next one asks anew
        for _ in range(5):
            try:
                rows = await store.read("select * from changing order by id desc limit 1")
                break
            except Exception as error:
                assert type(error).__name__ == "StoreConflict"
        assert rows[0].more == "m"
        assert rows[0].id == 2**41

    on_store(url, work)


def test_after_a_failed_statement_nothing_runs_before_it_is_undone(url):
    async def work(store):
        session = store.session()
        await session.begin()
        await session.execute("create table undone (id uuid)")
        with pytest.raises(StatementFailed):
            await session.execute("select 1/0")
        with pytest.raises(TransactionError, match="has failed"):
            await session.execute("insert into undone values ($1)", (uuid4(),))
        with pytest.raises(TransactionError, match="has failed"):
            await session.commit()
        await session.rollback()
        with pytest.raises(StatementFailed):
            await store.read("select * from undone")

    on_store(url, work)


@pytest.mark.parametrize(
    ("sqlstate", "fault"),
    [
        ("23505", Trouble.STATEMENT),
        ("22P02", Trouble.STATEMENT),
        ("42P01", Trouble.STATEMENT),
        ("42501", Trouble.STATEMENT),
        ("40P01", Trouble.CONFLICT),
        ("40001", Trouble.CONFLICT),
        ("08006", Trouble.UNAVAILABLE),
        ("57P01", Trouble.UNAVAILABLE),
        ("57P03", Trouble.UNAVAILABLE),
        ("57014", Trouble.UNAVAILABLE),
        ("53100", Trouble.UNAVAILABLE),
        ("53300", Trouble.UNAVAILABLE),
        ("25006", Trouble.UNAVAILABLE),
        ("25P03", Trouble.UNAVAILABLE),
        ("55P03", Trouble.UNAVAILABLE),
        ("58030", Trouble.UNAVAILABLE),
        ("XX001", Trouble.UNAVAILABLE),
    ],
)
def test_whose_fault_an_error_is(sqlstate, fault):
    assert trouble(sqlstate) is fault
