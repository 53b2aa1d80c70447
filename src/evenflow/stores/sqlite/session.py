"""Write transactions on SQLite: one of one's own, a unit that shares its commit, and the user's own joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evenflow.errors import StatementFailed, StoreUnavailable, TransactionError
from evenflow.store import Row, Statement
from evenflow.stores.sqlite.driver import Link
from evenflow.stores.sqlite.write_turns import WriteTurns, roll_back


class _Statements:
    """What the three kinds of session have in common: statements and nested savepoints."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._open = False
        self._depth = 0
        self._lost: Exception | None = None

    async def run(
        self,
        statements: Sequence[Statement],
        guards: Sequence[Statement] = (),
        *,
        last: bool = False,  # noqa: ARG002
    ) -> int:
        self._check()
        try:
            for held, (sql, args) in enumerate(guards):
                if self._link.execute(sql, args) != 1:
                    return held
            self._link.run(statements)
        except Exception as error:
            self._failed(error)
            raise
        return len(guards)

    async def execute(self, sql: str, args: tuple[Any, ...] = ()) -> int:
        self._check()
        try:
            return self._link.execute(sql, args)
        except Exception as error:
            self._failed(error)
            raise

    async def fetch(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        self._check()
        try:
            return self._link.fetch(sql, args)
        except Exception as error:
            self._failed(error)
            raise

    async def savepoint(self) -> None:
        self._check()
        self._control(f"savepoint evenflow_{self._depth}")
        self._depth += 1

    async def release(self) -> None:
        self._control(f"release {self._innermost()}")
        self._depth -= 1

    async def rollback_to(self) -> None:
        name = self._innermost()
        self._control(f"rollback to {name}")
        self._control(f"release {name}")
        self._depth -= 1

    def _innermost(self) -> str:
        self._check()
        if not self._depth:
            raise TransactionError("there is no open savepoint")
        return f"evenflow_{self._depth - 1}"

    def _control(self, sql: str) -> None:
        try:
            self._link.control(sql)
        except Exception as error:
            self._failed(error)
            raise self._link.failure(error, sql) from error

    def _failed(self, error: Exception) -> None:
        """SQLite ends the whole transaction itself after some errors: no later statement may run outside of one."""
        if not self._link.in_transaction:
            self._lost = error

    def _check(self) -> None:
        if self._lost is not None:
            if isinstance(self._lost, StoreUnavailable):
                raise StoreUnavailable(self._lost.message, remedy=self._lost.remedy) from self._lost
            raise TransactionError(
                "the whole transaction was rolled back by a statement that failed",
                remedy="do not use `or rollback` or raise(rollback): a statement must fail alone",
            ) from self._lost
        if not self._open:
            raise TransactionError("the transaction is not begun, or is over")


class SqliteSession(_Statements):
    """A write transaction of one's own; nobody else of this process writes until it ends."""

    def __init__(self, turns: WriteTurns, begin: Callable[[], Any]) -> None:
        super().__init__(turns.link)
        self._turns = turns
        self._begin = begin

    async def begin(self) -> None:
        if self._open:
            raise TransactionError("this transaction has begun already")
        await self._turns.take()
        try:
            await self._begin()
        except BaseException:
            self._turns.give()
            raise
        self._open = True

    async def commit(self) -> None:
        self._check()
        self._open = False
        try:
            await self._turns.commit()
        finally:
            self._turns.give()

    async def rollback(self) -> None:
        self._lost = None
        self._depth = 0
        if self._open:
            self._open = False
            roll_back(self._link)
            self._turns.give()

    def __del__(self) -> None:
        if self._open:  # dropped by a task that was killed: nothing of it may stay open
            self._open = False
            roll_back(self._link)
            self._turns.give_later()


class UnitSession(_Statements):
    """A short unit of work. The store begins and ends it."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._open = True

    async def begin(self) -> None:
        raise TransactionError("a unit of work is begun and ended by `transact`")

    async def commit(self) -> None:
        raise TransactionError("a unit of work is begun and ended by `transact`")

    async def rollback(self) -> None:
        raise TransactionError("a unit of work is begun and ended by `transact`", remedy="raise an error in it")

    def finish(self) -> None:
        """Keep what it did, open savepoints too. Raises what would make the commit fail."""
        self._check()
        self._open = False
        if self._link.dangling():
            raise StatementFailed("a deferred foreign key constraint is violated", sql="commit")

    def close(self) -> None:
        """It may not be used any more."""
        self._open = False


class JoinedSession(_Statements):
    """The user's own transaction: never begun, committed or rolled back here."""

    def __init__(self, link: Link, opening: str) -> None:
        super().__init__(link)
        self._opening = opening
        self._open = True

    async def begin(self) -> None:
        return

    async def commit(self) -> None:
        return

    async def rollback(self) -> None:
        return

    def _check(self) -> None:
        if self._opening and not self._link.in_transaction:
            self._control(self._opening)  # as sqlite3 would by itself, before the first statement that writes
            self._opening = ""
        elif not self._link.in_transaction and self._lost is None:
            raise TransactionError("the joined transaction is over")
        super()._check()
