"""A connection of the standard library's `sqlite3`, for teams whose own code opens the same file through it.

`sqlite3` does not tell the declared types of a result's columns, short of converters that would hold for the whole
process. So apsw is asked, on an empty copy of the schema in memory; it never opens the file. What cannot be prepared
there (a function that the team has added to its connection) comes back as SQLite keeps it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from operator import length_hint
from typing import Any

import apsw
import apsw.ext

from evenflow.errors import EvenflowError, StatementFailed
from evenflow.store import Row, Statement
from evenflow.stores.sqlite.driver import Place
from evenflow.stores.sqlite.text import Ready
from evenflow.stores.sqlite.types import NATIVE, Rows, bound, finite, misfit, rows_of

_SCHEMA = """
select type, sql from sqlite_schema where sql is not null and type in ('table', 'view')
union all select type, sql from sqlite_temp_schema where sql is not null and type in ('table', 'view') order by type
"""


class StdlibLink:
    """A connection of `sqlite3`'s. Its arguments are looked at, and converted where SQLite does not know their type."""

    def __init__(self, connection: sqlite3.Connection, place: Place, *, reads: bool = False) -> None:
        self.reads = reads
        self._connection = connection
        self._place = place
        self._ready = place.ready
        self._cursor = connection.cursor()
        self._cursor.row_factory = None
        self._declared = _DeclaredTypes(connection, place.results)
        if self.value("select count(*) from sqlite_schema where sql like '%defer%'"):
            self._ready.deferring = True

    @property
    def shares(self) -> bool:
        return not self._ready.deferring

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def run(self, statements: Sequence[Statement]) -> None:
        wrong = misfit([args for _, args in statements])
        todo = iter(list(statements[:wrong] if wrong >= 0 else statements))
        execute, ready, native = self._cursor.execute, self._ready, NATIVE.issuperset
        sql, args = "", ()
        try:
            for sql, args in todo:
                execute(ready[sql], args if native(map(type, args)) else tuple(map(bound, args)))
            self._cursor.fetchall()  # a last statement with rows would stay open
        except Exception as error:
            index = (wrong if wrong >= 0 else len(statements)) - length_hint(todo) - 1
            raise self.failure(error, sql, args, index) from error
        if wrong >= 0:
            sql, args = statements[wrong]
            raise StatementFailed("a float is NaN or infinite", sql=sql, args=args, index=wrong)

    def execute(self, sql: str, args: tuple[Any, ...] = ()) -> int:
        cursor, _ = self._rows(sql, args)
        return max(0, cursor.rowcount)

    def fetch(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        cursor, rows = self._rows(sql, args)
        if not rows:
            return []
        names = tuple(column[0] for column in cursor.description)
        try:
            return self._declared.rows(self._ready[sql], names)(rows)
        except ValueError as error:
            raise self.failure(error, sql, args) from error

    def _rows(self, sql: str, args: tuple[Any, ...]) -> tuple[sqlite3.Cursor, list[tuple[Any, ...]]]:
        if not finite(args):
            raise StatementFailed("a float is NaN or infinite", sql=sql, args=args)
        cursor = self._cursor
        try:
            values = args if NATIVE.issuperset(map(type, args)) else tuple(map(bound, args))
            return cursor, cursor.execute(self._ready[sql], values).fetchall()
        except Exception as error:
            raise self.failure(error, sql, args) from error

    def control(self, sql: str) -> None:
        self._cursor.execute(sql)

    def value(self, sql: str) -> Any:
        row = self._cursor.execute(sql).fetchone()
        self._cursor.fetchall()
        return row[0] if row else None

    def dangling(self) -> bool:
        return False

    def failure(self, error: Exception, sql: str = "", args: tuple[Any, ...] = (), index: int = -1) -> EvenflowError:
        return self._place.failure(error, sql, args, index, reads=self.reads)

    def close(self) -> None:
        self._connection.close()


class _DeclaredTypes:
    """What a statement's columns are declared as."""

    def __init__(self, connection: sqlite3.Connection, known: dict[str, tuple[object, Rows]]) -> None:
        self._cursor = connection.cursor()
        self._cursor.row_factory = None
        self._known = known

    def rows(self, sql: str, names: tuple[str, ...]) -> Rows:
        schema = (names, *self._cursor.execute("pragma schema_version").fetchall())
        known = self._known.get(sql)
        if known is None or known[0] != schema:
            if len(self._known) >= Ready.LIMIT:
                self._known.clear()
            known = self._known[sql] = (schema, self._asked(sql, names))
        return known[1]

    def _asked(self, sql: str, names: tuple[str, ...]) -> Rows:
        copy = apsw.Connection(":memory:")
        for _, made in self._cursor.execute(_SCHEMA).fetchall():
            with suppress(apsw.Error):  # SQLite's own tables, modules that apsw has not
                copy.execute(made)
        try:
            types: list[str | None] = [column[1] for column in apsw.ext.query_info(copy, sql).description]
        except apsw.Error:
            types = [None] * len(names)
        finally:
            copy.close()
        return rows_of(tuple(zip(names, types, strict=True)))
