"""Tasks that run until they are told to stop: one that ends before, or hangs, is begun again, and it is said why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any

from evenflow.clock import Clock

log = logging.getLogger("evenflow")

HANGS = 60.0
"""Seconds without a round after which a task is taken to hang: more than any store takes to say that it is locked."""

DEPTH = 40
"""Coroutines of a task that are shown at most."""

Work = Callable[[], Coroutine[Any, Any, None]]


class _Kept:
    __slots__ = ("hangs", "rounds", "seen", "since", "task", "work")

    def __init__(self, work: Work, rounds: Callable[[], int] | None, hangs: float) -> None:
        self.work = work
        self.rounds = rounds
        self.hangs = hangs
        self.seen = -1
        self.since = 0.0
        self.task = asyncio.create_task(work())


class Keeper:
    """Keeps the tasks of one service, by name. `look` is called every so often, by a timer: a task could end, too."""

    def __init__(self, whose: str, clock: Clock) -> None:
        self.revived = 0
        self._whose = whose
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    def begin(self, name: str, work: Work, *, rounds: Callable[[], int] | None = None, hangs: float = HANGS) -> None:
        """Run this from now on. `rounds` tells how often it has gone round, for one that must not take long."""
        self._kept[name] = _Kept(work, rounds, hangs)

    def task(self, name: str) -> asyncio.Task[None] | None:
        """The task at work under this name."""
        kept = self._kept.get(name)
        return kept.task if kept is not None else None

    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """All that are at work."""
        return [kept.task for kept in self._kept.values()]

    def look(self, elapsed: float) -> None:
        """Begin again what has ended, and what hangs. `elapsed`: seconds since the last look."""
        for name, kept in self._kept.items():
            if kept.task.done():
                error = ending(kept.task)
                log.error("%s: its task %r has ended, and is begun again", self._whose, name, exc_info=error)
                self._again(kept)
            elif kept.rounds is not None:
                rounds = kept.rounds()
                kept.since = 0.0 if rounds != kept.seen else kept.since + elapsed
                kept.seen = rounds
                if kept.since >= kept.hangs:
                    log.error(
                        "%s: its task %r has hung for %.0f s, and is begun again\n%s",
                        self._whose, name, kept.since, stacks([kept.task]),
                    )  # fmt: skip
                    self._again(kept)

    def again(self, name: str) -> None:
        """Begin this one again, whatever it does now."""
        self._again(self._kept[name])

    def _again(self, kept: _Kept) -> None:
        self.revived += 1
        kept.task.cancel()
        kept.since = 0.0
        kept.task = asyncio.create_task(kept.work())


def ending(task: asyncio.Task[Any]) -> BaseException:
    """Why a task that was not told to has ended."""
    if task.cancelled():
        return asyncio.CancelledError("somebody has cancelled the task")
    return task.exception() or RuntimeError("it returned")


def stacks(tasks: Iterable[asyncio.Task[Any]]) -> str:
    """Where these tasks wait, for a person to read: each with its coroutines, the innermost last."""
    return "\n".join(line for task in tasks if not task.done() for line in [f"  {task.get_name()}:", *_stack(task)])


def _stack(task: asyncio.Task[Any]) -> Iterator[str]:
    awaited: Any = task.get_coro()
    for _ in range(DEPTH):
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            yield f"    {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
        elif awaited is not None:
            yield f"    waits for {type(awaited).__name__}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
        if awaited is None:
            return
