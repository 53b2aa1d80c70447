"""Joining the team's own transaction on SQLite: SQLAlchemy, aiosqlite and sqlite3, with a loop and without."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import ForeignKey, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from evenflow import App, Event, Service, Settings, Topic, Transaction
from evenflow.clock import VirtualClock
from evenflow.errors import TransactionError, WriteFailed
from evenflow.outbox import EARLY, FIRST_LOOK, JOINED_FOR, POLL, Outbox


class Placed(Event, type="joined.placed", topic=Topic("joined", partitions=1), key="number"):
    number: int


class Noted(Event, type="joined.noted", topic=Topic("joined", partitions=1), key="number"):
    number: int
    word: str


class Limited(Event, type="joined.limited", topic=Topic("limited", partitions=1, backlog=1000), key="number"):
    number: int


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="new")


class Line(Base):
    __tablename__ = "lines"
    number: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[int] = mapped_column(ForeignKey("orders.number"))


shop = Service("shop")
app = App(shop)


@shop.on(Placed, group="seen")
async def seen(placed: Placed, tx: Transaction) -> None:
    tx.write("update orders set state = 'seen' where number = $1", placed.number)


@shop.on(Noted, group="note")
async def note(noted: Noted, tx: Transaction) -> None:
    tx.write("update orders set state = state || $2 || ' ' where number = $1", noted.number, noted.word)


@shop.on(Limited, group="limited")
async def limited(event: Limited, tx: Transaction) -> None:
    tx.write("update orders set state = 'limited' where number = $1", event.number)


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[str]:
    """The app on a file with the tables of the team; the path."""
    file = f"{folder}/shop.db"
    settings = Settings.load(
        {"folder": str(folder), "stores": {"shop": f"sqlite:///{file}?driver=sqlite3"}}, env={}, cwd=folder
    )
    engine = create_engine(f"sqlite:///{file}")
    Base.metadata.create_all(engine)
    engine.dispose()
    async with app.open(handle=True, settings=settings):
        yield file


async def orders() -> list[tuple[int, str]]:
    """What is there once every event was handled."""
    assert await app.wait_idle(20)
    rows: list[Any] = await app.read(shop, "select number, state from orders order by number")
    return [tuple(row) for row in rows]


# -- without a loop --------------------------------------------------------------------------------------------------

Add = Callable[[int], None]


@contextmanager
def a_session(file: str) -> Generator[tuple[Any, Add]]:
    engine = create_engine(f"sqlite:///{file}")
    with Session(engine) as session, session.begin():
        yield session, lambda number: session.add(Order(number=number))
    engine.dispose()


@contextmanager
def a_scoped_session(file: str) -> Generator[tuple[Any, Add]]:
    engine = create_engine(f"sqlite:///{file}")
    session = scoped_session(sessionmaker(engine))
    with session.begin():
        yield session, lambda number: session.add(Order(number=number))
    session.remove()
    engine.dispose()


@contextmanager
def a_connection(file: str) -> Generator[tuple[Any, Add]]:
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        yield connection, lambda number: connection.execute(text(f"insert into orders values ({number}, 'new')"))
    engine.dispose()


@contextmanager
def a_pooled_connection(file: str) -> Generator[tuple[Any, Add]]:
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        yield (
            connection.connection,
            lambda number: connection.execute(text(f"insert into orders values ({number}, 'new')")),
        )
    engine.dispose()


@contextmanager
def a_driver(file: str) -> Generator[tuple[Any, Add]]:
    connection = sqlite3.connect(file)
    try:
        with connection:
            yield connection, lambda number: connection.execute("insert into orders values (?, 'new')", [number])
    finally:
        connection.close()


BLOCKING = [a_session, a_scoped_session, a_connection, a_pooled_connection, a_driver]


@pytest.mark.parametrize("kind", BLOCKING)
@pytest.mark.parametrize("place", ["thread", "loop"])
def test_rows_and_events_are_real_together_or_not_at_all(
    tmp_path: Path, kind: Callable[[str], AbstractContextManager[tuple[Any, Add]]], place: str
) -> None:
    def in_a_thread(file: str, number: int, *, fail: bool) -> None:
        with kind(file) as (on, add):
            add(number)
            with app.sync.transaction(shop, on=on) as tx:
                assert tx.fetch_value("select count(*) from orders where number = $1", number) == 1
                tx.publish(Placed(number=number))
            if fail:
                raise KeyError

    async def in_the_loop(file: str, number: int, *, fail: bool) -> None:
        with kind(file) as (on, add):
            add(number)
            async with app.transaction(shop, on=on) as tx:
                assert await tx.fetch_value("select count(*) from orders where number = $1", number) == 1
                tx.publish(Placed(number=number))
            if fail:
                raise KeyError

    async def go() -> None:
        async def place_order(number: int, *, fail: bool = False) -> None:
            if place == "loop":
                await in_the_loop(file, number, fail=fail)
            else:
                await asyncio.to_thread(in_a_thread, file, number, fail=fail)

        async with opened(tmp_path) as file:
            await place_order(1)
            assert await orders() == [(1, "seen")]
            with pytest.raises(KeyError):
                await place_order(2, fail=True)
            await place_order(3)
            assert await orders() == [(1, "seen"), (3, "seen")]
            assert await app.read(shop, "select sum(number) from evenflow_counter where topic = 'joined'") == [(2,)]

    asyncio.run(go())


# -- with a loop -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def an_async_session(file: str) -> AsyncGenerator[tuple[Any, Callable[[int], Any]]]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")

    async def add(number: int) -> None:
        session.add(Order(number=number))

    try:
        async with AsyncSession(engine) as session, session.begin():
            yield session, add
    finally:
        await engine.dispose()


@asynccontextmanager
async def an_async_scoped_session(file: str) -> AsyncGenerator[tuple[Any, Callable[[int], Any]]]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    session = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)

    async def add(number: int) -> None:
        session.add(Order(number=number))

    try:
        async with session.begin():
            yield session, add
    finally:
        await session.remove()
        await engine.dispose()


@asynccontextmanager
async def an_async_connection(file: str) -> AsyncGenerator[tuple[Any, Callable[[int], Any]]]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")

    async def add(number: int) -> None:
        await connection.execute(text(f"insert into orders values ({number}, 'new')"))

    try:
        async with engine.begin() as connection:
            yield connection, add
    finally:
        await engine.dispose()


@asynccontextmanager
async def an_async_driver(file: str) -> AsyncGenerator[tuple[Any, Callable[[int], Any]]]:
    async def add(number: int) -> None:
        await connection.execute("insert into orders values (?, 'new')", [number])

    async with aiosqlite.connect(file) as connection:
        yield connection, add
        await connection.commit()


@pytest.mark.parametrize("kind", [an_async_session, an_async_scoped_session, an_async_connection, an_async_driver])
def test_an_asynchronous_transaction_is_joined(
    tmp_path: Path, kind: Callable[[str], AbstractAsyncContextManager[tuple[Any, Callable[[int], Any]]]]
) -> None:
    async def place(file: str, number: int, *, fail: bool = False) -> None:
        async with kind(file) as (on, add):
            await add(number)
            async with app.transaction(shop, on=on) as tx:
                async with tx.savepoint():
                    assert await tx.fetch_value("select count(*) from orders where number = $1", number) == 1
                with pytest.raises(WriteFailed):
                    async with tx.savepoint():
                        tx.write("insert into orders values ($1, 'twice')", number)
                tx.publish(Placed(number=number))
            if fail:
                raise KeyError

    async def go() -> None:
        async with opened(tmp_path) as file:
            await place(file, 1)
            with pytest.raises(KeyError):
                await place(file, 2, fail=True)
            await place(file, 3)
            assert await orders() == [(1, "seen"), (3, "seen")]

    asyncio.run(go())


# -- order, and what is wrong ----------------------------------------------------------------------------------------


def test_what_the_session_holds_back_goes_first_and_its_error_is_the_users(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path) as file:
            engine = create_engine(f"sqlite:///{file}")
            with Session(engine, autoflush=False) as session, session.begin():
                async with app.transaction(shop, on=session) as tx:
                    session.add(Order(number=1))  # inside of the block
                    tx.write("update orders set state = 'ours' where number = 1")
                    assert await tx.fetch_value("select state from orders where number = 1") == "ours"
            with Session(engine) as session:
                session.add(Order(number=1))
                with pytest.raises(IntegrityError):
                    async with app.transaction(shop, on=session):
                        raise AssertionError("joined")
            with Session(engine) as session:
                with pytest.raises(IntegrityError):
                    async with app.transaction(shop, on=session) as tx:
                        session.add(Order(number=1))
                        tx.publish(Placed(number=1))
            engine.dispose()
            assert await orders() == [(1, "ours")]

    asyncio.run(go())


def test_a_transaction_that_its_user_ends_inside_the_block_is_not_gone_on_with(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path) as file:
            engine = create_engine(f"sqlite:///{file}")
            with pytest.raises(TransactionError, match="session was committed, rolled back or closed inside the block"):
                with Session(engine) as session:
                    async with app.transaction(shop, on=session) as tx:
                        session.add(Order(number=1))
                        session.commit()
                        tx.publish(Placed(number=1))
            with pytest.raises(TransactionError, match="connection was committed"):
                with engine.connect() as connection:
                    connection.execute(text("insert into orders values (2, 'new')"))
                    async with app.transaction(shop, on=connection) as tx:
                        connection.rollback()
                        tx.publish(Placed(number=2))
            with engine.connect() as connection, pytest.raises(TransactionError, match="no transaction is open"):
                async with app.transaction(shop, on=connection):
                    raise AssertionError("joined")
            engine.dispose()
            assert await orders() == [(1, "new")]

    asyncio.run(go())


def test_what_cannot_be_joined_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async def refused(on: object, words: str) -> None:
        with pytest.raises(TransactionError, match=words):
            async with app.transaction(shop, on=on):
                raise AssertionError("joined")

    def refused_without_loop(on: object, words: str) -> None:
        with pytest.raises(TransactionError, match=words):
            with app.sync.transaction(shop, on=on):
                raise AssertionError("joined")

    async def go() -> None:
        async with opened(tmp_path) as file:
            closed = sqlite3.connect(file)
            closed.close()
            await refused(closed, "cannot be used: Cannot operate on a closed database")
            other = create_engine(f"sqlite:///{tmp_path}/other.db")
            await refused(other, "an? Engine cannot be joined")
            with Session(other) as session:
                await refused(session, "leads to .*other.db, the store is .*shop.db")
            other.dispose()
            with Session() as session:
                await refused(session, "several databases, or to none")
            thread = sqlite3.connect(file)
            await asyncio.to_thread(refused_without_loop, thread, "the thread that made it")
            thread.close()
            engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
            async with AsyncSession(engine) as asynchronous:
                await refused(asynchronous.sync_session, "give the AsyncSession itself")
                await asyncio.to_thread(refused_without_loop, asynchronous, "AsyncSession .* belongs to an event loop")
            async with engine.begin() as connection:
                await refused(connection.sync_connection, "give the AsyncConnection itself")
                await asyncio.to_thread(refused_without_loop, connection, "belongs to an event loop")
            await engine.dispose()
            async with aiosqlite.connect(file) as driver:
                await asyncio.to_thread(refused_without_loop, driver, "belongs to an event loop")
            await refused(driver, "is closed")

    asyncio.run(go())


def test_the_relay_looks_for_joined_rows_often_at_first_then_less_and_less() -> None:
    clock = VirtualClock()
    outbox = Outbox("shop", None, None, None, None, clock)  # type: ignore[arg-type]  # nothing of it is asked
    assert outbox._pace() == POLL
    outbox.added([(1, "joined", frozenset([1]))], joined=True)
    paces, start = [], clock.now()
    while (paces or [0])[-1] < POLL:
        paces.append(outbox._pace())
        clock.advance_to(clock.now() + paces[-1])
    assert paces[0] == FIRST_LOOK and paces == sorted(paces) and len(paces) < 20
    assert clock.now() - start < 3 * POLL + 1


def test_joined_rows_are_forgotten_some_time() -> None:
    clock = VirtualClock()
    outbox = Outbox("shop", None, None, None, None, clock)  # type: ignore[arg-type]  # nothing of it is asked
    for row in range(3 * EARLY):
        outbox.added([(row, "joined", frozenset([1]))], joined=True)
    assert len(outbox.joined) == EARLY and outbox.holds("joined", frozenset([1]))
    clock.advance_to(clock.now() + JOINED_FOR + 1)
    outbox.added([(-1, "other", frozenset([1]))], joined=True)
    assert list(outbox.joined) == [-1]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_direct_publish_comes_after_a_joined_commit(tmp_path: Path, ends: str) -> None:
    async def go() -> None:
        async with opened(tmp_path) as file:
            connection = sqlite3.connect(file)
            connection.execute("insert into orders values (1, '')")
            connection.commit()
            for turn in range(20):
                async with app.transaction(shop, on=connection) as tx:
                    tx.publish(Noted(number=1, word=f"a{turn}"))
                getattr(connection, ends)()
                await app.publish(Noted(number=1, word=f"b{turn}"))
            words = [f"a{turn} b{turn} " if ends == "commit" else f"b{turn} " for turn in range(20)]
            assert await orders() == [(1, "".join(words))]
            connection.close()

    asyncio.run(go())


def test_a_thread_publishes_into_a_topic_with_a_limit(tmp_path: Path) -> None:
    def endpoint(file: str) -> None:
        with a_session(file) as (session, add):
            add(1)
            with app.sync.transaction(shop, on=session) as tx:
                tx.publish(Limited(number=1))

    async def go() -> None:
        async with opened(tmp_path) as file:
            await asyncio.to_thread(endpoint, file)
            assert await orders() == [(1, "limited")]

    asyncio.run(go())
