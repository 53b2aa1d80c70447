"""Group commit by hand: what is asked for at the same moment shares one transaction and one fsync."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import apsw

Unit = Sequence[tuple[str, tuple[Any, ...]]]


class GroupCommit:
    """`write(items)` runs inside the transaction. When it fails, each item is tried alone: none costs another."""

    def __init__(self, connection: apsw.Connection, write: Callable[[list[Any]], None]) -> None:
        self._execute = connection.cursor().execute
        self._write_items = write
        self._waiting: list[tuple[Any, asyncio.Future[None]]] = []
        self._loop = asyncio.get_running_loop()

    async def run(self, item: Any) -> None:
        """Durable when it returns."""
        done: asyncio.Future[None] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._commit)
        self._waiting.append((item, done))
        await done

    def run_all(self, items: list[Any]) -> None:
        """One transaction, here and now."""
        self._execute("begin immediate")
        try:
            self._write_items(items)
            self._execute("commit")
        except BaseException:
            self._execute("rollback")
            raise

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            self.run_all([item for item, _ in waiting])
        except Exception as error:
            if len(waiting) == 1:
                waiting[0][1].set_exception(error)
                return
            for each in waiting:
                self._waiting = [each]
                self._commit()
            return
        for _, done in waiting:
            if not done.done():
                done.set_result(None)


def appends(connection: apsw.Connection, statement: str) -> GroupCommit:
    """Items are rows of one table."""
    many = connection.cursor().executemany
    return GroupCommit(connection, lambda rows: many(statement, rows) and None)


def units(connection: apsw.Connection) -> GroupCommit:
    """Items are units: several statements each."""
    execute = connection.cursor().execute

    def write(items: list[Unit]) -> None:
        for unit in items:
            for statement, args in unit:
                execute(statement, args)

    return GroupCommit(connection, write)
