"""What stores share of short units of work that are asked for at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from evenflow.errors import StoreUnavailable
from evenflow.store import Session

GROUP_UNITS = 500
GROUP_SECONDS = 0.005
"""How long the first unit of a transaction may wait for its commit while others still run."""

Work = Callable[[Session], Awaitable[Any]]
Last = Callable[[Session, list[Any]], Awaitable[None]]


class Unit:
    """A unit that was asked for; `done` is its answer, `result` what its work has returned."""

    __slots__ = ("done", "last", "result", "work")

    def __init__(self, work: Work, last: Last | None, done: asyncio.Future[Any]) -> None:
        self.work = work
        self.last = last
        self.done = done
        self.result: Any = None

    def fail(self, error: BaseException) -> None:
        """Answer with an error, unless it has an answer."""
        if not self.done.done():
            self.done.set_exception(error)


class UnitOwnSession(Session, Protocol):
    """The session of one unit: `finish` keeps what it did, after `close` it may not be used any more."""

    def finish(self) -> None: ...

    def close(self) -> None: ...


async def run_last(units: Iterable[Unit], session: Callable[[], UnitOwnSession]) -> None:
    """What units of one transaction do together: its last statements."""
    together: dict[Last, list[Any]] = {}
    for unit in units:
        if unit.last is not None:
            together.setdefault(unit.last, []).append(unit.result)
    for last, results in together.items():
        shared = session()
        try:
            await last(shared, results)
            shared.finish()
        finally:
            shared.close()


def of_group(cause: BaseException | None) -> StoreUnavailable:
    """What each unit of a lost group is told: its own instance, and never a neighbour's fault as its own."""
    if isinstance(cause, StoreUnavailable):
        failure = type(cause)(cause.message, remedy=cause.remedy)
    else:
        failure = StoreUnavailable(
            "the transaction was lost with a unit that shared its commit; nothing was written", remedy="try again"
        )
    failure.__cause__ = cause
    return failure
