"""The connection beside the transactions: heartbeats, who has died, and what others have committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from evenflow.clock import Signal
from evenflow.drivers.postgres.errors import PostgresError
from evenflow.drivers.postgres.link import Link
from evenflow.errors import StoreUnavailable
from evenflow.store import Process, Row, Statement
from evenflow.stores.postgres.pool import Connecting, closed, roll_back
from evenflow.stores.postgres.schema import quoted
from evenflow.stores.postgres.session import BEGIN, translate

PATIENCE = 5.0
"""Seconds that the server may take for what it does at once."""
NOTIFY_PAUSE = 0.01
"""Seconds between two notices to others, which tell of all commits in between."""
LOOK = 0.1
"""Seconds between two looks at what nobody has notified us of: what users' own transactions have published."""
LOOK_QUIET = 0.55
"""The same when there has been nothing for `QUIET` seconds: a little more than a tick takes, which looks as well."""
QUIET = 5.0
LOOK_POOLED = 0.05
"""The same where a pooler stands before the server, through which nobody can be notified."""

_LAZY = (BEGIN, "set local synchronous_commit = off")


class Control:
    """One connection, made anew when it is lost. Nothing on it takes long, and nothing waits for a lock."""

    def __init__(self, connecting: Connecting, schema: str, *, pooled: bool) -> None:
        self.pooled = pooled
        self.changed = Changed(self._begin_looking)
        self._connecting = connecting
        self._schema = quoted(schema)
        self._all = f"select id, pid, boot, started, groups, beat from {self._schema}.evenflow_process order by id"
        self._newest = (
            f"select (select coalesce(max(number), 0) from {self._schema}.evenflow_change), "
            f"(select max(id) from {self._schema}.evenflow_outbox)"
        )
        self._channel = f"evenflow {schema}"[:63]
        self._link: Link | None = None
        self._making = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._seen: tuple[Any, ...] | None = None
        self._looked = self._news = self._loop.time()
        self._looking: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._untold = False

    # -- heartbeats ---------------------------------------------------------------------------------------------------

    async def beat(self, process: Process) -> None:
        await self._do([self._beat(process)], _LAZY, ("commit",))

    def _beat(self, process: Process) -> Statement:
        row = (
            process.id,
            process.pid,
            process.boot,
            process.started,
            list(process.groups),
            process.beat,
            self._connecting.place.application,
        )
        put = (
            f"insert into {self._schema}.evenflow_process as p values ($1, $2, $3, $4, $5, $6, $7) on conflict (id) "
            "do update set groups = excluded.groups, beat = excluded.beat, application = excluded.application"
        )
        return put, row

    async def processes(self) -> list[Process]:
        return _processes(await self.fetch(self._all))

    async def beat_and_look(self, process: Process, sql: str) -> tuple[list[Row], list[Process]]:
        """It is a look at what others have committed, too."""
        asked = [self._beat(process), (sql, ()), (self._all, ()), (self._newest, ())]
        _, found, processes, (newest,) = await self._do(asked, _LAZY, ("commit",))
        self._saw(newest)
        return found, _processes(processes)

    async def forget(self, process: str) -> None:
        await self._write(f"delete from {self._schema}.evenflow_process where id = $1", (process,))

    async def end(self, process: str) -> None:
        """End the sessions of a process that hold something: its transactions are rolled back."""
        await self.fetch(
            "select pg_terminate_backend(a.pid) from pg_catalog.pg_stat_activity as a "
            f"join {self._schema}.evenflow_process as p on p.application = a.application_name "
            "where p.id = $1 and a.datname = current_database() and a.state <> 'idle' "
            "and a.application_name <> $2",
            (process, self._connecting.place.application),
        )

    # -- what others have committed -----------------------------------------------------------------------------------

    def committed(self) -> None:
        """Tell others, soon."""
        self._untold = True
        if self._telling is None and not self._closed:
            self._telling = self._loop.create_task(self._tell())

    async def _tell(self) -> None:
        try:
            while self._untold and not self._closed:
                self._untold = False
                rows = await self._write(
                    f"update {self._schema}.evenflow_change set number = number + 1 "
                    "returning number, pg_notify($1, $2)",
                    (self._channel, self._connecting.place.application),
                )
                if not rows:  # a crash of the server has emptied the table
                    await self._write(
                        f"insert into {self._schema}.evenflow_change select 0 "
                        f"where not exists (select 1 from {self._schema}.evenflow_change)",
                        (),
                    )
                    self._untold = True
                    continue
                if self._seen is not None and rows[0][0] == self._seen[0] + 1:
                    self._seen = (rows[0][0], self._seen[1])
                await asyncio.sleep(NOTIFY_PAUSE)
        except StoreUnavailable:
            return  # whoever reads next meets the same trouble, and reports it
        finally:
            self._telling = None

    def _heard(self, _pid: int, payload: str) -> None:
        if payload != self._connecting.place.application:
            self.changed.set()

    def _begin_looking(self) -> None:
        if self._looking is None and not self._closed:
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        """Look as long as somebody waits."""
        self._news = self._loop.time()
        wait = 0.0
        try:
            while self.changed.awaited and not self._closed:
                if wait <= 0:
                    try:
                        self._saw(*await self.fetch(self._newest))
                    except StoreUnavailable:
                        self._seen, self._looked = None, self._loop.time()
                now = self._loop.time()
                listening = LOOK if now - self._news < QUIET else LOOK_QUIET
                wait = self._looked + (LOOK_POOLED if self.pooled else listening) - now
                await asyncio.sleep(max(wait, 0.0))
        finally:
            self._looking = None

    def _saw(self, newest: Row) -> None:
        self._looked = self._loop.time()
        if self._seen is None or _news(self._seen, newest):
            self.changed.set()
            self._news = self._looked
        self._seen = newest

    # -- the connection -----------------------------------------------------------------------------------------------

    def links(self) -> list[Link]:
        return [] if self._link is None else [self._link]

    async def fetch(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        """Rows, without a transaction. Raises `StoreUnavailable` when the server takes too long."""
        return (await self._do([(sql, args)], (), ()))[0]

    async def _write(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """A statement whose loss in a crash of the server does not matter."""
        return (await self._do([(sql, args)], _LAZY, ("commit",)))[0]

    async def _do(
        self, statements: Sequence[Statement], before: Sequence[str], after: Sequence[str]
    ) -> list[list[Row]]:
        link: Link | None = None
        try:
            async with asyncio.timeout(PATIENCE):
                link = await self._linked()
                try:
                    return await link.rows(statements, before=before, after=after)
                except PostgresError:
                    if link.in_transaction:
                        await roll_back(link)
                    raise
        except TimeoutError:
            if link is not None:
                link.fail("no answer")
            raise StoreUnavailable(
                f"{self._connecting.what} at {self._connecting.place.words} has not answered for {PATIENCE:g} s",
                remedy="see that the server runs and can be reached; everything goes on by itself then",
            ) from None
        except PostgresError as error:
            raise translate(error, self._connecting.what) from error

    async def _linked(self) -> Link:
        if self._link is None or self._link.dead:
            async with self._making:
                if self._closed:
                    raise closed(self._connecting.what)
                if self._link is None or self._link.dead:
                    self._link = await self._made()
        return self._link

    async def _made(self) -> Link:
        link = await self._connecting.connect()
        if not self.pooled:
            link.on_notify = self._heard
            await link.control(f"listen {quoted(self._channel)}")
            self.changed.set()  # what was told while there was no connection
        return link

    async def close(self) -> None:
        self._closed = True
        for task in (self._looking, self._telling):
            if task is not None:
                task.cancel()
                await asyncio.wait([task], timeout=PATIENCE)
        if self._link is not None:
            self._link.close()


def _processes(rows: Sequence[Row]) -> list[Process]:
    return [Process(id_, pid, boot, started, tuple(groups), beat) for id_, pid, boot, started, groups, beat in rows]


def _news(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    """Whether there is more than before; that rows went says nothing."""
    return bool(now[0] != before[0] or (now[1] is not None and (before[1] is None or now[1] > before[1])))


class Changed(Signal):
    """A signal that looks for others' commits while somebody waits for it."""

    __slots__ = ("_begin", "awaited")

    def __init__(self, begin: Callable[[], None]) -> None:
        super().__init__()
        self._begin = begin
        self.awaited = 0

    def waiter(self) -> asyncio.Future[None]:
        future = super().waiter()
        self.awaited += 1
        future.add_done_callback(self._left)
        self._begin()
        return future

    def _left(self, _: asyncio.Future[None]) -> None:
        self.awaited -= 1
