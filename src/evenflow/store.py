"""CONTRACT: what a store promises. A store is a service's own database: statements in, rows out.

No driver's type appears here. Placeholders are `$1`, `$2`, … everywhere. Our own tables are `evenflow_…`; their
statements are named blocks in the dialect's `.sql` file, so that outbox, positions and parking are written once.

Python types that go in and come back (by the declared type of the column, see each store): None, bool, int (64 bits),
float (no NaN), Decimal, str, bytes, UUID, datetime with zone, date, dict and list (as JSON).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from evenflow.checkup import Finding
    from evenflow.clock import Signal

Row = tuple[Any, ...]
Statement = tuple[str, tuple[Any, ...]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCapabilities:
    """durable: a commit that returned survives the process and, as far as the disk is honest, the machine.
    shared: several processes may open it. writers: write transactions that can be open side by side in one process.
    """

    durable: bool
    shared: bool
    writers: int = 1


class Migration(NamedTuple):
    """One numbered `.sql` file. `owner` is "evenflow" or the service; `file` is its path, where it is one."""

    owner: str
    number: int
    name: str
    sql: str
    file: str = ""


class Applied(NamedTuple):
    """A migration that a database has: the name and the checksum that its text had, and when (Unix time)."""

    owner: str
    number: int
    name: str
    checksum: str
    at: float


@dataclass(frozen=True, slots=True)
class Process:
    """One row of the heartbeat table: a process that uses this store, and what it runs.

    A contender never compares clocks: it watches whether `beat` moves, on its own monotonic clock. `boot` names the
    boot of the machine and `started` the start of the process in kernel ticks, so that a pid that is gone on the
    same boot, or was given to another process, frees what it held at once.
    """

    id: str
    pid: int
    boot: str
    started: int
    groups: tuple[str, ...]
    beat: int


class Joinable(Protocol):
    """A session or connection of the user's own, as drivers and SQLAlchemy have them, asynchronous or not."""

    def commit(self) -> Any: ...
    def rollback(self) -> Any: ...


class Session(Protocol):
    """One write transaction. Nothing else of this process writes in between where the store has one writer.

    Where it has several, transactions see what others have committed between two of their statements (read
    committed): what is read and then written takes a lock first, or is one statement. A session that was begun costs
    a connection, and may be begun at the server only with its first statement.
    """

    async def begin(self) -> None:
        """Take the right to write; waits for others. Raises `StoreUnavailable`, naming who holds it if known."""
        ...

    async def run(
        self, statements: Sequence[Statement], guards: Sequence[Statement] = (), *, last: bool = False
    ) -> int:
        """Run handed-over statements in order, without a round trip each. Raises `StatementFailed` with `index`.

        The guards run before them, and each has to give one row: how many have, up to the first that has not. Where
        that is not all, the statements may have run or failed for that reason: roll back.

        `last`: nothing but the commit comes after them. Where all guards hold, a store may then commit in the same
        round trip, with the errors of a commit (a `StatementFailed` of which has the index -1).

        What ran before the failed one is still in the transaction: roll back to a savepoint, or all. Before that a
        store may refuse every other statement, and the commit (`TransactionError`), as PostgreSQL does.
        """
        ...

    async def execute(self, sql: str, args: tuple[Any, ...] = ()) -> int:
        """Run one statement now; the number of rows that it changed."""
        ...

    async def fetch(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        """Run one statement now; its rows, as named tuples."""
        ...

    async def savepoint(self) -> None:
        """Open one more nested savepoint."""
        ...

    async def release(self) -> None:
        """Keep what was done since the innermost savepoint."""
        ...

    async def rollback_to(self) -> None:
        """Undo what was done since the innermost savepoint, and close it."""
        ...

    async def commit(self) -> None:
        """Durable when it returns. Raises `StoreUnavailable`, or `StatementFailed` for a deferred constraint.

        After `StoreUnavailable` the transaction may have been committed or not: read the position to know.
        """
        ...

    async def rollback(self) -> None:
        """Undo everything. Safe to call at any time, also after an error."""
        ...


class Store(Protocol):
    """A service's own database. One object per process; all methods run on one event loop."""

    name: str
    dialect: str
    """Of its SQL: one of `migrations.DIALECTS`."""
    capabilities: StoreCapabilities
    id: str
    """Identity of this database, made with it: a copy or a replacement is noticed by what the engine remembers."""
    changed: Signal
    """Set soon after somebody else has committed, while somebody waits for it. Whoever waits clears it.

    On SQLite after at most 20 ms, whoever it was. On PostgreSQL, whose server tells nobody, other objects of ours tell
    of their commits, some milliseconds after them (all commits of 10 ms together); behind a pooler, and for what a
    user's own transaction has published, somebody looks every 0.05 to 0.1 s (where nothing has come for 5 s, every
    0.5 s); of other commits of users' nothing is told. What is told here may be lost, so that whoever
    relies on it looks now and then by himself. What this object commits itself need not set it.
    """
    sql: Mapping[str, str]
    """Our own statements in this store's dialect, by the names in its `.sql` file."""

    async def open(self) -> None:
        """Connect and bring `evenflow_…` tables up to date. Raises `Refused` with what is wrong and the remedy, and
        `StoreUnavailable` where waiting for a server may be enough.
        """
        ...

    async def close(self) -> None: ...

    async def migrate(self, migrations: Sequence[Migration]) -> list[Migration]:
        """Apply those not yet applied, in order; returns them. Several processes may do this at once.

        Raises `Refused` when a file that was applied has changed since, or fails.
        """
        ...

    async def examine(self, *, deep: bool) -> Sequence[Finding]:
        """A check-up of its settings and files; `deep` reads all that it keeps. Changes nothing; also before `open`."""
        ...

    def own_migrations(self) -> Sequence[Migration]:
        """The steps of the `evenflow_…` tables, which `open` applies."""
        ...

    async def applied(self) -> Sequence[Applied]:
        """The migrations that the database has, ours and the users', by owner and number; none where it is not made.

        Changes nothing, and may be asked before `open`. Raises `Refused` for what is no store.
        """
        ...

    def session(self) -> Session:
        """A write transaction to come: nothing is taken before its `begin`."""
        ...

    async def transact(
        self,
        work: Callable[[Session], Awaitable[T]],
        *,
        last: Callable[[Session, list[T]], Awaitable[None]] | None = None,
    ) -> T:
        """Run a short unit of work in a write transaction and commit it; durable when it returns.

        Units that are asked for at the same time may share one commit, each under its own savepoint. `work` awaits
        nothing but its session. An error of `work` rolls back that unit alone and is raised. `last` runs right before
        the commit, once for all units that gave the same one, with what their works have returned, in their order;
        its error is the error of all of them. Where the database undoes a transaction for the sake of another, or
        only the commit shows that a unit is wrong, the units of it are run again, each alone: `work` may be called
        several times, and then raises `StoreConflict` at last.
        """
        ...

    async def read(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        """Rows of committed data, outside of any write transaction."""
        ...

    async def join(self, connection: object) -> Session:
        """The user's own open transaction as a session, which is never begun, committed or rolled back by us.

        What is given is a connection of the driver's, or what SQLAlchemy or Django has over one. Where that blocks,
        neither this call nor the session ever suspends (see `stepped`), and may be used in the caller's thread. Raises
        `TransactionError` with the remedy for a connection of another kind or to another database.
        """
        ...

    async def beat(self, process: Process) -> None:
        """Write this process's heartbeat row. Never waits behind a write transaction of the store."""
        ...

    async def processes(self) -> list[Process]:
        """All heartbeat rows."""
        ...

    async def beat_and_look(self, process: Process, sql: str) -> tuple[list[Row], list[Process]]:
        """`beat`, then the rows of this one of `sql`, then `processes`, in this order; at most one round trip."""
        ...

    async def end(self, process: str) -> None:
        """Take from a process whose lease is over what its open transactions hold: they are rolled back.

        It may be frozen, or its machine cut off: a claim would wait for its locks. Nothing happens where they hold up
        nobody, or where another process cannot end them.
        """
        ...

    async def forget(self, process: str) -> None:
        """Remove a heartbeat row: of this process at its end, or of a dead one."""
        ...


def stepped(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends, without an event loop."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise AssertionError("a coroutine that was said never to suspend has suspended")
