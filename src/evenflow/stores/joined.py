"""What a user gives as `on=`: from what SQLAlchemy or Django has down to the driver's own connection.

Neither is imported here: what is not loaded cannot have been given.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from evenflow.errors import TransactionError
from evenflow.store import Row, Session, Statement

Before = Callable[[], Awaitable[None]]


class Given(NamedTuple):
    """The driver's connection, and what has to be done before each statement of ours: see `Preceded`."""

    connection: Any
    before: Before | None = None

    def joined(self, session: Session) -> Session:
        """The session over this connection, in order with what lies above it."""
        return session if self.before is None else Preceded(session, self.before)


async def unwrapped(given: Any) -> Given:
    """The driver's connection beneath what was given. Raises `TransactionError` with the remedy.

    What an ORM session holds back is sent first; an error of that is the user's own, and raised as it is.
    """
    if _is(given, "sqlalchemy.orm", "scoped_session") or _is(given, "sqlalchemy.ext.asyncio", "async_scoped_session"):
        given = given()
    if _is(given, "sqlalchemy.ext.asyncio", "AsyncSession"):
        refuse_without_loop("an AsyncSession of SQLAlchemy")
        return await _beneath_async_session(given)
    if _is(given, "sqlalchemy.ext.asyncio", "AsyncConnection"):
        refuse_without_loop("an AsyncConnection of SQLAlchemy")
        before = _unchanged(given.sync_connection, "connection")
        await before()
        return Given((await given.get_raw_connection()).driver_connection, before)
    if _is(given, "sqlalchemy.orm", "Session"):
        return await _beneath_session(given)
    if _is(given, "sqlalchemy.engine", "Connection"):
        _refuse_greenlet(given, "Connection")
        before = _unchanged(given, "connection")
        await before()
        return Given(given.connection.driver_connection, before)
    if _is(given, "sqlalchemy.pool", "PoolProxiedConnection"):
        return Given(given.driver_connection)
    if _is(given, "django.utils.connection", "ConnectionProxy"):
        return _beneath_django(given)
    return Given(given)


async def _beneath_async_session(session: Any) -> Given:
    await session.flush()
    connection = await _one_database(session.connection())
    same = _unchanged(session.sync_session, "session")

    async def before() -> None:
        await same()
        await session.flush()

    return Given((await connection.get_raw_connection()).driver_connection, before)


async def _beneath_session(session: Any) -> Given:
    async def connect() -> Any:
        _refuse_greenlet(session.get_bind(), "Session")
        session.flush()
        return session.connection()

    connection = await _one_database(connect())
    same = _unchanged(session, "session")

    async def before() -> None:
        await same()
        session.flush()

    return Given(connection.connection.driver_connection, before)


def _beneath_django(connection: Any) -> Given:
    if not connection.in_atomic_block:
        raise TransactionError(
            "no transaction is open on Django's connection",
            remedy="write `with transaction.atomic():` around it",
        )
    return Given(connection.connection)


async def _one_database(connecting: Awaitable[Any]) -> Any:
    try:
        return await connecting
    except Exception as error:
        if not _is(error, "sqlalchemy.exc", "UnboundExecutionError"):
            raise
        raise TransactionError(
            "this session leads to several databases, or to none",
            remedy="give the connection of one: on=session.connection(bind_arguments={'mapper': Order})",
        ) from error


def _unchanged(above: Any, what: str) -> Before:
    """A check that this is still in the transaction that it is in now: its connection may be somebody else's after."""
    joined = above.get_transaction()
    if joined is None:
        raise TransactionError(
            f"no transaction is open on this {what}", remedy=f"begin one around it: `with {what}.begin():`"
        )

    async def same() -> None:
        if above.get_transaction() is not joined:
            raise TransactionError(
                f"the joined transaction is over: its {what} was committed, rolled back or closed inside the block",
                remedy="end your transaction after the block of app.transaction(…, on=…)",
            )

    return same


def _refuse_greenlet(bound: Any, what: str) -> None:
    if bound.dialect.is_async:
        raise TransactionError(
            f"the {what} inside of an Async{what} of SQLAlchemy cannot be joined", remedy=f"give the Async{what} itself"
        )


def _is(given: object, module: str, kind: str) -> bool:
    """Whether it is of this class of a module that may not be there."""
    found = getattr(sys.modules.get(module), kind, None)
    return isinstance(found, type) and isinstance(given, found)


def in_loop() -> bool:
    """Whether this runs on an event loop, which nothing may block."""
    return asyncio._get_running_loop() is not None


def refuse_without_loop(what: str) -> None:
    """Raise `TransactionError` where an asynchronous connection is given to `app.sync`."""
    if not in_loop():
        raise TransactionError(
            f"{what} cannot be joined by app.sync: it belongs to an event loop",
            remedy="use `async with app.transaction(…, on=…)` in that loop",
        )


class Preceded:
    """A session whose every statement runs after what the user's own session has held back until then."""

    def __init__(self, session: Session, before: Before) -> None:
        self._session = session
        self._before = before
        self.begin, self.commit, self.rollback = session.begin, session.commit, session.rollback

    async def run(
        self,
        statements: Sequence[Statement],
        guards: Sequence[Statement] = (),
        *,
        last: bool = False,  # noqa: ARG002
    ) -> int:
        await self._before()
        return await self._session.run(statements, guards)

    async def execute(self, sql: str, args: tuple[Any, ...] = ()) -> int:
        await self._before()
        return await self._session.execute(sql, args)

    async def fetch(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        await self._before()
        return await self._session.fetch(sql, args)

    async def savepoint(self) -> None:
        await self._before()
        await self._session.savepoint()

    async def release(self) -> None:
        await self._before()
        await self._session.release()

    async def rollback_to(self) -> None:
        await self._session.rollback_to()
