"""Driving a coroutine by hand: so that the runner sees what a handler waits for, and can end what does not end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

from evenflow.clock import Clock, Timer
from evenflow.errors import StoreUnavailable
from evenflow.policy import HandlerTimeout
from evenflow.unit_of_work import Transaction, UnitOfWork


def ends_us(error: BaseException) -> bool:
    """Whether an error is meant for us, not raised by the handler for its event."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt) and _from_the_keyboard()


def _from_the_keyboard() -> bool:
    """Whether Ctrl-C raises it here. Where a signal handler takes Ctrl-C, as under `evenflow run`, the handler did."""
    handler = signal.getsignal(signal.SIGINT)
    function = getattr(handler, "func", handler)
    return handler is signal.default_int_handler or getattr(function, "__module__", "") == "asyncio.runners"


class Repeat(Exception):
    """The first pass over a chunk cannot be kept; go through it carefully."""


class Drive:
    """Awaits the rest of a coroutine that has yielded once."""

    __slots__ = ("_coroutine", "_yielded")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], yielded: Any) -> None:
        self._coroutine = coroutine
        self._yielded = yielded

    def begin(self) -> None:
        """Called before the first wait."""

    def waits(self) -> None:
        """Called before each wait."""

    def cancelled(self, error: asyncio.CancelledError) -> Any:
        """Called when a wait is cancelled; what the coroutine yields next."""
        return self._coroutine.throw(error)

    def end(self) -> None:
        """Called after the last wait."""

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, yielded = self._coroutine, self._yielded
        self.begin()
        try:
            while True:
                self.waits()
                try:
                    value = yield yielded
                except asyncio.CancelledError as error:
                    yielded = self.cancelled(error)
                except BaseException as error:
                    yielded = coroutine.throw(error)
                else:
                    yielded = coroutine.send(value)
        except StopIteration as stop:
            return stop.value
        finally:
            self.end()


class CallDrive(Drive):
    """The rest of one call of a handler: its result, or `HandlerTimeout` in time, whatever the coroutine does about it.

    `foreign` tells whether it waited for anything but its own transaction.
    """

    __slots__ = ("_clock", "_expired", "_seconds", "_task", "_timer", "_unit", "foreign")

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], yielded: Any, unit: UnitOfWork, clock: Clock, seconds: float
    ) -> None:
        super().__init__(coroutine, yielded)
        self._unit = unit
        self._clock = clock
        self._seconds = seconds
        self._task = asyncio.current_task()
        self._timer: Timer | None = None
        self._expired = False
        self.foreign = False

    def begin(self) -> None:
        self._timer = self._clock.call_later(self._seconds, self._expire)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def waits(self) -> None:
        if not self._unit.waiting:
            self.foreign = True

    def _expire(self) -> None:
        assert self._task is not None
        self._expired = True
        self._task.cancel()

    def cancelled(self, error: asyncio.CancelledError) -> Any:
        """Once its time is over the coroutine is told so, once; it is dropped even if it goes on."""
        if not self._expired:
            return self._coroutine.throw(error)
        waited_for = self._unit.waiting
        with suppress(Exception, asyncio.CancelledError):
            self._coroutine.throw(error)
            self._coroutine.close()
        if self._task is None or self._task.uncancel() > 0:  # somebody else has cancelled the task too
            raise error
        if waited_for == "store":
            raise _no_answer(self._seconds) from None
        raise HandlerTimeout(self._seconds) from None


class PassDrive(Drive):
    """The rest of a pass over many events, whose handlers are awaited inside of it.

    While the unit has a current transaction, what is yielded is its handler's: `foreign` is called when that waits
    for anything but its transaction. A handler that waits for more than `seconds` in all is cancelled, and its
    transaction stands in `unit.expired`; where it does not end even so, the pass is dropped with `Repeat`. Handlers
    that have a `CallDrive` of their own (`unit.driven`) are left to it.
    """

    __slots__ = ("_clock", "_due", "_foreign", "_seconds", "_task", "_timed", "_timer", "_unit")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        yielded: Any,
        unit: UnitOfWork,
        clock: Clock,
        seconds: float,
        foreign: Callable[[], None],
    ) -> None:
        super().__init__(coroutine, yielded)
        self._unit = unit
        self._clock = clock
        self._seconds = seconds
        self._foreign = foreign
        self._task = asyncio.current_task()
        self._timer: Timer | None = None
        self._timed: Transaction | None = None
        self._due: Transaction | None = None

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def waits(self) -> None:
        unit = self._unit
        if unit.current is None or unit.driven:
            return
        if not unit.waiting:
            self._foreign()
        if unit.current is not self._timed:
            self._timed = unit.current
            self._time(unit.current)

    def _time(self, tx: Transaction) -> None:
        def over() -> None:
            if self._unit.current is tx and self._task is not None:
                self._due = tx
                self._task.cancel()

        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_later(self._seconds, over)

    def cancelled(self, error: asyncio.CancelledError) -> Any:
        """Cancel the handler whose time is over; the pass may go on with another event."""
        tx, self._due = self._due, None
        if tx is None:
            return self._coroutine.throw(error)
        task = self._task
        assert task is not None
        if task.uncancel() == 0:  # otherwise somebody else has cancelled the task too
            if self._unit.waiting == "store":
                _close(self._coroutine)
                raise _no_answer(self._seconds) from None
            self._unit.expired = tx
        try:
            yielded = self._coroutine.throw(error)
        except StopIteration:
            if self._unit.expired is tx:
                raise Repeat from None  # it has swallowed it, and returned
            raise
        if self._unit.current is tx or self._unit.expired is tx:
            _close(self._coroutine)
            raise error if task.cancelling() else Repeat
        return yielded


def _no_answer(seconds: float) -> StoreUnavailable:
    return StoreUnavailable(f"the store did not answer within {seconds:g} s")


def _close(coroutine: Coroutine[Any, Any, Any]) -> None:
    with suppress(Exception):
        coroutine.close()
