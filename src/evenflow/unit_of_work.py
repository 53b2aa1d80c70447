"""A unit of work: the statements and events that one commit makes real, and the `Transaction` that users see of it.

Nothing is begun before a statement has to run now. Where statements are only handed over, the whole unit is applied
at its end in one short transaction: guards first, then the statements in the order of handing over, then the numbers
of the published events and their outbox rows.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import CodeType
from typing import TYPE_CHECKING, Any

import msgspec

from evenflow.envelope import Envelope, pack
from evenflow.errors import (
    FenceLost,
    StatementFailed,
    StoreConflict,
    StoreUnavailable,
    TransactionError,
    WriteFailed,
)
from evenflow.ids import derived_id, new_id
from evenflow.store import Row, Session, Statement

if TYPE_CHECKING:
    from evenflow.outbox import Outbox
    from evenflow.protection.backpressure import Gate

open_unit: ContextVar[UnitOfWork | None] = ContextVar("open_unit", default=None)
"""The unit that code of this task is in, so that `app.publish` inside of it is refused."""

cause: ContextVar[Envelope | None] = ContextVar("cause", default=None)
"""The event that a waiting handler works on, for the causation of what it publishes directly."""

rehearsed: ContextVar[Outside | None] = ContextVar("rehearsed", default=None)
"""Set while a handler is only rehearsed: what no rollback takes back is refused, and noted there."""

FAR = 1e11
"""Unix time that no event can wait for: later than any calendar's use, and what is no number is not below it."""

Added = tuple[int, str, frozenset[int]]
"""A row of the outbox, its topic, and the slots of its events."""


class Outside(msgspec.Struct):
    """What a rehearsed handler has wanted to do outside of its transaction, or ""."""

    seen: str = ""

    def refuse(self, what: str) -> TransactionError:
        """Note it; the error to raise."""
        self.seen = self.seen or what
        return TransactionError(f"a rehearsal refuses what it could not take back: the handler {what}")


class UnitOfWork(msgspec.Struct, eq=False):
    """What one commit makes real. Used by one task; `current` is the transaction that may add to it now."""

    outbox: Outbox
    group: str = ""
    guards: list[Statement] = []
    statements: list[Statement] = []
    traced: bool = True
    """Whether call sites are kept in `sites`. Without it, `WriteFailed` does not know its line."""
    sites: list[tuple[CodeType, int]] = []
    published: list[tuple[str, tuple[Any, ...]]] = []
    added: Sequence[Added] = ()
    """The rows of the outbox that hold what it has published."""
    session: Session | None = None
    current: Transaction | None = None
    waiting: str = ""
    """What its handler waits for now that is no business of others: "store", "thread" or nothing."""
    envelopes: Sequence[Envelope] = ()
    """What a transaction's cause is a place in."""
    failed: StatementFailed | StoreConflict | None = None
    """The error of a statement that has not been undone: it counts, though the handler may have gone on."""
    noticed: bool = False
    """Whether there is something to be looked at after the present event, `failed` or else."""
    expired: Transaction | None = None
    driven: bool = False
    dues: bool = False
    ran: Transaction | None = None
    """The last transaction that has run a statement directly, which no `undo` takes back."""
    done: bool = False
    gates: tuple[Gate, ...] = ()
    """Of limited topics that it publishes into, outside of a handler."""
    _applied: int = 0
    _guarded: bool = False
    _joined: bool = False

    def join(self, session: Session) -> None:
        """Be part of the user's own transaction, and never commit it."""
        self.session = session
        self._guarded = self._joined = True

    @property
    def begun(self) -> bool:
        """Whether a transaction of the database is open."""
        return self.session is not None

    @property
    def applied(self) -> int:
        """How many of `statements` have run."""
        return self._applied

    def mark(self) -> tuple[int, int]:
        """A place to `undo` to, as long as nothing after it has run."""
        return len(self.statements), len(self.published)

    def undo(self, mark: tuple[int, int]) -> bool:
        """Take back what was handed over since the mark. False when some of it has run already."""
        if self._applied > mark[0]:
            return False
        del self.statements[mark[0] :], self.sites[mark[0] :], self.published[mark[1] :]
        return True

    async def undo_to_savepoint(self, mark: tuple[int, int]) -> None:
        """Undo what was done since the innermost savepoint, and what was handed over since the mark, set before it."""
        self.current = self.failed = None
        await (await self.begin()).rollback_to()
        kept = min(len(self.statements), max(mark[0], self._applied))
        del self.statements[kept:], self.sites[kept:], self.published[mark[1] :]

    def hand_over(self, sql: str, args: tuple[Any, ...], depth: int = 1) -> None:
        """Add a statement; its call site is `depth` frames above."""
        self.statements.append((sql, args))
        if self.traced:
            frame = sys._getframe(depth)
            self.sites.append((frame.f_code, frame.f_lasti))

    async def begin(self) -> Session:
        """The open transaction; begun, with the guards as its first statements, when it is not yet."""
        if self.session is None:
            session = self.outbox.store.session()
            await session.begin()
            self.session = session
        if not self._guarded:
            await self._guard(self.session)
        return self.session

    async def _guard(self, session: Session, statements: Sequence[Statement] = (), *, last: bool = False) -> None:
        """Run these statements behind the guards."""
        guards = sorted(self.guards, key=_place)  # whoever takes several rows takes them in this order
        held = await session.run(statements, guards, last=last)
        if held < len(guards):
            args = guards[held][1]
            raise FenceLost(f"another owner has taken partition {args[4]} of {args[1]} for {args[0]}")
        self._guarded = True

    async def flush(self) -> None:
        """Run what was handed over now. Raises `WriteFailed`, which is remembered in `failed`."""
        await self._run(await self.begin())

    async def _run(self, session: Session, *, last: bool = False) -> None:
        """What was handed over, behind the guards if they have not been run."""
        start = self._applied
        waiting = self.statements[start:] if start else self.statements
        if self._guarded and not waiting:
            return
        self._applied = len(self.statements)
        try:
            if self._guarded:
                await session.run(waiting, last=last)
            else:
                await self._guard(session, waiting, last=last)
        except StatementFailed as error:
            if last and error.index < 0:
                raise  # the commit's
            index = start + max(error.index, 0)
            where = _line(*self.sites[index]) if index < len(self.sites) else ""
            self.failed = WriteFailed(error.reason, sql=error.sql, args=error.arguments, where=where)
            self.failed.index = index
            self.noticed = True
            raise self.failed from error
        except StoreConflict as error:
            self.undone(error)
            raise

    def undone(self, conflict: StoreConflict) -> None:
        """Remember that it was undone for the sake of another, whatever the handler makes of that."""
        self.failed, self.noticed = conflict, True

    async def commit(self) -> None:
        """Make it all real. Raises `FenceLost`, `WriteFailed`, `StoreUnavailable`; nothing is real then."""
        try:
            await self.keep()
        except StoreConflict:
            raise
        except StoreUnavailable:  # it may be committed all the same
            self.outbox.added(self.added, joined=True)
            raise
        self.tell()

    async def keep(self) -> None:
        """The commit itself; where the user's own transaction was joined, all that has to be in it before theirs."""
        self.current = None
        store = self.outbox.store
        for gate in self.gates:
            if self.session is None:
                await gate.enter()
            else:  # whoever holds the write lock does not wait
                gate.refuse()
        if self._joined:
            assert self.session is not None
            await self._finish(self.session)
        elif self.session is None:
            if self.statements or self.published or self.guards:
                await store.transact(self._whole, last=self.outbox.keep if self.published else None)
        else:
            await self._finish(self.session)
            await self.session.commit()
        self.done = True

    def tell(self) -> None:
        """Let the relay know, on the app's event loop."""
        if self.published or self.dues:
            self.outbox.added(self.added, joined=self._joined)

    async def _whole(self, session: Session) -> UnitOfWork:
        self._applied, self._guarded = 0, False
        await self._run(session, last=not self.published)
        return self

    async def _finish(self, session: Session) -> None:
        await self._run(session)
        if self.published:
            await self.outbox.keep(session, [self])

    async def rollback(self) -> None:
        """Undo everything that is not the user's own."""
        self.current = None
        self.done = True
        if self.session is not None and not self._joined:
            session, self.session = self.session, None
            await session.rollback()


class Transaction(msgspec.Struct, eq=False, gc=False):
    """What a handler, or `app.transaction(…)`, does in one transaction of its service's store.

    `write` and `publish` are handed over: they cost no round trip, and run in the order of handing over, before
    anything awaited after them and before the commit. `execute` and `fetch_…` run now. The transaction of the
    database begins at its first statement. Placeholders are `$1`, `$2`, …
    """

    _unit: UnitOfWork
    _cause: Envelope | int | None = None
    _count: int = 0

    def write(self, sql: str, *args: Any) -> None:
        """Hand over a statement whose result is not needed. Its error is `WriteFailed` and belongs to this event."""
        unit = self._unit
        if unit.current is not self:
            raise _closed()
        unit.statements.append((sql, args))
        if unit.traced:
            frame = sys._getframe(1)
            unit.sites.append((frame.f_code, frame.f_lasti))

    def publish(
        self, event: Any, *, after: float | None = None, at: float | None = None, name: str | None = None
    ) -> None:
        """Publish in this transaction. With `after` (seconds) or `at` (Unix time) it takes its place when it is due.

        A `name` is unique in the service: publishing under a name that waits moves it; `cancel` takes it back.
        Raises `EventInvalid` or `EventTooLarge` here, at the line that is wrong.
        """
        unit = self._unit
        if unit.current is not self:
            raise _closed()
        outbox = unit.outbox
        source = unit.envelopes[self._cause] if isinstance(self._cause, int) else self._cause
        self._count += 1
        if source is not None:
            id_ = derived_id(unit.group, source.source, source.id, str(self._count))
        else:
            id_ = "" if after is None and at is None else new_id(outbox.clock.now)
        topic, fields = outbox.fields(event, id_, source or cause.get())
        if after is None and at is None:
            if name is not None:
                raise TransactionError("publish(name=…) needs after= or at=", remedy="a name is for cancelling in time")
            unit.published.append((topic, fields))
            return
        due = _due(outbox.clock.now(), after, at)
        envelope = Envelope(*(*fields[:8], "", 0, *fields[8:]))
        unit.dues = True
        unit.hand_over(outbox.store.sql["due_add"], (due, name, topic, pack([envelope])), depth=2)

    def cancel(self, name: str) -> None:
        """Take back what waits under this name; nothing happens when nothing does."""
        unit = self._unit
        if unit.current is not self:
            raise _closed()
        unit.hand_over(unit.outbox.store.sql["due_cancel"], (name,), depth=2)

    async def flush(self) -> None:
        """Run now what was handed over. Raises `WriteFailed`."""
        unit = self._enter()
        try:
            await unit.flush()
        finally:
            unit.waiting = ""

    async def execute(self, sql: str, *args: Any) -> int:
        """Run a statement now; the number of rows that it changed."""
        unit = self._enter()
        try:
            await unit.flush()
            return await (await unit.begin()).execute(sql, args)
        except StoreConflict as error:
            unit.undone(error)
            raise
        finally:
            unit.waiting = ""

    async def fetch_all(self, sql: str, *args: Any) -> list[Row]:
        """Run a statement now; its rows, as named tuples."""
        unit = self._enter()
        try:
            await unit.flush()
            return await (await unit.begin()).fetch(sql, args)
        except StoreConflict as error:
            unit.undone(error)
            raise
        finally:
            unit.waiting = ""

    async def fetch_one(self, sql: str, *args: Any) -> Any:
        """Run a statement now; its first row as a named tuple, or None."""
        rows = await self.fetch_all(sql, *args)
        return rows[0] if rows else None

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """Run a statement now; the first column of its first row, or None."""
        rows = await self.fetch_all(sql, *args)
        return rows[0][0] if rows else None

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        """What is done inside is undone when it raises; the transaction goes on."""
        unit = self._enter()
        try:
            await unit.flush()
            session = await unit.begin()
            await session.savepoint()
        finally:
            unit.waiting = ""
        mark = unit.mark()
        try:
            yield
            await self.flush()
        except BaseException:
            if self._unit.current is self and unit.session is session:
                unit.failed = None
                kept = max(mark[0], unit.applied)
                del unit.statements[kept:], unit.sites[kept:], unit.published[mark[1] :]
                await session.rollback_to()
            raise
        await session.release()

    def _enter(self) -> UnitOfWork:
        unit = self._unit
        if unit.current is not self:
            raise _closed()
        if unit.waiting:
            raise TransactionError(
                "two statements of one transaction at the same time", remedy="await them one after another"
            )
        unit.ran = self
        unit.waiting = "store"
        return unit


def _place(guard: Statement) -> tuple[Any, ...]:
    return guard[1][:5]


def _due(now: float, after: Any, at: Any) -> Any:
    try:
        due = now + after if after is not None else at + 0.0
        if abs(due) < FAR:
            return due
        raise TransactionError(f"publish(after=, at=): {due} is no time", remedy="say a time before the year 5138")
    except TypeError:
        given = f"after={after!r}" if after is not None else f"at={at!r}"
        raise TransactionError(
            f"publish({given}): after is a number of seconds, at a Unix time",
            remedy="say after=delta.total_seconds(), or at=moment.timestamp()",
        ) from None


def _closed() -> TransactionError:
    return TransactionError(
        "this transaction is over: its handler, or its `async with`, has ended",
        remedy="do not keep a Transaction, and do not give it to a task that outlives the handler",
    )


def _line(code: CodeType, instruction: int) -> str:
    for start, end, line in code.co_lines():
        if line is not None and start <= instruction < end:
            return f"{code.co_filename}:{line}"
    return code.co_filename
