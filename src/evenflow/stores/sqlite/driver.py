"""One connection to SQLite, as sessions use it: through `apsw` here, through the standard library's `sqlite3` beside.

Everything runs at once in the calling thread, and every error of the driver comes out translated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter, length_hint
from typing import Any, Protocol

import apsw

from evenflow.drivers.sqlite.diagnosis import Trouble, diagnose, error_code, trouble_of
from evenflow.errors import EvenflowError, StatementFailed, StoreUnavailable
from evenflow.store import Row, Statement
from evenflow.stores.sqlite.text import Ready
from evenflow.stores.sqlite.types import Rows, bound, finite, misfit, rows_of

_OURS = frozenset({2, 4, 9})  # INTERNAL, ABORT, INTERRUPT: SQLite's or ours, never the statement's fault
_READ_ONLY = 8


class Link(Protocol):
    """One open connection.

    reads   it is for reading alone, so that a write is the statement's fault
    shares  whose fault a deferred constraint is can be told before the commit, so that units may share one
    """

    reads: bool

    @property
    def shares(self) -> bool: ...

    @property
    def in_transaction(self) -> bool: ...
    def run(self, statements: Sequence[Statement]) -> None: ...
    def execute(self, sql: str, args: tuple[Any, ...] = ()) -> int: ...
    def fetch(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]: ...
    def control(self, sql: str) -> None:
        """Run a statement of the store's own as it stands, with the driver's bare errors."""
        ...

    def value(self, sql: str) -> Any:
        """The first value of a statement of the store's own, with the driver's bare errors."""
        ...

    def dangling(self) -> bool:
        """Whether a deferred foreign key is violated now, so that a commit would fail; where it `shares`."""
        ...

    def failure(self, error: Exception, sql: str = "", args: tuple[Any, ...] = (), index: int = -1) -> EvenflowError:
        """The driver's error, translated."""
        ...

    def close(self) -> None: ...


class Place:
    """Where connections lead, and what is known of the statements that they run."""

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = what
        self.ready = Ready()
        self.results: dict[str, tuple[object, Rows]] = {}
        """By statement: of which schema, and how its rows are made; for the driver that tells no types."""

    def failure(
        self, error: Exception, sql: str, args: tuple[Any, ...], index: int, *, reads: bool = False
    ) -> EvenflowError:
        """`StatementFailed` where the statement is at fault, `StoreUnavailable` where nobody's event is."""
        if isinstance(error, StoreUnavailable):
            return error
        if isinstance(error, EvenflowError):
            reason = error.reason if isinstance(error, StatementFailed) else error.message
            return StatementFailed(reason, sql=sql, args=args, index=index)
        code = error_code(error)
        if reads and code == _READ_ONLY:
            return StatementFailed("read() cannot write", sql=sql, args=args, index=index)
        if isinstance(error, MemoryError):
            return StoreUnavailable(f"{self.what} at {self.path}: there is no memory left for a statement")
        if isinstance(error, apsw.ConnectionClosedError | apsw.CursorClosedError) or "closed database" in str(error):
            return StoreUnavailable(f"{self.what} at {self.path} is closed")
        if trouble_of(code) is Trouble.STATEMENT and code & 0xFF not in _OURS:
            return StatementFailed(f"{type(error).__name__}: {error}", sql=sql, args=args, index=index)
        found = diagnose(error, self.path, self.what)
        return StoreUnavailable(found.message, remedy=found.remedy)


class ApswLink:
    """A connection of apsw's. Values that SQLite does not know are converted by a callback: others pay nothing."""

    shares = True

    def __init__(self, connection: apsw.Connection, place: Place, *, reads: bool = False) -> None:
        self.reads = reads
        self.connection = connection
        self._place = place
        self._ready = place.ready
        self._cursor = self._new_cursor()
        self._execute: Callable[[str, tuple[Any, ...]], object] = self._cursor.execute

    def _new_cursor(self) -> apsw.Cursor:
        cursor = self.connection.cursor()
        cursor.convert_binding = _convert  # on our cursors alone: the connection may be the user's
        cursor.row_trace = None
        return cursor

    @property
    def in_transaction(self) -> bool:
        return self.connection.in_transaction

    def run(self, statements: Sequence[Statement]) -> None:
        if not statements:
            return
        texts, values = list(map(_text, statements)), list(map(_values, statements))
        wrong = misfit(values)
        done = count = len(texts) if wrong < 0 else wrong
        todo = iter(texts[:count])  # how much of it is left tells which statement failed
        try:
            _exhaust(map(self._execute, map(self._ready.__getitem__, todo), values))
            self._cursor.fetchall()  # a last statement with rows would stay open
        except Exception as error:
            done = count - length_hint(todo) - 1
            raise self.failure(error, texts[done], values[done], done) from error
        if wrong >= 0:
            raise StatementFailed("a float is NaN or infinite", sql=texts[wrong], args=values[wrong], index=wrong)

    def execute(self, sql: str, args: tuple[Any, ...] = ()) -> int:
        before = self.connection.total_changes()
        self._plain(sql, args)
        return self.connection.changes() if self.connection.total_changes() != before else 0

    def fetch(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        if not finite(args):
            raise StatementFailed("a float is NaN or infinite", sql=sql, args=args)
        cursor = self._cursor
        try:
            self._execute(self._ready[sql], args)
            try:
                description = cursor.get_description()
            except apsw.ExecutionCompleteError:
                return []
            return rows_of(description)(cursor.fetchall())
        except Exception as error:
            raise self.failure(error, sql, args) from error

    def _plain(self, sql: str, args: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if not finite(args):
            raise StatementFailed("a float is NaN or infinite", sql=sql, args=args)
        try:
            self._execute(self._ready[sql], args)
            return self._cursor.fetchall()
        except Exception as error:
            raise self.failure(error, sql, args) from error

    def control(self, sql: str) -> None:
        self._execute(sql, ())

    def value(self, sql: str) -> Any:
        return self.connection.execute(sql).get

    def dangling(self) -> bool:
        return bool(self.connection.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0])

    def failure(self, error: Exception, sql: str = "", args: tuple[Any, ...] = (), index: int = -1) -> EvenflowError:
        return self._place.failure(error, sql, args, index, reads=self.reads)

    def close(self) -> None:
        self.connection.close()


_text, _values = itemgetter(0), itemgetter(1)
_exhaust: Callable[[Iterable[Any]], None] = deque(maxlen=0).extend
"""Goes through an iterator and keeps nothing: a loop without a step of the interpreter."""


def _convert(_cursor: apsw.Cursor, _number: int, value: Any) -> Any:
    return bound(value)
