"""A check-up of a SQLite file of ours: its place, disk, settings and integrity. It changes nothing."""
# ruff: noqa: PTH100, PTH110, PTH112, PTH116, PTH120
# plain paths, as in sqlite_file

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from evenflow.checkup import Finding
from evenflow.drivers.sqlite.diagnosis import check_place, diagnose, lock_holder
from evenflow.drivers.sqlite.file import WAL_RESET_FIXED, KindOfFile, hold, let_go, read_header
from evenflow.errors import Refused

LITTLE, TOO_LITTLE = 1 << 30, 64 << 20
FEW_INODES = 1000
LARGE_WAL = 512 << 20
AHEAD = 5.0
PATIENCE = 2.0
HELD, LOOKS = 1.0, 20

Connection = apsw.Connection | sqlite3.Connection


def examine_file(
    path: str, kind: KindOfFile, *, deep: bool, driver: str = "apsw", allow_network: bool = False
) -> list[Finding]:
    """Everything that can be told of it from outside, whether it is open somewhere or not made yet."""
    return list(_examine(path, kind, (deep, driver), allow_network))


def _examine(path: str, kind: KindOfFile, how: tuple[bool, str], allow_network: bool) -> Iterator[Finding]:
    what = kind.what
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        yield Finding("ok", what, f"{path} is not made yet; its folder neither")
        return
    try:
        check_place(path, what, allow_network=allow_network)
    except Refused as error:
        yield Finding("wrong", what, error.message, error.remedy)
        return
    if os.path.exists(path):
        yield from _opened(path, kind, *how)
    else:
        yield Finding("ok", what, f"{path} is not made yet")
    yield from disk(folder)


def _opened(path: str, kind: KindOfFile, deep: bool, driver: str) -> Iterator[Finding]:
    what, held = kind.what, None
    try:
        held = hold(path, driver, what)
        connection = _read_only(path, driver)
        try:
            kind.check(read_header(connection.execute), path)
            yield from _facts(connection, path, what)
            yield from _locked(path, what)
            if deep:
                yield _integrity(connection, path, what)
        finally:
            connection.close()
    except Refused as error:
        yield Finding("wrong", what, error.message, error.remedy)
    except (apsw.Error, sqlite3.Error) as error:
        found = diagnose(error, path, what)
        yield Finding("wrong", what, found.message, found.remedy)
    finally:
        if held is not None:
            let_go(held)
    ahead = os.stat(path).st_mtime - time.time()
    if ahead > AHEAD:
        yield Finding(
            "warn", "clock", f"{path} was changed {ahead:,.0f} s in the future", "look whether the clock was set back"
        )


def _read_only(path: str, driver: str) -> Connection:
    """Through the copy of SQLite that may have it open in this process: two of them never open the same file."""
    if driver == "sqlite3":
        return sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, timeout=PATIENCE)
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(int(PATIENCE * 1000))
    return connection


def _facts(connection: Connection, path: str, what: str) -> Iterator[Finding]:
    ((mode,),) = connection.execute("pragma journal_mode")
    size = os.stat(path).st_size
    users = [each for each in holders(path) if each != os.getpid()]
    used = f", open in pid {', '.join(map(str, users))}" if users else ""
    if mode != "wal":
        yield Finding("warn", what, f"{path} has journal_mode {mode!r}", "nothing: the next start sets it to wal")
    else:
        yield Finding("ok", what, f"{path}, {size / 1e6:,.1f} MB, journal_mode wal{used}")
    wal = os.stat(path + "-wal").st_size if os.path.exists(path + "-wal") else 0
    if wal > LARGE_WAL:
        yield Finding(
            "warn", what, f"its -wal file has {wal / 1e6:,.0f} MB: a reader has not ended for long, and holds it up",
            f"find it with lsof {path}-wal, and end it",
        )  # fmt: skip


def _locked(path: str, what: str) -> Iterator[Finding]:
    """Whoever writes has the lock for a moment: told is who has it at every look."""
    for look in range(LOOKS):
        holder = lock_holder(path)
        if holder is None:
            return
        if look < LOOKS - 1:
            time.sleep(HELD / LOOKS)
            continue
        yield Finding(
            "warn", what, f"{holder} has held its write lock for {HELD:.0f} s and more: nothing can be written",
            f"let it finish, or end it (kill {holder.pid}): what it has not committed is rolled back by itself",
        )  # fmt: skip


def _integrity(connection: Connection, path: str, what: str) -> Finding:
    began = time.perf_counter()
    rows = [str(row[0]) for row in connection.execute("pragma quick_check(5)")]
    if rows == ["ok"]:
        return Finding("ok", what, f"its integrity is fine (read whole in {time.perf_counter() - began:.1f} s)")
    return Finding(
        "wrong", what, f"{path} is damaged: {'; '.join(rows)}",
        "restore a backup while nothing has it open, keeping a copy with its -wal file; then evenflow store adopt, "
        "or groups seek",
    )  # fmt: skip


def disk(folder: str) -> Iterator[Finding]:
    """Room on the disk of this folder, and inodes."""
    try:
        facts = os.statvfs(folder)
    except (OSError, AttributeError):
        return
    free = facts.f_bavail * facts.f_frsize
    share = f"{free / 1e9:,.1f} GB free on the disk of {folder}"
    if free < LITTLE:
        yield Finding(
            "wrong" if free < TOO_LITTLE else "warn", "disk", share, "make room: writing stops when it is full"
        )
    else:
        yield Finding("ok", "disk", share)
    if facts.f_files and facts.f_favail < FEW_INODES:
        yield Finding(
            "wrong" if facts.f_favail < 10 else "warn", "disk", f"{facts.f_favail} inodes are left for {folder}",
            "remove files: none can be made without an inode",
        )  # fmt: skip


def sqlite_version() -> Finding:
    """Whether the copy of SQLite that we use is one without known damage."""
    version = apsw.sqlite_lib_version()
    if tuple(map(int, version.split("."))) < WAL_RESET_FIXED:
        wanted = ".".join(map(str, WAL_RESET_FIXED))
        return Finding(
            "wrong", "version", f"SQLite {version} can damage a WAL file: two connections at a checkpoint",
            f"pip install --upgrade apsw, for SQLite {wanted} or later",
        )  # fmt: skip
    return Finding("ok", "version", f"SQLite {version}")


def holders(path: str) -> list[int]:
    """The processes of this machine that have the file open, where the system tells."""
    try:
        wanted = os.stat(path)
    except OSError:
        return []
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            same = any(_same(each, wanted) for each in folder.iterdir())
        except OSError:
            continue  # another user's, or gone
        if same:
            found.append(int(folder.parent.name))
    return sorted(found)


def _same(link: Path, wanted: os.stat_result) -> bool:
    try:
        found = link.stat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
