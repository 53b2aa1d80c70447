"""Driving a handler's coroutine by hand: so that the runner sees what it waits for, and can end what does not end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

from evenflow.clock import Clock, Timer
from evenflow.errors import StoreUnavailable
from evenflow.unit_of_work import Transaction, UnitOfWork


class HandlerTimeout(Exception):
    """The handler waited longer than its policy allows."""


class Repeat(Exception):
    """The first pass over a chunk cannot be kept; go through it carefully."""


class Drive:
    """Awaits the rest of a coroutine that has yielded once.

    `foreign` tells whether it waited for anything but its own transaction.
    """

    __slots__ = ("_coroutine", "_expired", "_unit", "_yielded", "foreign")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], yielded: Any, unit: UnitOfWork | None) -> None:
        self._coroutine = coroutine
        self._yielded = yielded
        self._unit = unit
        self._expired = False
        self.foreign = False

    async def within(self, clock: Clock, seconds: float) -> Any:
        """The coroutine's result; raises `HandlerTimeout` after so long, whatever the coroutine does about it."""
        task = asyncio.current_task()
        assert task is not None

        def expire() -> None:
            self._expired = True
            task.cancel()

        timer = clock.call_later(seconds, expire)
        try:
            return await self
        except asyncio.CancelledError:
            if not self._expired or task.uncancel() > 0:
                raise
            if self._unit is not None and self._unit.waiting == "store":
                raise StoreUnavailable(f"the store did not answer within {seconds:g} s") from None
            raise HandlerTimeout(f"it did not return within {seconds:g} s") from None
        finally:
            timer.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, yielded = self._coroutine, self._yielded
        try:
            while True:
                if not self.foreign and (self._unit is None or not self._unit.waiting):
                    self.foreign = True
                try:
                    value = yield yielded
                except asyncio.CancelledError as error:
                    if self._expired:
                        self._abandon(error)
                        raise
                    yielded = coroutine.throw(error)
                except BaseException as error:
                    yielded = coroutine.throw(error)
                else:
                    yielded = coroutine.send(value)
        except StopIteration as stop:
            return stop.value

    def _abandon(self, error: BaseException) -> None:
        """Tell the coroutine once that its time is over; it is dropped even if it goes on."""
        with suppress(Exception, asyncio.CancelledError):
            self._coroutine.throw(error)
            self._coroutine.close()


class PassDrive:
    """Awaits the rest of a pass over many events, whose handlers are awaited inside of it.

    While the unit has a current transaction, what is yielded is its handler's: `foreign` is called when that waits
    for anything but its transaction. A handler that waits for more than `seconds` in all is cancelled, and its
    transaction stands in `unit.expired`; where it does not end even so, the pass is dropped with `Repeat`. Handlers
    that have a `Drive` of their own (`unit.driven`) are left to it.
    """

    __slots__ = ("_clock", "_coroutine", "_due", "_foreign", "_seconds", "_timer", "_unit", "_yielded")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        yielded: Any,
        unit: UnitOfWork,
        clock: Clock,
        seconds: float,
        foreign: Callable[[], None],
    ) -> None:
        self._coroutine = coroutine
        self._yielded = yielded
        self._unit = unit
        self._clock = clock
        self._seconds = seconds
        self._foreign = foreign
        self._timer: Timer | None = None
        self._due: Transaction | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, yielded, unit = self._coroutine, self._yielded, self._unit
        task = asyncio.current_task()
        assert task is not None
        timed: Transaction | None = None
        try:
            while True:
                if unit.current is not None and not unit.driven:
                    if not unit.waiting:
                        self._foreign()
                    if unit.current is not timed:
                        timed = unit.current
                        self._time(timed, task)
                try:
                    value = yield yielded
                except asyncio.CancelledError as error:
                    due, self._due = self._due, None
                    yielded = coroutine.throw(error) if due is None else self._expire(due, task, error)
                except BaseException as error:
                    yielded = coroutine.throw(error)
                else:
                    yielded = coroutine.send(value)
        except StopIteration as stop:
            return stop.value
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _time(self, tx: Transaction, task: asyncio.Task[Any]) -> None:
        def over() -> None:
            if self._unit.current is tx:
                self._due = tx
                task.cancel()

        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_later(self._seconds, over)

    def _expire(self, tx: Transaction, task: asyncio.Task[Any], error: asyncio.CancelledError) -> Any:
        """Cancel the handler whose time is over; what the pass yields next, when it goes on with another event."""
        if task.uncancel() == 0:  # otherwise somebody else has cancelled the task too
            if self._unit.waiting == "store":
                _close(self._coroutine)
                raise StoreUnavailable(f"the store did not answer within {self._seconds:g} s") from None
            self._unit.expired = tx
        yielded = self._coroutine.throw(error)
        if self._unit.current is tx:
            _close(self._coroutine)
            raise error if task.cancelling() else Repeat
        return yielded


def _close(coroutine: Coroutine[Any, Any, Any]) -> None:
    with suppress(Exception):
        coroutine.close()
