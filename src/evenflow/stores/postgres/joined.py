"""Joining the user's own transaction on PostgreSQL: a connection of psycopg, blocking or asynchronous."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from inspect import isawaitable
from math import isfinite
from typing import Any, NamedTuple
from weakref import WeakSet

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from evenflow.drivers.postgres.errors import ABORTED, LOCK_TIMEOUT, LOST, READ_ONLY, PostgresError, Trouble, trouble
from evenflow.drivers.postgres.plans import checked, row_class
from evenflow.drivers.postgres.types import TIMESTAMP, TIMESTAMPTZ, encoder
from evenflow.errors import EvenflowError, StatementFailed, StoreConflict, StoreUnavailable, TransactionError
from evenflow.store import Row, Session, Statement
from evenflow.stores.joined import in_loop, refuse_without_loop, unwrapped
from evenflow.stores.postgres.schema import quoted

_TABLES = """
select c.relname, has_table_privilege(c.oid, 'insert') and has_table_privilege(c.oid, 'select')
from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname in ('evenflow_store', 'evenflow_outbox', 'evenflow_counter')
"""
_TIMES = (TIMESTAMP, TIMESTAMPTZ)
CANCELED = "57014"
_AGAIN = "roll your transaction back, and run it again from its beginning"


class Joining:
    """What a store knows of the connections that join it: where its tables are, and which connections lead there."""

    def __init__(self, store: str, schema: str) -> None:
        self._id = store
        self._schema = schema
        self._identity = f"select id from {quoted(schema)}.evenflow_store"
        self._known: WeakSet[Any] = WeakSet()

    async def join(self, given: object) -> Session:
        """The user's open transaction as a session. Raises `TransactionError` with the remedy.

        Neither this nor the session suspends where the connection is a blocking one.
        """
        beneath = await unwrapped(given)
        connection = beneath.connection
        _refuse_kind(connection)
        _refuse_state(connection)
        session = JoinedSession(connection)
        if connection not in self._known:
            await self._check(session, connection)
            self._known.add(connection)
        return beneath.joined(session)

    async def _check(self, session: JoinedSession, connection: Any) -> None:
        """A connection leads to one database as long as it lives, so that this is asked once."""
        allowed: dict[str, bool] = dict(await session.fetch(_TABLES, (self._schema,)))
        where = f"{connection.info.dbname} at {connection.info.host}:{connection.info.port}"
        if "evenflow_store" not in allowed:
            raise TransactionError(
                f"the joined connection leads to the database {where}, which has no store in the schema "
                f"{self._schema!r}",
                remedy="join a connection to the store's own database",
            )
        if not all(allowed.values()):
            raise TransactionError(
                f"the joined connection's user {connection.info.user!r} may not write to the store's tables",
                remedy=f"grant select, insert, update, delete on all tables in schema {self._schema} "
                f"to {connection.info.user}; and usage on the schema",
            )
        if await session.fetch(self._identity) != [(self._id,)]:
            raise TransactionError(
                f"the joined connection leads to another store, in the schema {self._schema!r} of {where}",
                remedy="join a connection to the store's own database",
            )


def _refuse_kind(connection: Any) -> None:
    if isinstance(connection, psycopg.AsyncConnection):
        refuse_without_loop("an AsyncConnection of psycopg")
    elif not isinstance(connection, psycopg.Connection):
        origin = type(connection).__module__.partition(".")[0]
        what = type(connection).__name__ + (f" of {origin}" if origin != "builtins" else "")
        raise TransactionError(
            f"a {what} cannot be joined to a PostgreSQL store",
            remedy="give a connection of psycopg 3, or a session or connection of SQLAlchemy's over one "
            "(postgresql+psycopg://…)",
        )
    elif in_loop():
        raise TransactionError(
            "a blocking connection of psycopg cannot be joined on an event loop: it would wait there for other "
            "transactions, also for those of this loop, which would never end",
            remedy="use an AsyncSession or AsyncConnection here, or a `def` function with "
            "`with app.sync.transaction(…, on=…)`, which runs in a thread",
        )


def _refuse_state(connection: Any) -> None:
    status = connection.info.transaction_status
    if connection.closed:
        raise TransactionError("the joined connection is closed", remedy="join one that is open")
    if status == TransactionStatus.IDLE and connection.autocommit:
        raise TransactionError(
            "the joined connection commits every statement by itself (autocommit)",
            remedy="begin a transaction around it: `with connection.transaction():`, or connect without autocommit",
        )
    if status == TransactionStatus.INERROR:
        raise TransactionError(
            "the joined transaction has failed: PostgreSQL takes no more statements of it",
            remedy="roll it back",
        )
    if status == TransactionStatus.ACTIVE or connection.info.pipeline_status != PipelineStatus.OFF:
        raise TransactionError(
            "the joined connection is at work: another statement or a pipeline of it is open",
            remedy="one statement after another; join it outside of `connection.pipeline()`",
        )


class JoinedSession:
    """The user's own transaction: never begun, committed or rolled back here; psycopg begins it, as for the user."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        blocking = isinstance(connection, psycopg.Connection)
        kind: Any = psycopg.RawCursor if blocking else psycopg.AsyncRawCursor
        self._cursor = kind(connection, row_factory=tuple_row)
        self._cursor.adapters.register_dumper(_Text, _TextDumper)
        self._begun = connection.info.transaction_status != TransactionStatus.IDLE
        self._depth = 0

    async def begin(self) -> None:
        return

    async def commit(self) -> None:
        return

    async def rollback(self) -> None:
        return

    async def run(
        self,
        statements: Sequence[Statement],
        guards: Sequence[Statement] = (),
        *,
        last: bool = False,  # noqa: ARG002
    ) -> int:
        for held, (sql, args) in enumerate(guards):
            if await self.execute(sql, args) != 1:
                return held
        for index, (sql, args) in enumerate(statements):
            await self._execute(sql, args, index)
        return len(guards)

    async def execute(self, sql: str, args: tuple[Any, ...] = ()) -> int:
        await self._execute(sql, args)
        return max(0, int(self._cursor.rowcount))

    async def fetch(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        await self._execute(sql, args)
        columns = self._cursor.description
        if columns is None:
            return []
        new = row_class(tuple(each.name for each in columns))._make  # type: ignore[attr-defined]  # a named tuple's
        times = [place for place, each in enumerate(columns) if each.type_code in _TIMES]
        return [new(_in_utc(row, times) if times else row) for row in await _done(self._cursor.fetchall())]

    async def savepoint(self) -> None:
        await self._control(f"savepoint evenflow_{self._depth}")
        self._depth += 1

    async def release(self) -> None:
        await self._control(f"release savepoint {self._innermost()}")
        self._depth -= 1

    async def rollback_to(self) -> None:
        name = self._innermost()
        await self._control(f"rollback to savepoint {name}")
        await self._control(f"release savepoint {name}")
        self._depth -= 1

    def _innermost(self) -> str:
        if not self._depth:
            raise TransactionError("there is no open savepoint")
        return f"evenflow_{self._depth - 1}"

    async def _execute(self, sql: str, args: tuple[Any, ...], index: int = -1) -> None:
        try:
            values = [_bound(each) for each in checked(sql, args)]
        except (PostgresError, ValueError, TypeError) as error:
            raise StatementFailed(str(error), sql=sql, args=args, index=index) from error
        await self._send(sql, args, values, index)

    async def _control(self, sql: str) -> None:
        await self._send(sql, (), [], -1)

    async def _send(self, sql: str, args: tuple[Any, ...], values: list[Any], index: int) -> None:
        if self._begun and self._connection.info.transaction_status == TransactionStatus.IDLE:
            raise TransactionError(
                "the joined transaction is over", remedy="end it after the block of app.transaction(…, on=…)"
            )
        try:
            await _done(self._cursor.execute(sql, values))
        except psycopg.Error as error:
            raise _translated(error, sql, args, index) from error
        self._begun = True


async def _done(value: Any) -> Any:
    """The result of a call of psycopg's: of its asynchronous half once it is awaited."""
    return await value if isawaitable(value) else value


class _Text(NamedTuple):
    """A value as the text that the store sends, whose type the server infers."""

    data: bytes


class _TextDumper(Dumper):
    def dump(self, obj: _Text) -> bytes:
        return obj.data


def _bound(value: Any) -> Any:
    """What psycopg sends otherwise than a store does: JSON, and times, which it would turn by the session's zone."""
    if isinstance(value, dict | list | datetime):
        text = encoder(type(value), 0)[0](value)
        return None if text is None else _Text(text)
    if isinstance(value, float) and not isfinite(value):
        raise ValueError("a float is NaN or infinite")
    return value


def _in_utc(row: Row, places: list[int]) -> Row:
    """The row with the times in these columns as a store gives them."""
    values = list(row)
    for place in places:
        moment = values[place]
        if isinstance(moment, datetime):
            values[place] = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return tuple(values)


def _translated(error: Exception, sql: str, args: tuple[Any, ...], index: int) -> EvenflowError:
    words = str(error).strip()
    code = getattr(error, "sqlstate", None) or (LOST if isinstance(error, psycopg.OperationalError) else "")
    if code == ABORTED:
        return TransactionError("the joined transaction has failed before", remedy="roll it back")
    if code == READ_ONLY:
        return TransactionError("the joined transaction may only read", remedy="join one that may write")
    if trouble(code) is Trouble.CONFLICT:
        return StoreConflict(f"the joined transaction met another one: {words}", remedy=_AGAIN)
    if code in (LOCK_TIMEOUT, CANCELED):
        return StoreUnavailable(f"the joined transaction waited for another one: {words}", remedy=_AGAIN)
    if trouble(code) is Trouble.UNAVAILABLE:
        return StoreUnavailable(f"the joined connection does not answer: {words}", remedy=_AGAIN)
    return StatementFailed(f"{type(error).__name__}: {words}", sql=sql, args=args, index=index)
