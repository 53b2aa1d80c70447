"""A SQLite file opened safely: what the engine and the store that keep one have in common.

    check_place(path, what)                     refuses a network file system, a read-only folder, ...
    hold(path, driver, what) / let_go(path)     two copies of SQLite in one process never open the same file
    connect(path, what)                         an apsw connection with our settings; `SETTINGS` for other drivers
    KindOfFile(...).check(header, path)         another application's file, a newer version, or fresh?
    await patiently(attempt, limit)             retry while busy, never blocking the loop
    CommitPace().run(commit)                    inline, or in a thread while the disk is slow
    SameFile(path)                              was the file replaced or deleted under us?
    ChangeWatch(look, path=path)                notice others' commits while somebody waits
    Checkpointer(run, size)                     keeps the -wal file small, off the write path
    diagnose(error, path, what)                 words for an error of apsw or sqlite3

Nothing here knows whether it serves an engine or a store. All functions are for the event loop's thread, and none of
them opens the file except by SQLite.
"""
# ruff: noqa: PTH110, PTH116
# plain paths: some of this stands before every commit

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import apsw

from evenflow.drivers.sqlite.diagnosis import (
    Diagnosis,
    Holder,
    Trouble,
    check_place,
    diagnose,
    error_code,
    is_busy,
    lock_holder,
    replaced_words,
    trouble_of,
)
from evenflow.drivers.sqlite.pace import (
    LOCK_LIMIT,
    Checkpointer,
    CommitPace,
    WalGauge,
    apsw_checkpoint,
    patiently,
    to_the_end,
    wal_size,
)
from evenflow.drivers.sqlite.watch import ChangeWatch
from evenflow.errors import Refused

__all__ = [
    "LOCK_LIMIT", "SETTINGS", "WAL_RESET_FIXED", "ChangeWatch", "Checkpointer", "CommitPace", "Diagnosis", "Header",
    "Holder", "KindOfFile", "SameFile", "Trouble", "WalGauge", "apsw_checkpoint", "check_place", "connect", "diagnose",
    "error_code", "hold", "is_busy", "let_go", "lock_holder", "patiently", "read_header", "replaced_words",
    "to_the_end", "trouble_of", "wal_size",
]  # fmt: skip

BUSY_MILLISECONDS = 2
WAL_RESET_FIXED = (3, 51, 3)
"""Older versions of SQLite can corrupt a WAL file when two connections write and checkpoint at once."""

SETTINGS: tuple[tuple[str, object], ...] = (
    ("journal_mode", "wal"),
    ("synchronous", 2),
    ("fullfsync", 1),
    ("checkpoint_fullfsync", 1),
    ("wal_autocheckpoint", 0),
    ("journal_size_limit", 96 << 20),
    ("temp_store", 2),
    ("cache_size", -8000),
    ("mmap_size", 0),
    ("trusted_schema", 0),
)
"""`PRAGMA name=value`, in this order, for every connection to a file of ours. Durability rests on the first three."""


class Header(NamedTuple):
    """What a database says of itself. `tables`: how many it has."""

    application_id: int
    user_version: int
    tables: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KindOfFile:
    """A kind of file of ours. `exclusive`: it holds nothing but our tables, so that a stranger's file is refused."""

    what: str
    application_id: int
    version: int
    exclusive: bool = True

    def check(self, header: Header, path: str) -> bool:
        """True if our tables are still to be made. Raises `Refused` for what must not be touched."""
        if header.application_id == 0 and header.user_version == 0 and (not header.tables or not self.exclusive):
            return True
        if header.application_id not in (self.application_id, *(() if self.exclusive else (0,))):
            raise Refused(
                f"{path} is a SQLite database of another application (id {header.application_id:#x}, "
                f"{header.tables} tables), not {self.what}",
                remedy="give another path; nothing was changed in that file",
            )
        if self.exclusive and header.application_id == 0:
            raise Refused(
                f"{path} is a SQLite database of another application, not {self.what}",
                remedy="give another path; nothing was changed in that file",
            )
        if header.application_id == self.application_id and header.user_version > self.version:
            raise Refused(
                f"{self.what} at {path} was made by a newer version of Evenflow (format {header.user_version}, "
                f"this version knows {self.version})",
                remedy="pip install --upgrade evenflow; nothing was changed in that file",
            )
        return header.application_id != self.application_id


def read_header(fetch: Callable[[str], Iterable[tuple[Any, ...]]]) -> Header:
    """Read the header through a function that runs SQL and gives its rows.

    In one statement, so that a file that another process is making just now is seen before or after, never half.
    """
    ((tables, application, version),) = fetch(
        "select (select count(*) from sqlite_schema where type = 'table' and name not like 'sqlite_%'), "
        "(select application_id from pragma_application_id), (select user_version from pragma_user_version)"
    )
    return Header(application, version, tables)


_held: dict[tuple[int, int], tuple[str, int]] = {}


def hold(path: str, driver: str, what: str) -> tuple[int, int]:
    """Note that this process is to open the file through this copy of SQLite; give the answer to `let_go`.

    Makes an empty file where there is none. Call it before connecting: it raises `Refused` if another copy has the
    file open, since closing one copy's descriptor would drop the other's locks.
    """
    try:
        if not os.path.exists(path):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        found = os.stat(path)
    except OSError as error:
        raise Refused(f"{what} at {path} cannot be made ({error.strerror})", remedy="check the folder") from error
    identity = (found.st_dev, found.st_ino)
    other, count = _held.get(identity, (driver, 0))
    if other != driver:
        raise Refused(
            f"{what} at {path} is already open in this process through {other!r}, another copy of SQLite",
            remedy=f"open both through one of them (?driver={other}), or use another file",
        )
    _held[identity] = (driver, count + 1)
    return identity


def let_go(identity: tuple[int, int]) -> None:
    """The opposite of `hold`, after the connections are closed."""
    driver, count = _held.pop(identity, ("", 1))
    if count > 1:
        _held[identity] = (driver, count - 1)


def connect(
    path: str, what: str, *, page_size: int = 4096, check: Callable[[Header], object] | None = None
) -> apsw.Connection:
    """A connection with our settings. Raises `Refused` with the diagnosis, or the bare error while it is busy.

    `check` sees the header before anything is changed: WAL mode is written into the file.
    """
    connection: apsw.Connection | None = None
    try:
        connection = apsw.Connection(path)
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        if check is not None:
            check(read_header(connection.execute))
        connection.pragma("page_size", page_size)
        for name, value in SETTINGS:
            connection.pragma(name, value)
        _verify(connection, path, what)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if not isinstance(error, apsw.Error) or is_busy(error):
            raise
        raise diagnose(error, path, what).refusal() from error
    return connection


def _verify(connection: apsw.Connection, path: str, what: str) -> None:
    mode, level = connection.pragma("journal_mode"), connection.pragma("synchronous")
    if (mode, level) != ("wal", 2):
        raise Refused(
            f"{what} at {path} cannot be made durable: journal_mode is {mode!r}, synchronous is {level!r}",
            remedy="put it on a local disk with a file system that supports shared memory files",
        )


class SameFile:
    """Whether a path still leads to the file that was opened, and to its -wal file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity = _identity(path)
        self._wal: tuple[int, int] | None = None

    def moved(self) -> bool:
        """True when the file or its -wal was deleted or replaced. Two `stat` calls."""
        if _identity(self._path) != self._identity:
            return True
        wal = _identity(self._path + "-wal")
        if self._wal is None:
            self._wal = wal
        return wal != self._wal


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
