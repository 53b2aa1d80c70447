"""Who may write: one after another, in order of asking, through the one write connection of this process.

Short units that are asked for at the same moment share one commit, each under its own savepoint.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from evenflow.errors import EvenflowError, StatementFailed, StoreUnavailable, TransactionError
from evenflow.sqlite_pace import CommitPace, to_the_end
from evenflow.stores.sqlite_driver import Link

GROUP_UNITS = 64
GROUP_SECONDS = 0.005


class _Turn:
    """One that waits for the right to write. `joins`: it is a unit that may share a commit."""

    __slots__ = ("granted", "joins")

    def __init__(self, *, joins: bool) -> None:
        self.joins = joins
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class WriteTurns:
    """The write connection, and the queue for it.

    The group is the units that have run in the open transaction and wait for its commit. Whoever gives its turn back
    passes it on; when nobody is left to join, the group is committed as soon as the loop has run what was ready.
    """

    def __init__(
        self,
        link: Link,
        pace: CommitPace,
        begin: Callable[[], Awaitable[None]],
        notify: Callable[[], None],
        monotonic: Callable[[], float],
    ) -> None:
        self.link = link
        self.holder: asyncio.Task[object] | None = None
        self._pace = pace
        self._begin = begin
        self._notify = notify
        self._monotonic = monotonic
        self._loop = asyncio.get_running_loop()
        self._busy = False
        self._turns: deque[_Turn] = deque()
        self._group: list[asyncio.Future[None]] = []
        self._group_since = 0.0
        self._settling = False
        self._work: asyncio.Task[None] | None = None

    @property
    def threaded(self) -> bool:
        """Whether commits run in a thread now, because the disk is slow."""
        return self._pace.threaded

    @property
    def idle(self) -> bool:
        """Whether nothing is uncommitted and nobody waits."""
        return not (self._busy or self._group or self._turns)

    async def take(self, *, joins: bool = False) -> None:
        """Wait for the turn; an open group is committed first, unless this one `joins` it."""
        if self._busy or self._turns or (self._group and not (joins and self._room())):
            await self._wait(joins)
        self._busy = True
        self.holder = asyncio.current_task()

    async def _wait(self, joins: bool) -> None:
        if self.holder is not None and self.holder is asyncio.current_task():
            raise TransactionError(
                "a second transaction of one store while this task's first is open would wait for ever",
                remedy="use the open one, or end it first",
            )
        turn = _Turn(joins=joins)
        self._turns.append(turn)
        if not self._busy:
            self._pass()
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.done() and not turn.granted.cancelled():
                self.give()
            raise

    def give(self) -> None:
        """Give the turn back. What is uncommitted now belongs to the group."""
        self._busy = False
        self.holder = None
        self._pass()

    def give_later(self) -> None:
        """Give the turn back from wherever garbage is collected."""
        self.holder = None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.give)

    def _pass(self) -> None:
        while self._turns and self._turns[0].granted.done():
            self._turns.popleft()
        head = self._turns[0] if self._turns else None
        if self._group and head is None:
            if not self._settling:
                self._settling = True
                self._loop.call_soon(self._settle)
            return
        if self._group and not (head is not None and head.joins and self._room()) and not self._commit_group():
            return
        if head is not None:
            self._turns.popleft()
            self._busy = True
            head.granted.set_result(None)

    def _settle(self) -> None:
        self._settling = False
        if not self._busy and (not self._group or self._commit_group()):
            self._pass()

    def _room(self) -> bool:
        young = self._monotonic() - self._group_since < GROUP_SECONDS
        return young and self.link.shares and len(self._group) < GROUP_UNITS

    async def begin_unit(self) -> bool:
        """Begin the unit of the one whose turn it is. True if it is the first of its transaction."""
        if not self._group:
            await self._begin()
            self._group_since = self._monotonic()
            return True
        try:
            self.link.control("savepoint evenflow_unit")
        except Exception as error:
            raise self.link.failure(error, "savepoint") from error
        return False

    def end_unit(self, *, first: bool) -> asyncio.Future[None]:
        """The unit joins the group; the future is done when that is committed."""
        if not first:
            self.link.control("release evenflow_unit")
        committed: asyncio.Future[None] = self._loop.create_future()
        self._group.append(committed)
        return committed

    def undo_unit(self, cause: BaseException, *, first: bool) -> None:
        """Undo this unit alone. If the whole transaction was lost with it, its group is told."""
        try:
            if not first and self.link.in_transaction:
                self.link.control("rollback to evenflow_unit")
                self.link.control("release evenflow_unit")
                return
        except Exception as error:
            cause = error
        roll_back(self.link)
        self._fail_group(cause)

    def _commit_group(self) -> bool:
        """Commit the group here and now, or, on a slow disk, begin to. True when it is over."""
        if self._pace.threaded:
            self._busy = True
            self._work = self._loop.create_task(self._commit_slowly())
            return False
        try:
            self._pace.timed(self._commit_now)
        except Exception as error:
            roll_back(self.link)
            self._fail_group(error, at_commit=True)
        else:
            self._tell_group()
        return True

    async def _commit_slowly(self) -> None:
        try:
            await self._pace.run(self._commit_now)
        except Exception as error:
            roll_back(self.link)
            self._fail_group(error, at_commit=True)
        else:
            self._tell_group()
        self.give()

    def _commit_now(self) -> None:
        self.link.control("commit")

    def _tell_group(self) -> None:
        group, self._group = self._group, []
        for committed in group:
            if not committed.done():
                committed.set_result(None)
        self._notify()

    def _fail_group(self, error: BaseException, *, at_commit: bool = False) -> None:
        group, self._group = self._group, []
        cause = self.link.failure(error, "commit") if isinstance(error, Exception) else error
        own = at_commit and len(group) == 1 and isinstance(cause, StatementFailed)  # a deferred constraint
        for committed in group:
            if not committed.done():
                committed.set_exception(cause if own else _of_group(cause))

    async def commit(self) -> None:
        """Commit the transaction of the session whose turn it is, and give the turn back, whatever happens."""
        try:
            await self._pace.run(self._commit_now)
        except Exception as error:
            raise self.link.failure(error, "commit") from error
        finally:  # a slow commit has ended before a cancellation comes through here
            roll_back(self.link)
            self.give()
            self._notify()

    async def close(self) -> None:
        """Commit what units have done, roll back what a session has not committed; nobody writes afterwards."""
        if self._group and not self._busy:
            self._commit_group()
        if self._work is not None:
            await to_the_end(self._work)
        for turn in self._turns:
            if not turn.granted.done():
                turn.granted.set_exception(StoreUnavailable("the store was closed"))
        roll_back(self.link)
        self._pace.close()


def roll_back(link: Link) -> None:
    """End the transaction, if there is one, without an error: a connection that is broken has none."""
    try:
        if link.in_transaction:
            link.control("rollback")
    except Exception:
        return


def _of_group(cause: BaseException) -> EvenflowError:
    """What each unit of a lost group is told: its own instance, and never a neighbour's fault as its own."""
    if isinstance(cause, StoreUnavailable):
        failure = StoreUnavailable(cause.message, remedy=cause.remedy)
    else:
        failure = StoreUnavailable(
            "the transaction was lost with a unit that shared its commit; nothing was written", remedy="try again"
        )
    failure.__cause__ = cause
    return failure
