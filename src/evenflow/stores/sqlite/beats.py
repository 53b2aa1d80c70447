"""Heartbeats in a file of their own beside the store, without fsync: they never wait behind a write transaction."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import apsw

from evenflow.drivers.sqlite.file import diagnose, patiently
from evenflow.errors import Refused, StoreUnavailable
from evenflow.store import Process

T = TypeVar("T")
_WHAT = "the heartbeat file"
_PATIENCE = 1.0
_TABLE = """
create table if not exists evenflow_process (
    id text not null primary key,
    pid integer not null,
    boot text not null,
    started integer not null,
    groups text not null,
    beat integer not null
) without rowid
"""
_PUT = """
insert into evenflow_process values (?, ?, ?, ?, ?, ?)
on conflict (id) do update set groups = excluded.groups, beat = excluded.beat
"""
_ALL = "select id, pid, boot, started, groups, beat from evenflow_process order by id"


class Beats(Protocol):
    async def open(self) -> None: ...
    async def beat(self, process: Process) -> None: ...
    async def processes(self) -> list[Process]: ...
    async def forget(self, process: str) -> None: ...
    def close(self) -> None: ...


class MemoryBeats:
    """Of a database in memory, which has one process."""

    def __init__(self) -> None:
        self._processes: dict[str, Process] = {}

    async def open(self) -> None:
        return

    async def beat(self, process: Process) -> None:
        self._processes[process.id] = process

    async def processes(self) -> list[Process]:
        return list(self._processes.values())

    async def forget(self, process: str) -> None:
        self._processes.pop(process, None)

    def close(self) -> None:
        return


class FileBeats:
    """One row per process. What stands here is worth nothing after a crash of the machine."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: apsw.Connection | None = None

    async def open(self) -> None:
        try:
            self._connection = apsw.Connection(self._path)
            self._connection.set_busy_timeout(1)
            await self._do(self._prepare)
        except (StoreUnavailable, apsw.Error) as error:
            reason = error.message if isinstance(error, StoreUnavailable) else str(error)
            raise Refused(
                f"{_WHAT} at {self._path} cannot be opened: {reason}",
                remedy="if it is damaged, delete it while no process has it open: it holds nothing that lasts",
            ) from error

    def _prepare(self, connection: apsw.Connection) -> None:
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", 0)
        connection.execute(_TABLE)

    async def beat(self, process: Process) -> None:
        groups = json.dumps(process.groups)
        row = (process.id, process.pid, process.boot, process.started, groups, process.beat)
        await self._do(lambda connection: connection.execute(_PUT, row))

    async def processes(self) -> list[Process]:
        rows: list[Any] = await self._do(lambda connection: connection.execute(_ALL).fetchall())
        return [
            Process(id_, pid, boot, started, tuple(json.loads(groups)), beat)
            for id_, pid, boot, started, groups, beat in rows
        ]

    async def forget(self, process: str) -> None:
        await self._do(lambda connection: connection.execute("delete from evenflow_process where id = ?", (process,)))

    async def _do(self, work: Callable[[apsw.Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            raise StoreUnavailable(f"{_WHAT} at {self._path} is closed")
        try:
            return await patiently(lambda: work(connection), limit=_PATIENCE)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            found = diagnose(error, self._path, _WHAT)
            raise StoreUnavailable(found.message, remedy=found.remedy) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
