"""Opening a SQLite store's file through either driver, with the same settings and the same refusals."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import apsw

from evenflow.drivers.sqlite.file import (
    BUSY_MILLISECONDS,
    SETTINGS,
    connect,
    diagnose,
    hold,
    is_busy,
    read_header,
)
from evenflow.errors import Refused
from evenflow.stores.sqlite.driver import ApswLink, Link, Place
from evenflow.stores.sqlite.schema import KIND
from evenflow.stores.sqlite.stdlib import StdlibLink

DriverName = Literal["apsw", "sqlite3"]
MEMORY = ":memory:"
_ALSO = (("foreign_keys", 1),)  # as every other database has it


def reserve(path: str, driver: DriverName, what: str) -> tuple[int, int]:
    """Make the file if it is missing, and note that this process opens it; for `let_go`."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
    return hold(path, driver, what)


def opener(driver: DriverName, place: Place) -> Callable[[bool], Link]:
    """A function of `reads` that opens one more connection. It raises `Refused`, or the bare error while busy."""
    return lambda reads: _apsw(place, reads) if driver == "apsw" else _stdlib(place, reads)


def _apsw(place: Place, reads: bool) -> Link:
    if place.path == MEMORY:
        connection = apsw.Connection(MEMORY)
    else:
        connection = connect(place.path, place.what, check=lambda head: KIND.check(head, place.path))
    for name, value in (*_ALSO, ("query_only", int(reads))):
        connection.pragma(name, value)
    return ApswLink(connection, place, reads=reads)


def _stdlib(place: Place, reads: bool) -> Link:
    settings = [("page_size", 4096), *SETTINGS] if place.path != MEMORY else []
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            place.path,
            timeout=BUSY_MILLISECONDS / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        for name, value in (*settings, *_ALSO, ("query_only", int(reads))):
            if name != "wal_autocheckpoint":  # SQLite's own pace: on the connection that writes, one at a time
                connection.execute(f"pragma {name} = {value}").fetchall()
        ((mode,),) = connection.execute("pragma journal_mode").fetchall()
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        if is_busy(error):
            raise
        raise diagnose(error, place.path, place.what).refusal() from error
    if settings and mode != "wal":
        connection.close()
        raise Refused(f"{place.what} at {place.path} cannot be made durable: journal_mode is {mode!r}")
    return StdlibLink(connection, place, reads=reads)


def looking(driver: DriverName, place: Place) -> Link:
    """A connection that cannot change the file, also of one that is not ours yet. Raises like `opener`."""
    try:
        if driver == "apsw":
            connection = apsw.Connection(place.path, flags=apsw.SQLITE_OPEN_READONLY)
            connection.set_busy_timeout(BUSY_MILLISECONDS)
            KIND.check(read_header(connection.execute), place.path)
            return ApswLink(connection, place, reads=True)
        other = sqlite3.connect(f"{Path(place.path).as_uri()}?mode=ro", uri=True, timeout=BUSY_MILLISECONDS / 1000)
        KIND.check(read_header(other.execute), place.path)
        return StdlibLink(other, place, reads=True)
    except (apsw.Error, sqlite3.Error) as error:
        if is_busy(error):
            raise
        raise diagnose(error, place.path, place.what).refusal() from error
