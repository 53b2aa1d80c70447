"""Write transactions on PostgreSQL. Begin and savepoints cost no round trip: they ride with what follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from psycopg import pq

from evenflow.drivers.postgres.errors import ABORTED, DIVISION_BY_ZERO, LOCK_TIMEOUT, UNFIT, PostgresError, Trouble
from evenflow.drivers.postgres.link import Link
from evenflow.errors import (
    EvenflowError,
    StatementFailed,
    StoreConflict,
    StoreUnavailable,
    TransactionAborted,
    TransactionError,
)
from evenflow.store import Row, Statement
from evenflow.stores.postgres.pool import Pool, roll_back

BEGIN = "begin isolation level read committed"
"""Whatever a database's transactions are by default."""
_COMMIT = ("commit",)


class PgTransaction:
    """A transaction on one connection. `opening` are the texts that begin it."""

    def __init__(self, link: Link, opening: Sequence[str], what: str) -> None:
        self.link = link
        self.touched = False
        """Whether the server knows of it."""
        self.committed = False
        """Whether it was committed with its last statements."""
        self._what = what
        self._opening = opening
        self._before: list[str] = list(opening)

    @property
    def in_error(self) -> bool:
        """Whether a statement has failed that is not undone, nor will be before the next one."""
        return self.link.in_error and not any(text.startswith("rollback to ") for text in self._before)

    async def run(self, statements: Sequence[Statement], guards: Sequence[Statement], *, last: bool) -> int:
        """The guards go with the statements, and the commit with the last of them: one that does not hold fails."""
        if guards:
            statements = [*[(_failing(sql), args) for sql, args in guards], *statements]
        try:
            results = await self.link.run(statements, before=self._riding(), after=_COMMIT if last else ())
        except PostgresError as error:
            if 0 <= error.index < len(guards) and error.sqlstate == DIVISION_BY_ZERO:
                return error.index
            error.index = max(-1, error.index - len(guards))
            raise self._uncommitted(error) if last else self.translated(error) from error
        if last:
            self._ended(results[-1])
        return len(guards)

    async def execute(self, sql: str, args: tuple[Any, ...]) -> int:
        try:
            (result,) = await self.link.run([(sql, args)], before=self._riding())
        except PostgresError as error:
            raise self.translated(error) from error
        return result.command_tuples or 0

    async def fetch(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        try:
            return await self.link.fetch(sql, args, before=self._riding())
        except PostgresError as error:
            raise self.translated(error) from error

    def savepoint(self, name: str) -> None:
        self._before.append(f"savepoint {name}")

    def release(self, name: str) -> None:
        self._close(name, f"release {name}")

    def rollback_to(self, name: str) -> None:
        self._close(name, f"rollback to {name}", f"release {name}")

    def _close(self, name: str, *texts: str) -> None:
        if self._before and self._before[-1] == f"savepoint {name}":  # nothing has run since
            self._before.pop()
        else:
            self._before.extend(texts)

    async def commit(self) -> None:
        """Raises `StoreUnavailable`, `StoreConflict`, or `StatementFailed` for a deferred constraint."""
        if not self.touched or self.committed:
            return
        try:
            results = await self.link.control(*self._riding(), *_COMMIT)
        except PostgresError as error:
            raise self._uncommitted(error) from error
        self._ended(results[-1])

    def _uncommitted(self, error: PostgresError) -> EvenflowError:
        if error.lost:
            return StoreUnavailable(
                f"{self._what} was lost during a commit, which may have been done or not: {error.message}"
            )
        return self.translated(error, "commit")

    def _ended(self, result: pq.abc.PGresult) -> None:
        if result.command_status != b"COMMIT":
            raise aborted()
        self.committed = True

    async def rollback(self) -> None:
        """Nothing of it is left; a new one may begin here."""
        self._before = list(self._opening)
        if self.touched:
            self.touched = self.committed = False
            await roll_back(self.link)

    def _riding(self) -> list[str]:
        riding, self._before = self._before, []
        self.touched = True
        return riding

    def translated(self, error: PostgresError, sql: str = "") -> EvenflowError:
        """The same as an error of ours."""
        if error.sqlstate == LOCK_TIMEOUT and self.link.waits_for:
            error.remedy, self.link.waits_for = f"the lock is held by {self.link.waits_for}: end it, or wait", ""
        return translate(error, self._what, sql)


def _failing(guard: str) -> str:
    """A guard that fails unless it gives one row, so that nothing behind it in the same flush is done."""
    return f"with held as ({guard}) select 1 / (count(*) = 1)::int from held"


def translate(error: PostgresError, what: str, sql: str = "") -> EvenflowError:
    """`StatementFailed` where the statement is at fault, `StoreUnavailable` where nobody's event is."""
    if error.sqlstate == ABORTED:
        return aborted()
    match error.trouble:
        case Trouble.STATEMENT:
            reason = error.message if error.sqlstate == UNFIT else f"{error.message} [{error.sqlstate}]"
            if error.remedy:
                reason += f"\n  → {error.remedy}"
            return StatementFailed(reason, sql=error.sql or sql, args=error.args_, index=error.index)
        case Trouble.CONFLICT:
            return StoreConflict(f"{what} has undone a transaction for the sake of another: {error.message}")
    return StoreUnavailable(f"{what} does not do it: {error.message} [{error.sqlstate}]", remedy=error.remedy)


def aborted() -> TransactionAborted:
    return TransactionAborted(
        "a statement of this transaction has failed, and nothing runs in it before that is undone",
        remedy="put what may fail into a savepoint, or let the error through",
    )


class _Statements:
    """What a transaction of one's own and a unit have in common: statements and nested savepoints."""

    def __init__(self) -> None:
        self._tx: PgTransaction | None = None
        self._open = False
        self._depth = 0

    async def run(
        self, statements: Sequence[Statement], guards: Sequence[Statement] = (), *, last: bool = False
    ) -> int:
        tx = self._checked()
        return await tx.run(statements, guards, last=last) if statements or guards else 0

    async def execute(self, sql: str, args: tuple[Any, ...] = ()) -> int:
        return await self._checked().execute(sql, args)

    async def fetch(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        return await self._checked().fetch(sql, args)

    async def savepoint(self) -> None:
        self._checked().savepoint(f"evenflow_{self._depth}")
        self._depth += 1

    async def release(self) -> None:
        name = self._innermost()
        tx = self._checked()
        if tx.in_error:
            raise aborted()
        tx.release(name)
        self._depth -= 1

    async def rollback_to(self) -> None:
        name = self._innermost()
        self._checked().rollback_to(name)
        self._depth -= 1

    def _innermost(self) -> str:
        self._checked()
        if not self._depth:
            raise TransactionError("there is no open savepoint")
        return f"evenflow_{self._depth - 1}"

    def _checked(self) -> PgTransaction:
        if not self._open or self._tx is None:
            raise TransactionError("the transaction is not begun, or is over")
        if self._tx.link.dead:
            raise StoreUnavailable(f"the connection of this transaction was lost: {self._tx.link.dead}")
        return self._tx


class PostgresSession(_Statements):
    """A write transaction of one's own, on a connection of its own until it ends."""

    def __init__(self, pool: Callable[[], Pool], opening: Sequence[str], what: str, notify: Callable[[], None]) -> None:
        super().__init__()
        self._opened = pool
        self._pool: Pool | None = None
        self._opening = opening
        self._what = what
        self._notify = notify

    async def begin(self) -> None:
        if self._open:
            raise TransactionError("this transaction has begun already")
        pool = self._opened()
        link = await pool.take()
        self._pool, self._tx, self._open, self._depth = pool, PgTransaction(link, self._opening, self._what), True, 0

    async def commit(self) -> None:
        tx = self._checked()
        self._open = False
        try:
            await tx.commit()
            self._notify()
        finally:
            await self._give(tx)

    async def rollback(self) -> None:
        self._depth = 0
        if self._open and self._tx is not None:
            self._open = False
            await self._give(self._tx)

    async def _give(self, tx: PgTransaction) -> None:
        assert self._pool is not None
        await self._pool.give_clean(tx.link)

    def __del__(self) -> None:
        if self._open and self._tx is not None and self._pool is not None:  # dropped by a task that was killed
            self._open = False
            self._pool.clean_later(self._tx.link)


class UnitSession(_Statements):
    """A short unit of work. The store begins and ends it."""

    def __init__(self, tx: PgTransaction, *, may_end: Callable[[], bool] | None = None) -> None:
        super().__init__()
        self._tx = tx
        self._open = True
        self._may_end = may_end
        """Whether its commit is nobody else's."""

    async def run(
        self, statements: Sequence[Statement], guards: Sequence[Statement] = (), *, last: bool = False
    ) -> int:
        return await super().run(statements, guards, last=last and self._may_end is not None and self._may_end())

    async def begin(self) -> None:
        raise TransactionError("a unit of work is begun and ended by `transact`")

    async def commit(self) -> None:
        raise TransactionError("a unit of work is begun and ended by `transact`")

    async def rollback(self) -> None:
        raise TransactionError("a unit of work is begun and ended by `transact`", remedy="raise an error in it")

    def finish(self) -> None:
        """Keep what it did, open savepoints too."""
        if self._checked().in_error:
            raise aborted()
        self.close()

    def close(self) -> None:
        """It may not be used any more."""
        self._open = False
