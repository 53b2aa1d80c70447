"""A socket to PostgreSQL in libpq's pipeline mode: what is sent, what is owed, whose turn it is.

Sent and received are interleaved, so that neither side blocks, and every flush ends in one Sync: the server never
waits in the middle for a client that is frozen. A statement's text is prepared once per connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import pq

from evenflow.drivers.postgres.errors import CACHED_PLAN, NO_STATEMENT, PostgresError, error_of
from evenflow.drivers.postgres.place import PostgresPlace
from evenflow.drivers.postgres.plans import Plan

Statement = tuple[str, tuple[Any, ...]]
_FATAL, _ABORTED = pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED
NAMED = 500
"""Prepared statements that a connection keeps; all others are sent with their text."""


class Pipeline:
    """An open connection. Calls at the same time run in the order of calling.

    since       when the answer that it waits for was asked for (loop time), or 0
    waits_for   who is known to hold the lock that it waits for
    dead        why it can be used no more, or ""
    on_notify   is called with the process id of the sender and the payload, where it listens
    on_death    is called once when the connection is lost
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], place: PostgresPlace) -> None:
        self.place = place
        self.since = 0.0
        self.dead = ""
        self.waits_for = ""
        self.on_notify: Callable[[int, str], None] | None = None
        self.on_death: Callable[[Any], None] | None = None
        self._connection = connection
        self._pg = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._names: dict[Plan, bytes] = {}
        self._once: set[Plan] = set()
        self._count = 0
        self._busy = False
        self._turns: deque[asyncio.Future[None]] = deque()
        self._sent = 0
        self._synced = False
        self._prepared: list[tuple[int, Plan]] = []
        self._results: list[pq.abc.PGresult] = []
        self._answer: asyncio.Future[list[pq.abc.PGresult]] | None = None
        self._room: asyncio.Future[None] | None = None
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._socket = self._pg.socket
        self._loop.add_reader(self._socket, self._readable)

    @property
    def owes(self) -> bool:
        """Whether answers are to come that nobody waits for any more."""
        return self._sent != 0 and not self._busy

    @property
    def in_error(self) -> bool:
        """Whether a statement of the open transaction has failed, so that nothing runs before it is rolled back."""
        return self._pg.transaction_status == pq.TransactionStatus.INERROR

    @property
    def idle(self) -> bool:
        """Whether no answer is owed and no transaction is open."""
        return not self._busy and not self.dead and self._pg.transaction_status == pq.TransactionStatus.IDLE

    @property
    def pid(self) -> int:
        return self._pg.backend_pid

    @property
    def in_transaction(self) -> bool:
        return self._pg.transaction_status in (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)

    async def cancel(self) -> None:
        """Have the server give up the statement that runs, if one does."""
        with suppress(psycopg.Error, OSError):
            await self._connection.cancel_safe(timeout=5.0)

    def fail(self, reason: str) -> None:
        """Give the connection up: whoever waits for an answer is told this."""
        if not self.dead:
            self._broken(reason)

    def close(self) -> None:
        self.on_death = None
        self.fail("the connection was closed")

    # -- sending ----------------------------------------------------------------------------------------------------

    def _post_all(self, texts: Iterable[str]) -> int:
        count = 0
        for text in texts:
            self._post(self.place.control(text), [])
            count += 1
        return count

    def _post(self, plan: Plan, values: Sequence[bytes | None]) -> None:
        name = self._names.get(plan)
        try:
            if name is None:
                name = self._named(plan)
            if name:
                self._pg.send_query_prepared(name, values, plan.formats, plan.result_format)
            else:
                self._pg.send_query_params(plan.sql, values, plan.oids, plan.formats, plan.result_format)
        except psycopg.Error as error:
            raise self._broken(str(error)) from error
        self._sent += 1

    def _named(self, plan: Plan) -> bytes:
        """The name under which it is prepared: at its second use, where the way to the server keeps such names."""
        self._alive()
        if not self.place.prepare:
            return b""
        if plan not in self._once:
            if len(self._once) >= 4 * NAMED:
                self._once.clear()
            self._once.add(plan)
            return b""
        if len(self._names) >= NAMED:
            return b""
        self._count += 1
        name = b"evenflow_%d" % self._count
        self._pg.send_prepare(name, plan.sql, plan.oids)
        self._prepared.append((self._sent, plan))
        self._sent += 1
        self._names[plan] = name
        return name

    async def _drain(self) -> None:
        """Wait until the socket has taken what was sent, while answers come in."""
        room = self._room = self._loop.create_future()
        self._loop.add_writer(self._socket, self._writable)
        await room
        self._alive()

    # -- answers ----------------------------------------------------------------------------------------------------

    async def _sync(self) -> list[pq.abc.PGresult]:
        """End the flush; the results of all that was sent, without those of preparing."""
        self._end_flush()
        try:
            results = await self._collected()
        except BaseException:
            self._prepared_lost()
            raise
        prepared, self._prepared = self._prepared, []
        for place, plan in reversed(prepared):
            status = results[place].status
            if status in (_FATAL, _ABORTED):
                del self._names[plan]
            if status == _FATAL:
                results[place + 1] = results[place]
            del results[place]
        return results

    def _end_flush(self) -> None:
        self._alive()
        try:
            self._pg.pipeline_sync()
        except psycopg.Error as error:  # the library knows already that the connection is lost
            raise self._broken(str(error)) from error
        self._synced = True
        self._push()

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Of what is sent seldom: the library's error is that the connection is lost."""
        try:
            yield
        except psycopg.Error as error:
            raise self._broken(str(error)) from error

    def _push(self) -> None:
        """Let the socket take what is to be sent, now or as soon as it can."""
        try:
            if self._pg.flush():
                self._loop.add_writer(self._socket, self._writable)
        except psycopg.Error as error:
            raise self._broken(str(error)) from error

    async def _collected(self) -> list[pq.abc.PGresult]:
        self._answer = self._loop.create_future()
        self.since = self._loop.time()
        return await self._answer

    def _writable(self) -> None:
        try:
            left = self._pg.flush()
        except psycopg.Error as error:
            self._broken(str(error))
            return
        if not left:
            self._loop.remove_writer(self._socket)
            if self._room is not None and not self._room.done():
                self._room.set_result(None)

    def _readable(self) -> None:
        pg = self._pg
        try:
            pg.consume_input()
            self._harvest()
            if self.on_notify is not None:
                while note := pg.notifies():
                    self.on_notify(note.be_pid, note.extra.decode("utf-8", "replace"))
        except psycopg.Error as error:
            self._broken(str(error))

    def _harvest(self) -> None:
        """Take the answers that are there; when all are, whoever waits has them."""
        pg, results, script = self._pg, self._results, self._sent < 0
        expected = self._sent + self._synced
        empty = 0
        while (script or len(results) < expected) and not pg.is_busy():
            result = pg.get_result()
            if result is not None:
                results.append(result)
                empty = 0
            elif script or empty:
                break
            else:
                empty = 1  # the end of one statement's answer
        else:
            if script or not self._synced or len(results) < expected:
                return
        if empty:
            if pg.status != pq.ConnStatus.OK:
                self._broken("the connection was lost")
            return
        if script:
            pg.enter_pipeline_mode()
        else:
            results.pop()
        self._results, self._sent, self._synced, self.since = [], 0, False, 0.0
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(results)

    def _broken(self, reason: str) -> PostgresError:
        """The connection is lost: nothing is owed any more, and nothing can be sent."""
        told = next((result for result in self._results if result.status == _FATAL), None)
        error = error_of(told) if told is not None else PostgresError(reason.strip().splitlines()[0])
        error.lost = True
        error.index = -1
        if self.dead:
            return error
        self.dead, self.since = error.message, 0.0
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._pg.finish()
        for waiting in (self._answer, self._room):
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
        if self.on_death is not None:
            self.on_death(self)
        return error

    def _alive(self) -> None:
        if self.dead:
            raise PostgresError(self.dead)

    # -- whose turn it is, and whose fault --------------------------------------------------------------------------

    async def _take(self) -> None:
        while self._busy:
            turn = self._loop.create_future()
            self._turns.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()
                raise
        self._busy = True
        if self._sent and not self.dead:  # somebody was cancelled, whose answers are still owed
            await self._settled()

    async def _settled(self) -> None:
        try:
            if self._sent > 0 and not self._synced:
                self._end_flush()
            await self._collected()
            self._prepared_lost()
        except BaseException:
            self._give()
            raise

    def _prepared_lost(self) -> None:
        """Nobody has looked at whether these were prepared."""
        for _, plan in self._prepared:
            self._names.pop(plan, None)
        self._prepared.clear()

    def _give(self) -> None:
        self._busy = False
        self._next()

    def _next(self) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _raise_first(
        self, results: Sequence[pq.abc.PGresult], ours: int, statements: Sequence[Statement], start: int = 0
    ) -> None:
        """Raise the error of the first statement that failed, if one has."""
        for place, result in enumerate(results):
            if result.status == _FATAL:
                index = start + place - ours
                if place < ours or index >= len(statements):
                    raise error_of(result)
                error = error_of(result, index)
                sql, args = statements[index]
                if error.sqlstate == NO_STATEMENT or (error.sqlstate == CACHED_PLAN and "cached" in error.message):
                    self._names.clear()
                    self.place.plans.forget(sql)
                elif error.sqlstate[:2] == "42":  # the tables may have changed
                    self.place.plans.forget(sql)
                raise self._blamed(error, sql, args, index)

    def _blamed(self, error: PostgresError, sql: str, args: tuple[Any, ...], index: int) -> PostgresError:
        error.sql, error.args_, error.index = sql, args, index
        return error
