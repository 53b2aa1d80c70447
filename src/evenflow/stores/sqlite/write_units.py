"""Short units of work that are asked for at the same moment: one commit for all, a savepoint for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from contextvars import Context
from typing import Any

from evenflow.drivers.sqlite.pace import to_the_end
from evenflow.errors import EvenflowError, StatementFailed, StoreUnavailable
from evenflow.stores.sqlite.session import UnitSession
from evenflow.stores.sqlite.write_turns import WriteTurns, roll_back
from evenflow.stores.unit import GROUP_SECONDS, GROUP_UNITS, Last, Unit, Work, of_group, run_last


class _Group:
    """Units that nobody else has asked to write between, and their turn."""

    __slots__ = ("turn", "units")

    def __init__(self, turn: asyncio.Future[None]) -> None:
        self.turn = turn
        self.units: deque[Unit] = deque()


class WriteUnits:
    """Units in the order of asking. Those of a group share transactions, as many as there are when its turn comes."""

    def __init__(self, turns: WriteTurns, begin: Callable[[], Awaitable[None]], monotonic: Callable[[], float]) -> None:
        self._turns = turns
        self._link = turns.link
        self._begin = begin
        self._monotonic = monotonic
        self._loop = asyncio.get_running_loop()
        self._groups: deque[_Group] = deque()
        self._task: asyncio.Task[None] | None = None

    def run(self, work: Work, last: Last | None) -> asyncio.Future[Any]:
        """The result of the work, when it is durable. One that is cancelled before its turn is not run."""
        turns, groups = self._turns, self._groups
        turns.refuse_own()
        if not groups or turns.last is not groups[-1].turn:  # somebody else has asked since
            groups.append(_Group(turns.ask()))
        done = self._loop.create_future()
        groups[-1].units.append(Unit(work, last, done))
        if self._task is None:
            self._task = self._loop.create_task(self._serve(), context=Context())
            self._task.add_done_callback(self._over)
        return done

    def _over(self, task: asyncio.Task[None]) -> None:
        if self._task is task:  # cancelled before its first step
            self._task = None
            self._give_up()

    async def close(self) -> None:
        """Commit what is asked for, as far as nobody else has the turn."""
        if self._task is not None:
            await to_the_end(self._task)

    async def _serve(self) -> None:
        groups = self._groups
        try:
            while groups:
                group = groups[0]
                try:
                    await group.turn
                except StoreUnavailable as error:
                    groups.popleft()
                    self._fail(group.units, error)
                    continue
                self._turns.holder = asyncio.current_task()
                while group.units:
                    await self._transaction(group.units)
                groups.popleft()
                self._turns.give()
        except BaseException:  # this task was cancelled, not those that wait
            self._give_up()
            raise
        finally:
            self._task = None

    def _give_up(self) -> None:
        """Cancel all that wait; a turn that has come is for others."""
        groups = list(self._groups)
        self._groups.clear()
        for group in groups:
            _cancel(group.units)
            turn = group.turn
            if not (turn.cancel() or turn.cancelled() or turn.exception()):
                self._turns.give()

    async def _transaction(self, queue: deque[Unit]) -> None:
        """Run units and commit them."""
        shared: list[Unit] = []
        try:
            await self._begin()
        except EvenflowError as error:
            self._fail(queue, error)
            queue.clear()
            return
        try:
            await self._fill(shared, queue)
            if shared:
                await run_last(shared, lambda: UnitSession(self._link))
                await self._turns.commit()
        except StatementFailed as error:
            if len(shared) == 1:
                shared[0].fail(error)  # a deferred constraint: its own fault
            self._fail(shared, error)
        except Exception as error:
            self._fail(shared, error)
        except BaseException:
            _cancel(shared)
            raise
        else:
            for unit in shared:
                if not unit.done.done():
                    unit.done.set_result(unit.result)
        finally:
            roll_back(self._link)

    async def _fill(self, shared: list[Unit], queue: deque[Unit]) -> None:
        """Run units as long as there are any, and the first of them has not waited for too long."""
        until = self._monotonic() + GROUP_SECONDS
        while queue and len(shared) < GROUP_UNITS:
            unit = queue.popleft()
            if unit.done.done():
                continue
            error = await self._unit(unit, first=not shared)
            if error is None:
                shared.append(unit)
            else:
                unit.fail(error)
            if not self._link.in_transaction:  # lost with this unit
                self._fail(shared, error)
                shared.clear()
                return
            if self._monotonic() >= until or not self._link.shares:
                return

    async def _unit(self, unit: Unit, *, first: bool) -> Exception | None:
        """Run one. An error of its own undoes it alone."""
        session = UnitSession(self._link)
        try:
            if not first:
                self._control("savepoint evenflow_unit")
            unit.result = await unit.work(session)
            session.finish()
            if not first:
                self._control("release evenflow_unit")
        except Exception as error:
            self._undo(first=first)
            return error
        except BaseException:
            unit.done.cancel()
            raise
        finally:
            session.close()
        return None

    def _undo(self, *, first: bool) -> None:
        """Undo the present unit alone; where that cannot be done, the transaction is rolled back."""
        if not first and self._link.in_transaction:
            with suppress(EvenflowError):
                self._control("rollback to evenflow_unit")
                self._control("release evenflow_unit")
                return
        roll_back(self._link)

    def _control(self, sql: str) -> None:
        try:
            self._link.control(sql)
        except Exception as error:
            raise self._link.failure(error, sql) from error

    def _fail(self, units: Iterable[Unit], error: BaseException | None) -> None:
        for unit in units:
            unit.fail(of_group(error))


def _cancel(units: Iterable[Unit]) -> None:
    for unit in units:
        unit.done.cancel()
