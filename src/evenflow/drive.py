"""Driving a handler's coroutine by hand: so that the runner sees what it waits for, and can end what does not end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from evenflow.clock import Clock
from evenflow.errors import StoreUnavailable
from evenflow.unit_of_work import UnitOfWork


class HandlerTimeout(Exception):
    """The handler waited longer than its policy allows."""


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
        try:
            self._coroutine.throw(error)
            self._coroutine.close()
        except (StopIteration, RuntimeError, asyncio.CancelledError):
            return
        except Exception:
            return
