"""Who may write: one after another, in order of asking, through the one write connection of this process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from evenflow.drivers.sqlite.pace import CommitPace
from evenflow.errors import StoreUnavailable, TransactionError
from evenflow.stores.sqlite.driver import Link


class WriteTurns:
    """The write connection, and the queue for it. Whoever gives its turn back passes it on."""

    def __init__(self, link: Link, pace: CommitPace, notify: Callable[[], None]) -> None:
        self.link = link
        self.holder: asyncio.Task[object] | None = None
        self._pace = pace
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._busy = False
        self._closed = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.last: asyncio.Future[None] | None = None
        """The turn that was asked for last."""

    @property
    def threaded(self) -> bool:
        """Whether commits run in a thread now, because the disk is slow."""
        return self._pace.threaded

    @property
    def idle(self) -> bool:
        """Whether nothing is uncommitted and nobody waits."""
        return not (self._busy or self._waiting)

    async def take(self) -> None:
        """Wait for the turn."""
        if self._busy:
            self.refuse_own()
        turn = self.ask()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()
            raise
        self.holder = asyncio.current_task()

    def ask(self) -> asyncio.Future[None]:
        """Ask for the turn: it has come when this is done."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self.last = turn
        if not self._busy:
            self._busy = True
            turn.set_result(None)
        elif self._closed:
            turn.set_exception(_closed())
        else:
            self._waiting.append(turn)
        return turn

    def refuse_own(self) -> None:
        """Raise for a task that has the turn: it would wait for itself."""
        if self.holder is not None and self.holder is asyncio.current_task():
            raise TransactionError(
                "a second transaction of one store while this task's first is open would wait for ever",
                remedy="use the open one, or end it first",
            )

    def give(self) -> None:
        """Give the turn back."""
        self._busy = False
        self.holder = None
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._busy = True
                turn.set_result(None)
                return

    def give_later(self) -> None:
        """Give the turn back from wherever garbage is collected."""
        self.holder = None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.give)

    async def commit(self) -> None:
        """Commit the transaction of the one whose turn it is. Whatever happens, none is open then."""
        try:
            await self._pace.run(self._commit_now)
        except Exception as error:
            raise self.link.failure(error, "commit") from error
        finally:  # a slow commit has ended before a cancellation comes through here
            roll_back(self.link)
            self._notify()

    def _commit_now(self) -> None:
        self.link.control("commit")

    def refuse_waiting(self) -> None:
        """Nobody who has to wait gets a turn from now on."""
        self._closed = True
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(_closed())

    def close(self) -> None:
        """Roll back what a session has not committed."""
        roll_back(self.link)
        self._pace.close()


def roll_back(link: Link) -> None:
    """End the transaction, if there is one, without an error: a connection that is broken has none."""
    try:
        if link.in_transaction:
            link.control("rollback")
    except Exception:
        return


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the store was closed")
