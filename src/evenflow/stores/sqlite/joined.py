"""Joining the user's own transaction on SQLite: a connection of `sqlite3`, `apsw` or `aiosqlite`."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw

from evenflow.errors import TransactionError
from evenflow.store import Row, Session, Statement, stepped
from evenflow.stores.joined import refuse_without_loop, unwrapped
from evenflow.stores.sqlite.driver import ApswLink, Link, Place
from evenflow.stores.sqlite.open import MEMORY, DriverName
from evenflow.stores.sqlite.session import JoinedSession
from evenflow.stores.sqlite.stdlib import StdlibLink

T = TypeVar("T")


async def join(given: object, driver: DriverName, place: Place) -> Session:
    """The user's open transaction as a session. Raises `TransactionError` with the remedy.

    Neither this nor the session suspends, unless the connection is one of aiosqlite.
    """
    if place.path == MEMORY:
        raise TransactionError(
            "a connection cannot be joined to a store in memory, as that of a world",
            remedy="test this on files: app.open(handle=True, settings=Settings.load({'folder': …}))",
        )
    beneath = await unwrapped(given)
    asynchronous = getattr(sys.modules.get("aiosqlite"), "Connection", None)
    if asynchronous is None or not isinstance(beneath.connection, asynchronous):
        return beneath.joined(_joined(beneath.connection, driver, place))
    refuse_without_loop("a connection of aiosqlite")
    there = _There(beneath.connection)
    return beneath.joined(_Thread(await there.call(lambda held: _joined(held, driver, place)), there))


def _joined(connection: object, driver: DriverName, place: Place) -> JoinedSession:
    opening = ""
    try:
        if isinstance(connection, apsw.Connection):
            _same_driver(driver, "apsw")
            link: Link = ApswLink(connection, place)
        elif isinstance(connection, sqlite3.Connection):
            _same_driver(driver, "sqlite3")
            link = StdlibLink(connection, place)
            if connection.isolation_level is not None and getattr(connection, "autocommit", -1) == -1:
                opening = f"begin {connection.isolation_level}"
        else:
            raise TransactionError(
                f"a {type(connection).__name__} cannot be joined to a SQLite store",
                remedy="give a connection of sqlite3 or aiosqlite, or a session or connection of SQLAlchemy's over one",
            )
        _same_file(link, place)
    except (sqlite3.Error, apsw.Error) as error:  # closed, of another thread, busy with another's lock
        raise TransactionError(
            f"the joined connection cannot be used: {error}",
            remedy="join an open connection, in the thread that made it",
        ) from error
    if not link.in_transaction and not opening:
        raise TransactionError("the joined connection is not in a transaction", remedy="begin one before joining it")
    return JoinedSession(link, opening)


def _same_driver(ours: DriverName, theirs: DriverName) -> None:
    if ours != theirs:
        raise TransactionError(
            f"a connection of {theirs} cannot be joined to a store that is opened through {ours}: two copies of SQLite "
            "in one process must never open the same file",
            remedy=f"open the store with ?driver={theirs}",
        )


def _same_file(link: Link, place: Place) -> None:
    theirs = str(link.value("select file from pragma_database_list where name = 'main'") or "")
    if not theirs or not Path(theirs).samefile(place.path):
        raise TransactionError(
            f"the joined connection leads to {theirs or MEMORY}, the store is {place.path}",
            remedy="join a connection to the store's own file",
        )


class _There:
    """The thread in which aiosqlite keeps its connection: nobody else may touch that."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of this, done there after what was asked for before."""
        try:
            done: T = await self._connection._execute(lambda: work(self._connection._conn))
        except ValueError as error:  # its word for a closed connection
            raise TransactionError("the joined connection is closed") from error
        return done


class _Thread:
    """A joined session whose statements run in the thread of its connection."""

    def __init__(self, session: JoinedSession, there: _There) -> None:
        self._session = session
        self._there = there
        self.begin, self.commit, self.rollback = session.begin, session.commit, session.rollback

    async def _step(self, method: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        return await self._there.call(lambda _: stepped(partial(method, *args)()))

    async def run(
        self,
        statements: Sequence[Statement],
        guards: Sequence[Statement] = (),
        *,
        last: bool = False,  # noqa: ARG002
    ) -> int:
        return await self._step(self._session.run, statements, guards)

    async def execute(self, sql: str, args: tuple[Any, ...] = ()) -> int:
        return await self._step(self._session.execute, sql, args)

    async def fetch(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        return await self._step(self._session.fetch, sql, args)

    async def savepoint(self) -> None:
        await self._step(self._session.savepoint)

    async def release(self) -> None:
        await self._step(self._session.release)

    async def rollback_to(self) -> None:
        await self._step(self._session.rollback_to)
