"""What stores share of short units of work that are asked for at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

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
