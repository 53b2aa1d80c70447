"""Short units of work that are asked for at the same moment: one commit for all, a savepoint for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from typing import Any

from evenflow.drivers.postgres.link import Link
from evenflow.errors import EvenflowError, StatementFailed, StoreConflict, StoreUnavailable
from evenflow.stores.postgres.pool import Pool, closed
from evenflow.stores.postgres.session import PgTransaction, UnitSession
from evenflow.stores.unit import GROUP_SECONDS, GROUP_UNITS, Last, Unit, Work, of_group, run_last

GROUP_SAVEPOINTS = 60
"""Above that PostgreSQL keeps no list of a transaction's parts in memory, and others' reads slow down."""
TRIES = 5
"""How often a unit is run that the database undoes for another's sake."""
STUCK = 0.25
"""Seconds after which a transaction of units is taken to wait for a lock, so that others go on beside it."""


class Units:
    """Units in the order of asking, on one connection, since units that share a commit hold the locks of all.

    Two transactions of many units each would lock one another out (measured: 50 lanes that settle, 1,091 units/s on
    one connection, 148 on two). Only beside one that is stuck there is another, on at most `writers` connections.
    """

    def __init__(self, pool: Pool, writers: int, opening: Sequence[str], what: str, notify: Callable[[], None]) -> None:
        self._pool = pool
        self._writers = writers
        self._opening = opening
        self._what = what
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Unit] = deque()
        self._tasks: list[asyncio.Task[Any]] = []
        self._stuck: set[asyncio.Task[Any]] = set()
        self._closed = False

    def run(self, work: Work, last: Last | None) -> asyncio.Future[Any]:
        """The result of the work, when it is durable. One that is cancelled before its turn is not run."""
        self._pool.refuse_own()
        if self._closed:
            raise closed(self._what)
        done = self._loop.create_future()
        self._queue.append(Unit(work, last, done))
        self._start()
        return done

    def _start(self) -> None:
        """Have one more at work, unless one is that is not stuck."""
        if self._queue and len(self._stuck) == len(self._tasks) < self._writers:
            task = self._loop.create_task(self._serve(), context=Context())
            self._tasks.append(task)
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        if task in self._tasks:  # cancelled before its first step
            self._tasks.remove(task)
        if task.cancelled():
            self._give_up()

    def _give_up(self) -> None:
        while self._queue:
            self._queue.popleft().done.cancel()

    async def close(self) -> None:
        """Commit what is asked for, as far as there are connections."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=10.0)

    def refuse(self) -> None:
        """Nobody who waits is served any more."""
        while self._queue:
            self._queue.popleft().fail(closed(self._what))

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._queue and task not in self._stuck:
                try:
                    link = await self._pool.take()
                except EvenflowError as error:
                    while self._queue:
                        self._queue.popleft().fail(_own(error))
                    break
                await self._work(link, task)
        finally:
            self._tasks.remove(task)
            self._stuck.discard(task)
        self._start()

    async def _work(self, link: Link, task: asyncio.Task[Any]) -> None:
        """Run what is asked for on this connection, until nothing is, or another goes on beside it."""
        try:
            while self._queue and link.idle and task not in self._stuck:
                stuck = self._loop.call_later(STUCK, self._overtake, task)
                try:
                    await self._served(link)
                finally:
                    stuck.cancel()
        finally:
            if link.idle or link.dead:
                self._pool.give(link)
            else:
                self._pool.clean_later(link)

    def _overtake(self, task: asyncio.Task[Any]) -> None:
        self._stuck.add(task)
        self._start()

    async def _served(self, link: Link) -> None:
        """One transaction, and those of its units that have to be run again by themselves."""
        again = await self._transaction(link, self._queue, GROUP_UNITS)
        for unit in again:
            for tries in range(TRIES):
                if unit.done.done():
                    break
                await asyncio.sleep(0.001 * tries)
                if not await self._transaction(link, deque([unit]), 1, final=tries == TRIES - 1):
                    break

    async def _transaction(self, link: Link, queue: deque[Unit], limit: int, *, final: bool = False) -> list[Unit]:
        """Run units and commit them; those that are to be run again, each alone."""
        tx = PgTransaction(link, self._opening, self._what)
        shared: list[Unit] = []
        again: list[Unit] = []
        try:
            await self._fill(tx, shared, again, queue, limit)
            if shared:
                await run_last(shared, lambda: UnitSession(tx))
                written = tx.touched
                await tx.commit()  # unless the only one has done that with its last statements
                if written:
                    self._notify()
        except (StoreConflict, StatementFailed) as error:
            if final or (len(shared) == 1 and isinstance(error, StatementFailed)):
                _fail(shared, error)
            else:  # whose fault it is, shows one by one
                again[:0] = shared
        except Exception as error:
            _fail(shared, error)
        except BaseException:
            for unit in (*shared, *again):
                unit.done.cancel()
            raise
        else:
            for unit in shared:
                if not unit.done.done():
                    unit.done.set_result(unit.result)
        if not link.idle:
            await tx.rollback()
        if final:
            _fail(again, StoreConflict(f"{self._what} has undone a transaction {TRIES} times for the sake of others"))
            return []
        return again

    async def _fill(
        self, tx: PgTransaction, shared: list[Unit], again: list[Unit], queue: deque[Unit], limit: int
    ) -> None:
        """Run units as long as there are any, and the first of them has not waited for too long."""
        until = self._loop.time() + GROUP_SECONDS
        savepoints = 0
        while queue and len(shared) < limit:
            unit = queue.popleft()
            if unit.done.done():
                continue
            first = not tx.touched
            alone = first and not shared and unit.last is None
            error = await self._unit(tx, unit, (lambda: not queue) if alone else None, first=first)
            savepoints += tx.touched and not first
            if error is None:
                shared.append(unit)
            elif isinstance(error, StoreConflict):
                again.append(unit)
            else:
                unit.fail(error)
            if tx.link.dead:
                _fail(shared, error or StoreUnavailable(tx.link.dead))
                shared.clear()
                return
            if tx.committed or self._loop.time() >= until or savepoints >= GROUP_SAVEPOINTS:
                return

    async def _unit(
        self, tx: PgTransaction, unit: Unit, may_end: Callable[[], bool] | None, *, first: bool
    ) -> Exception | None:
        """Run one. An error of its own undoes it alone. `may_end`: it may commit with its last statements."""
        session = UnitSession(tx, may_end=may_end)
        try:
            if not first:
                tx.savepoint("evenflow_unit")
            unit.result = await unit.work(session)
            session.finish()
            if not first:
                tx.release("evenflow_unit")
        except Exception as error:
            if first:
                await tx.rollback()
            else:
                tx.rollback_to("evenflow_unit")
            return error
        except BaseException:
            unit.done.cancel()
            raise
        finally:
            session.close()
        return None


def _fail(units: Iterable[Unit], error: BaseException) -> None:
    for unit in units:
        unit.fail(_own(error))


def _own(cause: BaseException) -> BaseException:
    """Each unit's own instance of an error that all of them have."""
    return cause if isinstance(cause, EvenflowError) and not isinstance(cause, StoreUnavailable) else of_group(cause)
