"""The connections of one store in one process: a few that write, given out in the order of asking."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from evenflow.drivers.postgres.errors import PostgresError, connect_remedy
from evenflow.drivers.postgres.link import Link
from evenflow.drivers.postgres.place import PostgresPlace
from evenflow.errors import StoreUnavailable, TransactionError

PAUSES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds between two attempts to connect, after so many that failed."""


class Connecting:
    """Makes connections. After one that failed, all wait a little longer before the next attempt."""

    def __init__(self, place: PostgresPlace, what: str) -> None:
        self.place = place
        self.what = what
        self._loop = asyncio.get_running_loop()
        self._failures = 0
        self._again = 0.0

    async def connect(self) -> Link:
        """Raises `StoreUnavailable`."""
        wait = self._again - self._loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        try:
            link = await Link.connect(self.place)
        except PostgresError as error:
            self._failures = min(self._failures + 1, len(PAUSES) - 1)
            self._again = self._loop.time() + PAUSES[self._failures]
            raise unreachable(self.what, self.place, error) from error
        self._failures = 0
        return link


def unreachable(what: str, place: PostgresPlace, error: PostgresError) -> StoreUnavailable:
    """What a connection that could not be made says."""
    return StoreUnavailable(
        f"{what} at {place.words} cannot be reached: {error.message}",
        remedy=error.remedy or connect_remedy(error.message),
    )


class Pool:
    """At most `size` connections. Whoever takes one gives it back; one that is broken is replaced."""

    def __init__(self, connecting: Connecting, size: int) -> None:
        self.size = size
        self.links: set[Link] = set()
        self._connecting = connecting
        self._loop = asyncio.get_running_loop()
        self._idle: list[Link] = []
        self._opening = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._holders: dict[Link, asyncio.Task[object] | None] = {}
        self._cleaning: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def spare(self) -> bool:
        """Whether one is connected, and nobody waits for it."""
        return bool(self._idle) and not self._waiting

    async def take(self) -> Link:
        """A connection without a transaction. Raises `StoreUnavailable`."""
        if self._waiting or not self._free():
            await self._turn()
        self._refuse_closed()
        if self._idle:
            return self._hold(self._idle.pop())
        self._opening += 1
        try:
            link = await self._connecting.connect()
        finally:
            self._opening -= 1
            if not self._idle:
                self._next()
        if self._shut():
            link.close()
        self._refuse_closed()
        link.on_death = self._lost
        self.links.add(link)
        return self._hold(link)

    def _shut(self) -> bool:
        return self._closed

    def _refuse_closed(self) -> None:
        if self._closed:
            raise closed(self._connecting.what)

    def _hold(self, link: Link) -> Link:
        self._holders[link] = asyncio.current_task()
        return link

    def _free(self) -> bool:
        return bool(self._idle) or len(self.links) + self._opening < self.size

    async def _turn(self) -> None:
        """Wait until there is one, after those who asked before."""
        self.refuse_own()
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        while True:
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()
                raise
            if self._closed or self._free():
                return
            turn = self._loop.create_future()
            self._waiting.appendleft(turn)

    def _next(self) -> None:
        while self._waiting and (self._closed or self._free()):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def refuse_own(self) -> None:
        """Raise for a task that has all connections: it would wait for itself."""
        task = asyncio.current_task()
        if len(self._holders) >= self.size and all(holder is task for holder in self._holders.values()):
            raise TransactionError(
                "another transaction of one store while this task holds all its connections would wait for ever",
                remedy="use the open one, or end it first",
            )

    def give(self, link: Link) -> None:
        """Give it back, its transaction ended."""
        self._holders.pop(link, None)
        if link.idle and not self._closed:
            self._idle.append(link)
        else:
            link.fail("the connection was left in the middle of something")
            self.links.discard(link)
        self._next()

    async def give_clean(self, link: Link) -> None:
        """Give it back, whatever it is in the middle of; also when this task is cancelled."""
        if not link.idle and not link.dead:
            try:
                await roll_back(link)
            except BaseException:
                self.clean_later(link)
                raise
        self.give(link)

    def clean_later(self, link: Link) -> None:
        """Take back one whose user was dropped: from wherever garbage is collected."""
        if not self._loop.is_closed():
            self._holders[link] = None
            self._loop.call_soon_threadsafe(self._clean, link)

    def _clean(self, link: Link) -> None:
        task = self._loop.create_task(self._cleaned(link))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def _cleaned(self, link: Link) -> None:
        try:
            await roll_back(link)
        finally:
            self.give(link)

    def _lost(self, link: Link) -> None:
        self.links.discard(link)
        if link in self._idle:
            self._idle.remove(link)
        if link not in self._holders:
            self._next()

    async def close(self) -> None:
        self._closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
        for task in list(self._cleaning):
            with suppress(Exception):
                await task
        for link in list(self.links):
            link.close()
        self.links.clear()
        self._idle.clear()


async def roll_back(link: Link) -> None:
    """End the transaction of a connection, whatever it is in the middle of. One that does not take it is given up."""
    if link.dead:
        return
    try:
        if link.owes:
            await link.cancel()
        if not link.idle:
            await link.control("rollback")
    except PostgresError as error:
        link.fail(error.message)


def closed(what: str) -> StoreUnavailable:
    return StoreUnavailable(f"{what} is closed")
