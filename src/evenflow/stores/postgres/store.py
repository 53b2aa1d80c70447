"""The store on PostgreSQL: a schema in a database. Opened through `psycopg`, whose libpq layer alone is used.

Transactions run side by side, each on a connection of its own (`pool`); reads have another, and so have
heartbeats and notices (`control`). Nothing relies on a connection's state between two transactions, so that
a pgbouncer in transaction mode may stand in between. The types of values are listed in `drivers/postgres/types`.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from evenflow.checkup import Finding
from evenflow.clock import Clock, Signal
from evenflow.drivers.postgres.checks import keeps_names, pooled
from evenflow.drivers.postgres.errors import READ_ONLY, PostgresError, Trouble, connect_in_vain
from evenflow.drivers.postgres.link import Link
from evenflow.drivers.postgres.place import PostgresPlace
from evenflow.drivers.postgres.silence import Silence
from evenflow.errors import EvenflowError, Refused, StatementFailed, StoreUnavailable
from evenflow.ids import new_id
from evenflow.sql import load
from evenflow.store import Applied, Migration, Process, Row, Session, StoreCapabilities
from evenflow.stores.postgres.control import Control
from evenflow.stores.postgres.examine import examine
from evenflow.stores.postgres.joined import Joining
from evenflow.stores.postgres.open import open_checks, tells_timeline
from evenflow.stores.postgres.pool import Connecting, Pool, closed, roll_back
from evenflow.stores.postgres.schema import PostgresSchema, own_migrations, qualified, quoted
from evenflow.stores.postgres.session import BEGIN, PostgresSession, translate
from evenflow.stores.postgres.units import Units

T = TypeVar("T")
WHAT = "the store"
IDLE_MILLISECONDS = 600_000
"""After which the server ends a transaction that nobody goes on with: of a machine that is gone, where nobody else is
there to end it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresStoreOptions:
    """schema: where our tables and the service's are; the service's name unless given.
    pool: connections that write; there are two more, for reads and for heartbeats.
    wait: seconds to wait for another transaction's lock.
    prepare: whether statements are prepared; "auto" finds out whether a pooler keeps them.
    allow_unsafe: what is taken on the user's own risk: "fsync", "full_page_writes", "synchronous_commit".
    """

    schema: str = ""
    pool: int = 4
    wait: float = 30.0
    prepare: Literal["auto", "true", "false"] = "auto"
    allow_unsafe: frozenset[str] = frozenset()


class PostgresStore:
    """See `evenflow.store.Store`. `conninfo` are the parts of the URL that are libpq's."""

    def __init__(
        self,
        conninfo: Mapping[str, object],
        clock: Clock,
        options: PostgresStoreOptions | None = None,
        *,
        name: str = "postgres",
    ) -> None:
        self.name = name
        self.id = ""
        self.dialect = "postgres"
        self.options = options or PostgresStoreOptions()
        self.schema = self.options.schema or schema_of(name)
        self.capabilities = StoreCapabilities(durable=True, shared=True, writers=max(1, self.options.pool))
        self.sql: Mapping[str, str] = qualified(load("store", "store_postgres"), self.schema)
        self.changed: Signal = Signal()
        self.place = PostgresPlace(conninfo, f"evenflow {name[:30]} {os.getpid()}-{secrets.token_hex(4)}")
        self._clock = clock
        self._opening = opening(self.schema, self.options.wait)
        self._tables = PostgresSchema(self.schema, self._opening, self.options.wait, WHAT)
        self._open: _Opened | None = None

    async def open(self) -> None:
        connecting = Connecting(self.place, WHAT)
        try:
            link = await connecting.connect()
            try:
                behind = await pooled(link)
                self.place.prepare = self.options.prepare == "true" or (
                    self.options.prepare == "auto" and (not behind or await keeps_names(link))
                )
                await open_checks(link, self.schema, self.options.allow_unsafe)
                if not await tells_timeline(link):
                    self.sql = {**self.sql, "counters_draw": self.sql["counters_draw_alone"]}
                await self._prepare(link)
            except BaseException:
                link.close()
                raise
            self._open = _Opened(self, connecting, link, pooled=behind)
            self.changed = self._open.control.changed
            await self._open.control.processes()  # which connects
        except BaseException as error:
            await self.close()
            if isinstance(error, PostgresError):
                raise _refused(error) from error
            if isinstance(error, StoreUnavailable) and connect_in_vain(error.message):
                raise Refused(error.message, remedy=error.remedy) from error
            raise

    async def _prepare(self, link: Link) -> None:
        own = own_migrations()
        self.id = await self._tables.ready(link, own)
        if self.id:
            return  # without the lock: who only looks waits for nobody
        try:
            self.id = await self._tables.prepare(link, new_id(self._clock.now), self._clock.now(), own)
        finally:
            await roll_back(link)
        await self._migrate(link, own)

    async def close(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            await opened.close()

    async def migrate(self, migrations: Sequence[Migration]) -> list[Migration]:
        pool = self._opened().pool
        link = await pool.take()
        try:
            return await self._migrate(link, migrations)
        finally:
            pool.give(link)

    async def _migrate(self, link: Link, migrations: Sequence[Migration]) -> list[Migration]:
        applied = []
        for migration in migrations:
            try:
                if await self._tables.apply(link, migration, self._clock.now()):
                    applied.append(migration)
            finally:
                await roll_back(link)
        return applied

    async def examine(self, *, deep: bool) -> Sequence[Finding]:
        connections = self.capabilities.writers + 2
        return await examine(self.place, self.schema, connections, self.options.allow_unsafe, self._clock, deep=deep)

    def own_migrations(self) -> Sequence[Migration]:
        return own_migrations()

    async def applied(self) -> Sequence[Applied]:
        link = await Connecting(self.place, WHAT).connect()
        try:
            return await self._tables.applied(link)
        finally:
            link.close()

    def session(self) -> Session:
        opened = self._opened()
        return PostgresSession(lambda: self._opened().pool, self._opening, WHAT, opened.control.committed)

    async def transact(
        self,
        work: Callable[[Session], Awaitable[T]],
        *,
        last: Callable[[Session, list[T]], Awaitable[None]] | None = None,
    ) -> T:
        done: T = await self._opened().units.run(work, last)
        return done

    async def read(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        return await self._opened().read(sql, args)

    async def join(self, connection: object) -> Session:
        return await self._opened().joining.join(connection)

    async def beat(self, process: Process) -> None:
        await self._opened().control.beat(process)

    async def processes(self) -> list[Process]:
        return await self._opened().control.processes()

    async def beat_and_look(self, process: Process, sql: str) -> tuple[list[Row], list[Process]]:
        return await self._opened().control.beat_and_look(process, sql)

    async def forget(self, process: str) -> None:
        await self._opened().control.forget(process)

    async def end(self, process: str) -> None:
        await self._opened().control.end(process)

    def _opened(self) -> _Opened:
        if self._open is None:
            raise closed(WHAT)
        return self._open


class _Opened:
    """What an open store has."""

    def __init__(self, store: PostgresStore, connecting: Connecting, link: Link, *, pooled: bool) -> None:
        self.pool = Pool(connecting, store.capabilities.writers)
        self.control = Control(connecting, store.schema, pooled=pooled)
        self.units = Units(
            self.pool, max(1, store.capabilities.writers - 1), store._opening, WHAT, self.control.committed
        )
        self.joining = Joining(store.id, store.schema)
        self._connecting = connecting
        self._reader: Link = link
        self._reading = asyncio.Lock()
        self._before = (f"{BEGIN} read only", *store._opening[1:])
        self._silence = Silence(self._links, connecting.place, f"the store of {store.name!r}", pooled=pooled)

    async def read(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """One round trip, on a connection for reading; while that is busy, on one that writes and has nothing to do."""
        if self._reading.locked() and self.pool.spare:
            link = await self.pool.take()
            try:
                return await self._read(link, sql, args)
            finally:
                await self.pool.give_clean(link)
        async with self._reading:
            try:
                return await self._read(await self._read_link(), sql, args)
            except StoreUnavailable:
                if not self._reader.dead:
                    raise
            return await self._read(await self._read_link(), sql, args)  # it was lost: a read may be done again

    async def _read_link(self) -> Link:
        if self._reader.dead:
            self._reader = await self._connecting.connect()
        elif not self._reader.idle:  # whoever read last was cancelled, or made a mistake
            await roll_back(self._reader)
        return self._reader

    async def _read(self, link: Link, sql: str, args: tuple[Any, ...]) -> list[Row]:
        try:
            return await link.fetch(sql, args, before=self._before, after=("commit",))
        except PostgresError as error:
            if error.sqlstate != READ_ONLY:
                raise translate(error, WHAT) from error
            raise StatementFailed("read() cannot write", sql=sql, args=args) from error

    def _links(self) -> list[Link]:
        return [*self.pool.links, self._reader, *self.control.links()]

    async def close(self) -> None:
        await self.units.close()
        self.units.refuse()
        await self._silence.close()
        await self.control.close()
        await self.pool.close()
        self._reader.close()


def schema_of(service: str) -> str:
    """The schema of a service that names none: its own name, as SQL likes it."""
    return re.sub(r"\W", "_", service.lower())[:63]


def opening(schema: str, wait: float) -> tuple[str, ...]:
    """The texts that begin a transaction. Nothing is left to what a connection, or a database, is set to."""
    path = f"{quoted(schema)}, public".replace("'", "''")
    settings = {
        "search_path": path,
        "lock_timeout": round(wait * 1000),
        "idle_in_transaction_session_timeout": IDLE_MILLISECONDS,
    }
    set_all = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
    return BEGIN, f"select {set_all}"


def _refused(error: PostgresError) -> EvenflowError:
    if error.trouble is Trouble.STATEMENT:
        return Refused(f"{WHAT} cannot be opened: {error.message} [{error.sqlstate}]", remedy=error.remedy)
    return translate(error, WHAT)
