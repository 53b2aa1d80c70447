"""Joining the team's own transaction on PostgreSQL: SQLAlchemy and psycopg, with a loop and without."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from evenflow import App, Event, Service, Settings, Topic, Transaction
from evenflow.errors import StoreConflict, StoreUnavailable, TransactionError, WriteFailed
from evenflow.ids import slot_of

WORDS = Topic("words", partitions=1)


class Said(Event, type="joined.said", topic=WORDS, key="number"):
    number: int
    word: str


class Told(Event, type="joined.told", topic=WORDS, key="number"):
    number: int
    word: str


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    words: Mapped[str] = mapped_column(default="")


shop = Service("shop")
app = App(shop)


@shop.on(Said, group="seen")
async def seen(said: Said, tx: Transaction) -> None:
    tx.write("update orders set words = words || $2 || ' ' where number = $1", said.number, said.word)


@shop.on(Told, group="told")
async def told(event: Told, tx: Transaction) -> None:
    tx.write("insert into told (number, word) values ($1, $2)", event.number, event.word)


@asynccontextmanager
async def opened(url: str, folder: Path, query: str = "") -> AsyncGenerator[str]:
    """The app on a database with the table of the team; the URL."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("create table orders (number integer primary key, words text not null)")
    settings = Settings.load({"folder": str(folder), "stores": {"shop": url + query}}, env={}, cwd=folder)
    async with app.open(handle=True, settings=settings):
        yield url


async def orders() -> list[tuple[int, str]]:
    """What is there once every event was handled."""
    assert await app.wait_idle(20)
    rows: list[Any] = await app.read(shop, "select number, words from orders order by number")
    return [tuple(row) for row in rows]


async def numbers() -> list[tuple[int, int]]:
    """The counters of the topic: slots, and the last number of each."""
    rows: list[Any] = await app.read(shop, "select slot, number from evenflow_counter where topic = 'words' order by 1")
    return [tuple(row) for row in rows]


def alchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


# -- with a loop -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def an_async_session(url: str) -> AsyncGenerator[tuple[Any, Callable[[int], Awaitable[Any]]]]:
    engine = create_async_engine(alchemy(url))

    async def add(number: int) -> None:
        session.add(Order(number=number))

    try:
        async with AsyncSession(engine) as session, session.begin():
            yield session, add
    finally:
        await engine.dispose()


@asynccontextmanager
async def an_async_connection(url: str) -> AsyncGenerator[tuple[Any, Callable[[int], Awaitable[Any]]]]:
    engine = create_async_engine(alchemy(url))
    try:
        async with engine.begin() as connection:
            yield connection, lambda number: connection.execute(text(f"insert into orders values ({number}, '')"))
    finally:
        await engine.dispose()


@asynccontextmanager
async def an_async_driver(url: str) -> AsyncGenerator[tuple[Any, Callable[[int], Awaitable[Any]]]]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield connection, lambda number: connection.execute("insert into orders values (%s, '')", [number])


@asynccontextmanager
async def an_async_driver_in_autocommit(url: str) -> AsyncGenerator[tuple[Any, Callable[[int], Awaitable[Any]]]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection, connection.transaction():
        yield connection, lambda number: connection.execute("insert into orders values (%s, '')", [number])


@pytest.mark.parametrize(
    "kind", [an_async_session, an_async_connection, an_async_driver, an_async_driver_in_autocommit]
)
def test_an_asynchronous_transaction_is_joined(
    postgres_url: str,
    tmp_path: Path,
    kind: Callable[[str], AbstractAsyncContextManager[tuple[Any, Callable[[int], Awaitable[Any]]]]],
) -> None:
    async def place(url: str, number: int, *, fail: bool = False) -> None:
        async with kind(url) as (on, add):
            await add(number)
            async with app.transaction(shop, on=on) as tx:
                assert await tx.fetch_all("select number from orders where number = $1", number) == [(number,)]
                with pytest.raises(WriteFailed):
                    async with tx.savepoint():
                        tx.write("insert into orders values ($1, 'twice')", number)
                tx.publish(Said(number=number, word="said"))
                assert await tx.execute("update orders set words = $2 where number = $1", number, "new ") == 1
            if fail:
                raise KeyError

    async def go() -> None:
        async with opened(postgres_url, tmp_path, '?schema=of"shop') as url:
            await place(url, 1)
            with pytest.raises(KeyError):
                await place(url, 2, fail=True)
            await place(url, 3)
            assert await orders() == [(1, "new said "), (3, "new said ")]
            assert await numbers() == sorted((slot_of(str(number)), 1) for number in (1, 3))

    asyncio.run(go())


# -- without a loop --------------------------------------------------------------------------------------------------


@contextmanager
def a_session(url: str) -> Generator[tuple[Any, Callable[[int], Any]]]:
    engine = create_engine(alchemy(url))
    with Session(engine) as session, session.begin():
        yield session, lambda number: session.add(Order(number=number))
    engine.dispose()


@contextmanager
def a_connection(url: str) -> Generator[tuple[Any, Callable[[int], Any]]]:
    engine = create_engine(alchemy(url))
    with engine.begin() as connection:
        yield connection, lambda number: connection.execute(text(f"insert into orders values ({number}, '')"))
    engine.dispose()


@contextmanager
def a_driver(url: str) -> Generator[tuple[Any, Callable[[int], Any]]]:
    with psycopg.connect(url) as connection:
        yield connection, lambda number: connection.execute("insert into orders values (%s, '')", [number])


@pytest.mark.parametrize("kind", [a_session, a_connection, a_driver])
def test_a_blocking_transaction_is_joined_in_its_thread(
    postgres_url: str,
    tmp_path: Path,
    kind: Callable[[str], AbstractContextManager[tuple[Any, Callable[[int], Any]]]],
) -> None:
    def place(number: int, *, fail: bool = False) -> None:
        with kind(postgres_url) as (on, add):
            add(number)
            with app.sync.transaction(shop, on=on) as tx:
                assert tx.fetch_all("select number from orders where number = $1", number) == [(number,)]
                tx.publish(Said(number=number, word="said"))
                assert tx.execute("update orders set words = $2 where number = $1", number, "new ") == 1
            if fail:
                raise KeyError

    async def refused(on: object) -> None:
        with pytest.raises(TransactionError, match="cannot be joined on an event loop"):
            async with app.transaction(shop, on=on):  # type: ignore[arg-type]
                raise AssertionError("joined")

    async def go() -> None:
        async with opened(postgres_url, tmp_path):
            await asyncio.to_thread(place, 1)
            with pytest.raises(KeyError):
                await asyncio.to_thread(place, 2, fail=True)
            await asyncio.to_thread(place, 3)
            with kind(postgres_url) as (on, _):
                await refused(on)
            assert await orders() == [(1, "new said "), (3, "new said ")]

    asyncio.run(go())


def test_djangos_transaction_is_joined(postgres_url: str, tmp_path: Path) -> None:
    import django
    from django.conf import settings
    from django.db import connection, transaction

    at = psycopg.conninfo.conninfo_to_dict(postgres_url)
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    database = {"ENGINE": "django.db.backends.postgresql"} | {theirs: at.get(ours) for theirs, ours in names.items()}
    settings.configure(DATABASES={"default": database})
    django.setup()

    def place(number: int, *, fail: bool = False) -> None:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("insert into orders values (%s, '')", [number])
            with app.sync.transaction(shop, on=connection) as tx:
                tx.publish(Said(number=number, word="said"))
            if fail:
                raise KeyError

    def views() -> None:
        place(1)
        with pytest.raises(KeyError):
            place(2, fail=True)
        place(3)
        with pytest.raises(TransactionError, match="atomic"), app.sync.transaction(shop, on=connection):
            raise AssertionError("joined")
        connection.close()

    async def go() -> None:
        async with opened(postgres_url, tmp_path):
            await asyncio.to_thread(views)
            assert await orders() == [(1, "said "), (3, "said ")]

    asyncio.run(go())


# -- what others do meanwhile ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["commit", "rollback"])
def test_transactions_of_one_key_come_in_the_order_of_their_commits(
    postgres_url: str, tmp_path: Path, first: str
) -> None:
    async def go() -> None:
        async with opened(postgres_url, tmp_path) as url:
            async with (
                await psycopg.AsyncConnection.connect(url) as one,
                await psycopg.AsyncConnection.connect(url) as two,
            ):
                await one.execute("insert into orders values (1, '')")
                await one.commit()

                async def say(word: str) -> None:
                    async with app.transaction(shop, on=two) as tx:
                        tx.publish(Said(number=1, word=word))

                async with app.transaction(shop, on=one) as tx:
                    tx.publish(Said(number=1, word="one"))
                second = asyncio.create_task(say("two"))
                await waiting(url, two)
                assert not second.done()
                await getattr(one, first)()
                await second
                await two.commit()
            assert await orders() == [(1, "one two " if first == "commit" else "two ")]
            assert await numbers() == [(slot_of("1"), 2 if first == "commit" else 1)]

    asyncio.run(go())


async def waiting(url: str, connection: psycopg.AsyncConnection[Any]) -> None:
    """Until this session waits for a lock."""
    async with asyncio.timeout(10), await psycopg.AsyncConnection.connect(url, autocommit=True) as look:
        while True:
            found = await look.execute(
                "select 1 from pg_stat_activity where pid = %s and wait_event_type = 'Lock'",
                [connection.info.backend_pid],
            )
            if await found.fetchall():
                return
            await asyncio.sleep(0.01)


def test_what_is_committed_late_is_neither_lost_nor_overtaken_in_its_key(postgres_url: str, tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(postgres_url, tmp_path) as url:
            async with (
                await psycopg.AsyncConnection.connect(url) as late,
                await psycopg.AsyncConnection.connect(url) as early,
            ):
                await late.execute("insert into orders values (1, ''), (2, '')")
                await late.commit()
                async with app.transaction(shop, on=late) as tx:  # a lower id in the outbox
                    tx.publish(Said(number=1, word="late"))
                async with app.transaction(shop, on=early) as tx:
                    tx.publish(Said(number=2, word="early"))
                await early.commit()
                assert await orders() == [(1, ""), (2, "early ")]  # the relay has passed the lower id
                await late.commit()
                await app.publish(Said(number=1, word="direct"))
            assert await orders() == [(1, "late direct "), (2, "early ")]
            assert await app.read(shop, "select count(*) from evenflow_outbox") == [(0,)]

    asyncio.run(go())


def test_the_users_failed_commit_leaves_neither_row_nor_event_nor_gap(postgres_url: str, tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(postgres_url, tmp_path) as url:
            async with await psycopg.AsyncConnection.connect(url) as connection:
                await connection.execute("alter table orders add unique (number) deferrable initially deferred")
                await connection.execute("create table twice (number integer unique deferrable initially deferred)")
                await connection.execute("insert into orders values (1, '')")
                await connection.commit()
                await connection.execute("insert into twice values (1), (1)")
                async with app.transaction(shop, on=connection) as tx:
                    tx.publish(Said(number=1, word="lost"))
                with pytest.raises(psycopg.errors.UniqueViolation):
                    await connection.commit()
                assert await orders() == [(1, "")]
                async with app.transaction(shop, on=connection) as tx:
                    tx.publish(Said(number=1, word="kept"))
                await connection.commit()
            assert await orders() == [(1, "kept ")]
            assert await numbers() == [(slot_of("1"), 1)]

    asyncio.run(go())


def test_many_at_once_keep_the_order_of_each_key_without_a_gap(postgres_url: str, tmp_path: Path) -> None:
    count = "update orders set words = words || '.' where number = :n returning length(words)"
    dice = random.Random(7)

    def maybe_fail() -> None:
        if dice.random() < 0.3:
            raise KeyError

    async def go() -> None:
        async with opened(postgres_url, tmp_path) as url:
            engine, blocking = create_async_engine(alchemy(url), pool_size=6), create_engine(alchemy(url))
            async with engine.begin() as connection:
                await connection.execute(text("insert into orders select generate_series(1, 3), ''"))
                await connection.execute(text("create table told (number integer, word text, at bigserial)"))

            async def task() -> None:
                for _ in range(8):
                    with suppress(KeyError):
                        async with AsyncSession(engine) as session, session.begin():
                            number = dice.randrange(1, 4)
                            place = await session.scalar(text(count), {"n": number})
                            async with app.transaction(shop, on=session) as tx:
                                tx.publish(Told(number=number, word=str(place)))
                            await asyncio.sleep(0)
                            maybe_fail()

            def thread() -> None:
                for _ in range(8):
                    with suppress(KeyError), Session(blocking) as session, session.begin():
                        number = dice.randrange(1, 4)
                        place = session.scalar(text(count), {"n": number})
                        with app.sync.transaction(shop, on=session) as tx:
                            tx.publish(Told(number=number, word=str(place)))
                        maybe_fail()

            await asyncio.gather(*[task() for _ in range(5)], *[asyncio.to_thread(thread) for _ in range(3)])
            await engine.dispose()
            blocking.dispose()
            lengths = {number: len(words) for number, words in await orders() if words}
            told: dict[int, list[str]] = {}
            for number, word in await app.read(shop, "select number, word from told order by at"):
                told.setdefault(number, []).append(word)
            assert told == {number: [str(n + 1) for n in range(length)] for number, length in lengths.items()}
            assert await numbers() == sorted((slot_of(str(number)), length) for number, length in lengths.items())

    asyncio.run(go())


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_conflict_of_the_users_isolation_says_that_all_is_to_be_run_again(
    postgres_url: str, tmp_path: Path, level: str
) -> None:
    async def go() -> None:
        async with opened(postgres_url, tmp_path) as url:
            async with (
                await psycopg.AsyncConnection.connect(url) as strict,
                await psycopg.AsyncConnection.connect(url) as other,
            ):
                await other.execute("insert into orders values (1, '')")
                async with app.transaction(shop, on=other) as tx:
                    tx.publish(Said(number=1, word="first"))
                await other.commit()
                await strict.execute(f"set transaction isolation level {level}".encode())
                await strict.execute("select count(*) from orders")
                async with app.transaction(shop, on=other) as tx:
                    tx.publish(Said(number=1, word="other"))
                await other.commit()
                with pytest.raises(StoreConflict, match="run it again from its beginning"):
                    async with app.transaction(shop, on=strict) as tx:
                        tx.publish(Said(number=1, word="strict"))
                with pytest.raises(TransactionError, match="has failed"):
                    async with app.transaction(shop, on=strict):
                        raise AssertionError("joined")
                await strict.rollback()
                async with app.transaction(shop, on=strict) as tx:
                    tx.publish(Said(number=1, word="strict"))
                await strict.commit()
            assert await orders() == [(1, "first other strict ")]

    asyncio.run(go())


# -- errors ----------------------------------------------------------------------------------------------------------


def test_errors_in_the_block(postgres_url: str, tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(postgres_url, tmp_path) as url:
            engine = create_async_engine(alchemy(url))
            async with AsyncSession(engine) as session:
                session.add(Order(number=1))
                await session.commit()
                with pytest.raises(IntegrityError):  # the user's row, in the user's words
                    async with app.transaction(shop, on=session) as tx:
                        session.add(Order(number=1))
                        tx.publish(Said(number=1, word="no"))
                await session.rollback()
                with pytest.raises(WriteFailed, match=r"test_joined_postgres.py:\d+: UniqueViolation"):
                    async with app.transaction(shop, on=session) as tx:
                        tx.write("insert into orders values ($1, '')", 1)
                await session.rollback()
                with pytest.raises(WriteFailed, match="the store owns the transaction"):
                    async with app.transaction(shop, on=session) as tx:
                        tx.write("commit")
                await session.rollback()
                with pytest.raises(TransactionError, match="session was committed, rolled back or closed"):
                    async with app.transaction(shop, on=session) as tx:
                        await session.commit()
                        tx.publish(Said(number=1, word="no"))
            await engine.dispose()
            async with await psycopg.AsyncConnection.connect(url) as connection:
                with pytest.raises(TransactionError, match="the joined transaction is over"):
                    async with app.transaction(shop, on=connection) as tx:
                        await tx.execute("select 1")
                        await connection.commit()
                        tx.publish(Said(number=1, word="no"))
                pid = connection.info.backend_pid
                with pytest.raises(StoreUnavailable, match="does not answer"):
                    async with app.transaction(shop, on=connection) as tx:
                        with psycopg.connect(url, autocommit=True) as admin:
                            admin.execute("select pg_terminate_backend(%s, 5000)", [pid])
                        tx.publish(Said(number=1, word="no"))
            assert await orders() == [(1, "")]

    asyncio.run(go())


def test_what_cannot_be_joined_is_refused_with_the_remedy(postgres_url: str, tmp_path: Path) -> None:
    async def refused(on: Any, words: str) -> None:
        with pytest.raises(TransactionError, match=words):
            async with app.transaction(shop, on=on):
                raise AssertionError("joined")

    def refused_without_loop(on: Any, words: str) -> None:
        with pytest.raises(TransactionError, match=words), app.sync.transaction(shop, on=on):
            raise AssertionError("joined")

    async def go() -> None:
        async with opened(postgres_url, tmp_path) as url:
            connect = psycopg.AsyncConnection.connect
            async with await connect(url) as connection:
                await asyncio.to_thread(refused_without_loop, connection, "AsyncConnection .* belongs to an event loop")
                with pytest.raises(psycopg.Error):
                    await connection.execute("nonsense")
                await refused(connection, "the joined transaction has failed")
                await connection.rollback()
                async with connection.pipeline():
                    await refused(connection, "is at work")
                await connection.execute("set transaction read only")
                with pytest.raises(TransactionError, match="may only read"):
                    async with app.transaction(shop, on=connection) as tx:
                        tx.publish(Said(number=1, word="no"))
            await refused(connection, "is closed")
            async with await connect(url, autocommit=True) as connection:
                await refused(connection, "commits every statement by itself")
            async with await connect(url, dbname="postgres") as connection:
                await refused(
                    connection, "leads to the database postgres at .*, which has no store in the schema 'shop'"
                )
            with psycopg.connect(url, dbname="postgres", autocommit=True) as admin:
                admin.execute("create role joined_reader login password 'secret'")
            try:
                async with await connect(url, user="joined_reader", password="secret") as connection:
                    await refused(connection, "user 'joined_reader' may not write to the store's tables")
            finally:
                with psycopg.connect(url, dbname="postgres", autocommit=True) as admin:
                    admin.execute("drop role joined_reader")
            with psycopg.connect(url, autocommit=True) as admin:
                admin.execute("update shop.evenflow_store set id = 'other'")
                async with await connect(url) as connection:
                    await refused(connection, "leads to another store")
            stdlib = sqlite3.connect(":memory:")
            await refused(stdlib, "a Connection of sqlite3 cannot be joined to a PostgreSQL store")
            stdlib.close()
            engine = create_async_engine("sqlite+aiosqlite:///:memory:")
            async with AsyncSession(engine) as session:
                await refused(session, "a Connection of aiosqlite cannot be joined to a PostgreSQL store")
            await engine.dispose()

    asyncio.run(go())


def test_values_are_those_of_the_store(postgres_url: str, tmp_path: Path) -> None:
    from datetime import UTC, date, datetime, timedelta, timezone
    from decimal import Decimal
    from uuid import UUID

    moment = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    values = (
        True, 7, 1.5, Decimal("1.50"), "ü", b"\x00\xff", UUID(int=5), moment, date(2026, 1, 31), {"a": [1]}, [1, "b"], None
    )  # fmt: skip
    given = (*values[:7], moment.astimezone(UTC), *values[8:])
    made = (
        "create table kinds (a boolean, b bigint, c double precision, d numeric, e text, f bytea, g uuid, h timestamptz, "
        "i date, j jsonb, k json, l text)"
    )

    async def go() -> None:
        async with opened(postgres_url, tmp_path) as url:
            async with await psycopg.AsyncConnection.connect(url, options="-c TimeZone=Asia/Tokyo") as connection:
                await connection.execute(made.encode())
                async with app.transaction(shop, on=connection) as tx:
                    tx.write("insert into kinds values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)", *values)
                    row = await tx.fetch_one("select *, h::timestamp as m from kinds")
                    assert row[:12] == given
                    assert row.h.utcoffset() == timedelta(0)
                    assert await tx.fetch_all("select 1, 2 where false") == []
                    with pytest.raises(WriteFailed, match="NaN"):
                        async with tx.savepoint():
                            tx.write("select $1", float("nan"))
                    with pytest.raises(WriteFailed, match="has no zone"):
                        async with tx.savepoint():
                            tx.write("select $1", datetime(2026, 1, 31))
                await connection.commit()
            assert (await app.read(shop, "select * from kinds"))[0] == given

    asyncio.run(go())
