"""Group commit: everything that is to be written at the same moment shares one transaction and one fsync."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import apsw

from evenflow.drivers.sqlite.file import (
    CommitPace,
    Diagnosis,
    SameFile,
    Trouble,
    diagnose,
    error_code,
    patiently,
    replaced_words,
    to_the_end,
    trouble_of,
)

T = TypeVar("T")

WEIGHT = 20_000
"""Events in one transaction, about: the memory that it takes, and how long the first of them waits for the last."""


class NotWritten(Exception):
    """The transaction was surely rolled back."""

    def __init__(self, found: Diagnosis) -> None:
        super().__init__(found.message)
        self.found = found


class MaybeWritten(NotWritten):
    """COMMIT failed in a way that leaves open whether it took place."""


class _Job(NamedTuple):
    work: Callable[[], Any]
    weight: int
    answer: asyncio.Future[Any]


class GroupCommit:
    """Runs pieces of work on the writing connection, as many as there are in one transaction.

    `begun` is called when the write lock is held, `finish` before the commit, `ended(stored)` after it or after the
    rollback. While one transaction is under way the next ones collect.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        file: tuple[str, str, SameFile],
        hooks: tuple[Callable[[], None], Callable[[], None], Callable[[bool], None]],
        *,
        limit: float,
    ) -> None:
        self._connection = connection
        self._path, self._what, self._same = file
        self._begun, self._finish, self._ended = hooks
        self._limit = limit
        self._pace = CommitPace()
        self._queue: list[_Job] = []
        self._task: asyncio.Task[None] | None = None
        self.committing = False

    async def run(self, work: Callable[[], T], *, weight: int = 1) -> T:
        """The answer of the work, when it is durable. Raises `NotWritten`, `MaybeWritten`, or the work's own error."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._queue.append(_Job(work, weight, answer))
        if self._task is None:
            self._task = loop.create_task(self._drain())
            self._task.add_done_callback(self._over)
        return await answer

    def _over(self, task: asyncio.Task[None]) -> None:
        if self._task is task:  # cancelled before its first step
            self._task = None
            self._cancel([])

    async def close(self) -> None:
        """Write what is waiting, then end."""
        if self._task is not None:
            await to_the_end(self._task)
        self._pace.close()

    async def _drain(self) -> None:
        jobs: list[_Job] = []
        try:
            while self._queue:
                jobs = self._next()
                await self._transaction(jobs)
        except BaseException:  # this task was cancelled, not those that wait; it may have committed
            self._roll_back()
            self._cancel(jobs)
            raise
        finally:
            self._task = None

    def _cancel(self, jobs: list[_Job]) -> None:
        """Cancel these, and all that wait."""
        for job in (*jobs, *self._queue):
            job.answer.cancel()
        self._queue.clear()

    def _next(self) -> list[_Job]:
        jobs, weight, count = [], 0, 0
        for job in self._queue:
            if weight >= WEIGHT:
                break
            count += 1
            weight += job.weight
            if not job.answer.done():  # else its caller was cancelled
                jobs.append(job)
        del self._queue[:count]
        return jobs

    async def _transaction(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        try:
            await self._begin()
            answers = self._work(jobs)
        except Exception as error:
            await self._failed(jobs, error)
            return
        try:
            self.committing = True
            await self._pace.run(self._commit)
        except Exception as error:
            self._give_up(jobs, self._after_commit(error))
        else:
            self._ended(True)
            for job, answer in zip(jobs, answers, strict=True):
                if not job.answer.done():
                    job.answer.set_result(answer)
        finally:
            self.committing = False

    async def _begin(self) -> None:
        await patiently(lambda: self._connection.execute("begin immediate"), limit=self._limit)

    def _work(self, jobs: list[_Job]) -> list[Any]:
        self._begun()
        answers = [job.work() for job in jobs]
        self._finish()
        self._check_file()  # until here nothing was written but in memory
        return answers

    def _commit(self) -> None:
        self._connection.execute("commit")

    def _check_file(self) -> None:
        if self._same.moved():
            message, remedy = replaced_words()
            raise NotWritten(Diagnosis(Trouble.REPLACED, f"{self._what} at {self._path} {message}", remedy))

    async def _failed(self, jobs: list[_Job], error: Exception) -> None:
        """Nothing was committed. If it may be one piece's own fault, the others are tried without it."""
        if isinstance(error, NotWritten):
            self._give_up(jobs, error)
            return
        found = diagnose(error, self._path, self._what)
        if found.trouble is not Trouble.STATEMENT:
            self._give_up(jobs, NotWritten(found))
        elif len(jobs) == 1:
            self._give_up(jobs, error)
        else:
            self._roll_back()
            for job in jobs:
                await self._transaction([job])

    def _after_commit(self, error: Exception) -> NotWritten:
        found = diagnose(error, self._path, self._what)
        sure = trouble_of(error_code(error)) in (Trouble.LOCKED, Trouble.FULL, Trouble.READ_ONLY)
        return NotWritten(found) if sure else MaybeWritten(found)

    def _give_up(self, jobs: list[_Job], error: Exception) -> None:
        self._roll_back()
        for job in jobs:
            if not job.answer.done():
                job.answer.set_exception(error)

    def _roll_back(self) -> None:
        with suppress(apsw.Error):
            if self._connection.in_transaction:
                self._connection.execute("rollback")
        self._ended(False)
