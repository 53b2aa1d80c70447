"""The store on SQLite: a file, or `:memory:`. Opened through `apsw`, or through `sqlite3` (`?driver=sqlite3`).

One connection writes, in turns (`write_turns`); another reads. Statements run at once, on the event loop: what may
take long, a commit on a slow disk or another process's lock, is waited for without blocking it.
The types of values are listed in `types`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from evenflow.checkup import Finding
from evenflow.clock import Clock, Signal
from evenflow.drivers.sqlite.examine import examine_file
from evenflow.drivers.sqlite.file import (
    ChangeWatch,
    Checkpointer,
    CommitPace,
    SameFile,
    WalGauge,
    apsw_checkpoint,
    check_place,
    diagnose,
    hold,
    is_busy,
    let_go,
    patiently,
    replaced_words,
)
from evenflow.errors import EvenflowError, Refused, StatementFailed, StoreUnavailable
from evenflow.ids import new_id
from evenflow.sql import load
from evenflow.store import Applied, Migration, Process, Row, Session, StoreCapabilities
from evenflow.stores import migrating
from evenflow.stores.sqlite import joined as joined_sqlite
from evenflow.stores.sqlite import schema as sqlite_schema
from evenflow.stores.sqlite.beats import Beats, FileBeats, MemoryBeats
from evenflow.stores.sqlite.driver import ApswLink, Link, Place
from evenflow.stores.sqlite.open import MEMORY, DriverName, looking, opener, reserve
from evenflow.stores.sqlite.session import SqliteSession
from evenflow.stores.sqlite.write_turns import WriteTurns
from evenflow.stores.sqlite.write_units import WriteUnits

T = TypeVar("T")
_DATA_VERSION = "pragma data_version"


class SqliteStore:
    """See `evenflow.store.Store`. `wait`: seconds to wait for another process's lock before naming who holds it."""

    def __init__(
        self,
        location: str | os.PathLike[str],
        clock: Clock,
        *,
        driver: DriverName = "apsw",
        name: str = "sqlite",
        wait: float = 30.0,
        allow_network: bool = False,
    ) -> None:
        path = os.fspath(location)
        self.name = name
        self.dialect = "sqlite"
        self.id = ""
        self.capabilities = StoreCapabilities(durable=path != MEMORY, shared=path != MEMORY)
        self.sql: Mapping[str, str] = load("store", "store_sqlite")
        self._watched = _Watched(self._look)
        self.changed: Signal = self._watched
        self._clock = clock
        self._driver: DriverName = driver
        self._place = Place(path if path == MEMORY else str(Path(path).absolute()), "the store")
        self._wait = wait
        self._allow_network = allow_network
        self._beats: Beats = MemoryBeats() if path == MEMORY else FileBeats(self._place.path + "-beats")
        self._held: tuple[int, int] | None = None
        self._open: _Opened | None = None

    async def open(self) -> None:
        try:
            if self._place.path != MEMORY:
                check_place(self._place.path, self._place.what, allow_network=self._allow_network)
                self._held = reserve(self._place.path, self._driver, self._place.what)
            await self._connect()
            await self._prepare()
            await self._beats.open()
            if self._place.path != MEMORY:
                self._watched.start(self._place.path)
        except BaseException as error:
            await self.close()
            if isinstance(error, Exception) and not isinstance(error, EvenflowError):
                raise self._refused(error) from error
            raise

    def _refused(self, error: Exception) -> Refused:
        return diagnose(error, self._place.path, self._place.what).refusal()

    async def _connect(self) -> None:
        link = opener(self._driver, self._place)
        writer = await patiently(lambda: link(False), limit=self._wait)
        reader = writer if self._place.path == MEMORY else await patiently(lambda: link(True), limit=self._wait)
        slow = float("inf") if self._place.path == MEMORY else 0.002
        turns = WriteTurns(writer, CommitPace(slow=slow), self._committed)
        units = WriteUnits(turns, self._begin, self._clock.monotonic)
        self._open = _Opened(turns, units, reader, self._place.path)

    async def _prepare(self) -> None:
        path = self._place.path
        own = sqlite_schema.own_migrations()
        if self._is_ready(own):
            return  # without the lock: who only looks waits for nobody

        def prepare(link: Link) -> None:
            self.id = sqlite_schema.prepare(link, path, new_id(self._clock.now), self._clock.now())
            sqlite_schema.not_newer(link, own, path)

        await self._exclusively(prepare)
        await self.migrate(own)

    def _is_ready(self, own: Sequence[Migration]) -> bool:
        path = self._place.path
        if path == MEMORY:
            return False
        try:
            self.id = sqlite_schema.ready(self._opened().reader, own, path)
        except StoreUnavailable:  # another process recovers the file at this moment
            return False
        return bool(self.id)

    async def _exclusively(self, work: Callable[[Link], T]) -> T:
        """Do this in a write transaction of its own."""
        session = SqliteSession(self._opened().turns, self._begin)
        await session.begin()
        try:
            done = work(self._opened().turns.link)
            await session.commit()
        finally:
            await session.rollback()
        return done

    async def close(self) -> None:
        self._watched.stop()
        if self._open is not None:
            self._open.turns.refuse_waiting()
            await self._open.units.close()
        opened, self._open = self._open, None
        if opened is not None:
            await opened.close()
        self._beats.close()
        if self._held is not None:
            let_go(self._held)
            self._held = None

    async def migrate(self, migrations: Sequence[Migration]) -> list[Migration]:
        applied = []
        for migration in migrations:
            try:
                if await self._exclusively(partial(sqlite_schema.apply, migration=migration, now=self._clock.now())):
                    applied.append(migration)
            except StatementFailed as error:
                raise migrating.failed(migration, error) from error
        return applied

    async def examine(self, *, deep: bool) -> Sequence[Finding]:
        path = self._place.path
        if path == MEMORY:
            return [Finding("warn", sqlite_schema.KIND.what, "it is in memory: nothing outlives the process")]
        return examine_file(path, sqlite_schema.KIND, deep=deep, driver=self._driver, allow_network=self._allow_network)

    def own_migrations(self) -> Sequence[Migration]:
        return sqlite_schema.own_migrations()

    async def applied(self) -> Sequence[Applied]:
        if self._open is not None:
            return sqlite_schema.applied(self._open.reader)
        path = self._place.path
        if path == MEMORY or not os.path.exists(path):  # noqa: ASYNC240, PTH110
            return []
        held = hold(path, self._driver, self._place.what)
        try:
            link = await patiently(lambda: looking(self._driver, self._place), limit=self._wait)
            try:
                return sqlite_schema.applied(link)
            finally:
                link.close()
        finally:
            let_go(held)

    def session(self) -> Session:
        return SqliteSession(self._opened().turns, self._begin)

    async def transact(
        self,
        work: Callable[[Session], Awaitable[T]],
        *,
        last: Callable[[Session, list[T]], Awaitable[None]] | None = None,
    ) -> T:
        done: T = await self._opened().units.run(work, last)
        return done

    async def read(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        opened = self._opened()
        if self._place.path == MEMORY:
            return await self._read_memory(opened.turns, sql, args)
        try:
            return opened.reader.fetch(sql, args)
        except StoreUnavailable as error:
            if error.__cause__ is None or not is_busy(error.__cause__):
                raise
        return await self._read_later(sql, args)

    async def _read_later(self, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """Readers wait for nobody, but for the moment in which another process recovers the file."""
        deadline = time.monotonic() + self._wait
        while True:
            await asyncio.sleep(0.002)
            try:
                return self._opened().reader.fetch(sql, args)
            except StoreUnavailable as error:
                busy = error.__cause__ is not None and is_busy(error.__cause__)
                if not busy or time.monotonic() > deadline:
                    raise

    async def _read_memory(self, turns: WriteTurns, sql: str, args: tuple[Any, ...]) -> list[Row]:
        """There is one connection: wait for whoever writes, unless that is the task that reads."""
        mine = turns.holder is not None and turns.holder is asyncio.current_task()
        if turns.idle or mine:
            return _read_only(turns.link, sql, args)
        await turns.take()
        try:
            return _read_only(turns.link, sql, args)
        finally:
            turns.give()

    async def join(self, connection: object) -> Session:
        self._opened()
        return await joined_sqlite.join(connection, self._driver, self._place)

    async def beat(self, process: Process) -> None:
        await self._beats.beat(process)

    async def processes(self) -> list[Process]:
        return await self._beats.processes()

    async def beat_and_look(self, process: Process, sql: str) -> tuple[list[Row], list[Process]]:
        await self.beat(process)
        return await self.read(sql), await self.processes()

    async def end(self, process: str) -> None:
        """Nobody can: the write lock is the operating system's, and goes with its process."""

    async def forget(self, process: str) -> None:
        await self._beats.forget(process)

    def _opened(self) -> _Opened:
        if self._open is None:
            raise StoreUnavailable(f"{self._place.what} at {self._place.path} is closed")
        return self._open

    async def _begin(self) -> None:
        """Begin a write transaction; waits for other processes, and names who holds the lock for too long."""
        opened = self._opened()
        link = opened.turns.link
        if opened.file is not None and opened.file.moved():
            message, remedy = replaced_words()
            raise StoreUnavailable(f"{self._place.what} at {self._place.path} {message}", remedy=remedy)
        try:
            await patiently(lambda: link.control("begin immediate"), limit=self._wait)
        except Exception as error:
            raise link.failure(error, "begin immediate") from error

    def _committed(self) -> None:
        if self._open is not None and self._open.checkpointer is not None:
            self._open.checkpointer.consider()

    def _look(self) -> bool:
        """Set `changed` if somebody else has committed since the last look; whether somebody has.

        The connection that writes is asked: what it commits itself does not count there. While its commits run in a
        thread the one that reads is asked instead, to which every commit counts.
        """
        opened = self._open
        if opened is None or opened.file is None:
            return False
        try:
            link = opened.reader if opened.turns.threaded else opened.turns.link
            version = link.value(_DATA_VERSION)
        except Exception:
            return False  # whoever reads next meets the same trouble, and reports it
        if opened.versions.get(link) == version:
            return False
        opened.versions[link] = version
        self.changed.set()
        return True


class _Opened:
    """What an open store has."""

    def __init__(self, turns: WriteTurns, units: WriteUnits, reader: Link, path: str) -> None:
        self.turns = turns
        self.units = units
        self.reader = reader
        self.file = None if path == MEMORY else SameFile(path)
        self.versions = {} if self.file is None else {link: link.value(_DATA_VERSION) for link in (reader, turns.link)}
        self._run = apsw_checkpoint(path)
        self.checkpointer = None
        if self.file is not None and isinstance(turns.link, ApswLink):  # sqlite3 checkpoints by itself, as it commits
            self.checkpointer = Checkpointer(self._run, WalGauge(turns.link.connection))

    async def close(self) -> None:
        self.turns.close()
        if self.checkpointer is not None:
            self.checkpointer.close()
            self._run("close")
        if self.reader is not self.turns.link:
            self.reader.close()
        self.turns.link.close()


class _Watched(Signal):
    """A signal that looks for others' commits while somebody waits for it."""

    __slots__ = ("_look", "_watch")

    def __init__(self, look: Callable[[], bool]) -> None:
        super().__init__()
        self._look = look
        self._watch: ChangeWatch | None = None

    def waiter(self) -> asyncio.Future[None]:
        future = super().waiter()
        if self._watch is not None:
            watch = self._watch
            watch.__enter__()
            future.add_done_callback(watch.__exit__)
            self._look()  # what was committed while nobody waited
        return future

    def start(self, path: str) -> None:
        self._watch = ChangeWatch(self._look, path=path)

    def stop(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()


def _read_only(link: Link, sql: str, args: tuple[Any, ...]) -> list[Row]:
    link.control("pragma query_only = 1")
    link.reads = True
    try:
        return link.fetch(sql, args)
    finally:
        link.reads = False
        link.control("pragma query_only = 0")
