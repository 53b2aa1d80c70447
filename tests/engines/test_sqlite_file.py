import asyncio
import os
import sqlite3
import sys
import time

import apsw
import pytest

from evenflow.errors import Refused
from evenflow.sql import parse
from evenflow.drivers.sqlite.diagnosis import NETWORK, file_system_in, holder_in
from evenflow.drivers.sqlite.file import (
    ChangeWatch,
    Checkpointer,
    CommitPace,
    Header,
    KindOfFile,
    SameFile,
    Trouble,
    connect,
    diagnose,
    hold,
    is_busy,
    let_go,
    lock_holder,
    patiently,
    to_the_end,
    trouble_of,
    wal_size,
)

KIND = KindOfFile(what="the event log", application_id=77, version=3)
GUEST = KindOfFile(what="the store", application_id=78, version=3, exclusive=False)


@pytest.mark.parametrize(
    ("kind", "header", "verdict"),
    [
        (KIND, Header(0, 0, 0), True),
        (KIND, Header(77, 3, 5), False),
        (KIND, Header(77, 2, 5), False),
        (KIND, Header(77, 4, 5), "newer version"),
        (KIND, Header(0, 0, 1), "another application"),
        (KIND, Header(0, 9, 1), "another application"),
        (KIND, Header(78, 3, 1), "another application"),
        (GUEST, Header(0, 0, 0), True),
        (GUEST, Header(0, 0, 12), True),
        (GUEST, Header(0, 9, 12), True),
        (GUEST, Header(78, 3, 12), False),
        (GUEST, Header(78, 4, 12), "newer version"),
        (GUEST, Header(77, 3, 12), "another application"),
    ],
)
def test_what_a_header_means(kind, header, verdict):
    if isinstance(verdict, bool):
        assert kind.check(header, "/x") is verdict
    else:
        with pytest.raises(Refused, match=verdict) as caught:
            kind.check(header, "/x")
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        (apsw.SQLITE_BUSY, Trouble.LOCKED),
        (apsw.SQLITE_BUSY_SNAPSHOT, Trouble.LOCKED),
        (apsw.SQLITE_FULL, Trouble.FULL),
        (apsw.SQLITE_READONLY, Trouble.READ_ONLY),
        (apsw.SQLITE_READONLY_DBMOVED, Trouble.REPLACED),
        (apsw.SQLITE_IOERR_FSYNC, Trouble.DISK),
        (apsw.SQLITE_CORRUPT, Trouble.CORRUPT),
        (apsw.SQLITE_NOTADB, Trouble.CORRUPT),
        (apsw.SQLITE_CANTOPEN, Trouble.CANNOT_OPEN),
        (apsw.SQLITE_CONSTRAINT_UNIQUE, Trouble.STATEMENT),
        (apsw.SQLITE_ERROR, Trouble.STATEMENT),
        (-1, Trouble.STATEMENT),
    ],
)
def test_what_a_code_means(code, trouble):
    assert trouble_of(code) is trouble


@pytest.mark.parametrize("driver", [apsw.Connection, sqlite3.connect])
def test_errors_of_both_drivers_are_understood(tmp_path, driver):
    path = str(tmp_path / "x.db")
    first, second = driver(path), driver(path)
    if driver is sqlite3.connect:
        second.execute("pragma busy_timeout = 0")
    try:
        first.execute("begin immediate")
        with pytest.raises(Exception) as caught:
            second.execute("begin immediate")
        assert is_busy(caught.value)
        found = diagnose(caught.value, path, "the store")
        assert found.trouble is Trouble.LOCKED
        if lock_holder(path) is not None:
            assert f"this process itself (pid {os.getpid()})" in found.message
        with pytest.raises(Exception) as caught:
            second.execute("nonsense")
        assert diagnose(caught.value, path, "the store").trouble is Trouble.STATEMENT
    finally:
        first.close()
        second.close()


LOCKS = """\
1: POSIX  ADVISORY  READ 100 fe:00:55 123 123
2: POSIX  ADVISORY  WRITE 200 fe:00:55 120 120
2: -> POSIX  ADVISORY  WRITE 300 fe:00:55 120 120
3: FLOCK  ADVISORY  WRITE 400 fe:00:77 0 EOF
4: POSIX  ADVISORY  WRITE 500 fe:00:155 120 120
5: OFDLCK ADVISORY  READ -1 00:06:66 0 0
"""


@pytest.mark.parametrize(
    ("inode", "first", "last", "pid"),
    [(55, 120, 120, 200), (55, 121, 121, None), (155, 120, 120, 500), (77, 5, 9, 400), (66, 0, 0, None)],
)
def test_who_holds_a_lock(inode, first, last, pid):
    assert holder_in(LOCKS, inode, first, last) == pid


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/local xfs rw 0 0
//nas/share /mnt/my\\040share cifs rw 0 0
short
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib", "ext4"),
        ("/home", "nfs4"),
        ("/home/me", "nfs4"),
        ("/homestead", "ext4"),
        ("/home/local/x", "xfs"),
        ("/mnt/my share/x", "cifs"),
    ],
)
def test_on_which_file_system_a_folder_lies(folder, kind):
    assert file_system_in(MOUNTS, folder) == kind
    assert (kind in NETWORK) == (kind in ("nfs4", "cifs"))


def test_two_copies_of_sqlite_do_not_share_a_file(tmp_path):
    path = str(tmp_path / "x.db")
    one, two = hold(path, "apsw", "the store"), hold(path, "apsw", "the store")
    for held in (one, two):
        with pytest.raises(Refused, match="another copy of SQLite"):
            hold(path, "sqlite3", "the store")
        let_go(held)
    let_go(hold(path, "sqlite3", "the store"))


def test_connect_checks_before_it_changes(tmp_path):
    path = tmp_path / "x.db"
    stranger = sqlite3.connect(path)
    stranger.execute("create table t (x)")
    stranger.close()
    before = path.read_bytes()
    with pytest.raises(Refused):
        connect(str(path), "the event log", check=lambda header: KIND.check(header, str(path)))
    assert path.read_bytes() == before


def test_connect_sets_what_durability_rests_on(tmp_path):
    connection = connect(str(tmp_path / "x.db"), "the event log")
    try:
        assert connection.pragma("journal_mode") == "wal"
        assert connection.pragma("synchronous") == 2
        assert connection.pragma("fullfsync") == 1
        assert connection.pragma("wal_autocheckpoint") == 0
    finally:
        connection.close()


def busy():
    raise apsw.BusyError("locked")


def test_patience_ends_and_other_errors_need_none(monkeypatch):
    monkeypatch.setattr(apsw.BusyError, "extendedresult", apsw.SQLITE_BUSY, raising=False)

    async def main():
        calls = 0

        def third():
            nonlocal calls
            calls += 1
            return "done" if calls == 3 else busy()

        assert await patiently(third, limit=5.0) == "done"
        with pytest.raises(apsw.BusyError):
            await patiently(busy, limit=0.02)
        with pytest.raises(ZeroDivisionError):
            await patiently(lambda: 1 / 0, limit=5.0)

    asyncio.run(main())


def test_a_slow_disk_moves_commits_to_a_thread_and_back():
    pace = CommitPace(slow=0.002)
    pace.learn(10.0)
    assert not pace.threaded, "one stall alone changes nothing"
    for _ in range(50):
        pace.learn(0.004)
    assert pace.threaded
    pace.learn(0.0015)
    assert pace.threaded, "it does not waver"
    for _ in range(50):
        pace.learn(0.0002)
    assert not pace.threaded


def test_a_threaded_commit_is_finished_when_its_task_is_cancelled():
    async def main():
        pace = CommitPace()
        pace.threaded = True
        pace.learn = lambda _: None
        done = []
        task = asyncio.ensure_future(pace.run(lambda: (time.sleep(0.05), done.append(1))))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == [1]
        with pytest.raises(ZeroDivisionError):
            await pace.run(lambda: 1 / 0)
        pace.close()

    asyncio.run(main())


def test_to_the_end_gives_answers_and_errors():
    async def main():
        async def answer():
            await asyncio.sleep(0)
            return 5

        async def fail():
            await asyncio.sleep(0)
            raise KeyError("x")

        assert await to_the_end(answer()) == 5
        with pytest.raises(KeyError):
            await to_the_end(fail())

    asyncio.run(main())


def test_a_file_that_moved_is_noticed(tmp_path):
    path = tmp_path / "x.db"
    path.write_bytes(b"1")
    same = SameFile(str(path))
    assert not same.moved()
    wal = tmp_path / "x.db-wal"
    wal.write_bytes(b"")
    assert not same.moved()
    wal.unlink()
    assert same.moved()
    same = SameFile(str(path))
    path.rename(tmp_path / "y.db")
    assert same.moved()
    (tmp_path / "x.db").write_bytes(b"2")
    assert same.moved()


def test_nobody_looks_while_nobody_waits():
    async def main():
        looks = 0

        def look():
            nonlocal looks
            looks += 1

        watch = ChangeWatch(look, interval=0.002)
        await asyncio.sleep(0.02)
        assert looks == 0
        with watch, watch:
            while looks < 3:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        seen = looks
        await asyncio.sleep(0.02)
        assert looks == seen
        with watch:
            while looks == seen:
                await asyncio.sleep(0.001)
        watch.close()

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_the_kernels_events_make_looking_rare_and_quick(tmp_path):
    async def main():
        path = tmp_path / "x.db"
        wal = tmp_path / "x.db-wal"
        wal.write_bytes(b"")
        looks = []
        watch = ChangeWatch(lambda: looks.append(asyncio.get_running_loop().time()), path=str(path), interval=0.001)
        with watch:
            watch._told = -1000.0  # long ago
            await asyncio.sleep(0.3)
            assert len(looks) <= 10, "while nothing is written, hardly anybody looks"
            before = len(looks)
            with wal.open("ab") as file:
                file.write(b"frame")
            while len(looks) < before + 5:  # a commit can be seen only a moment after it was written
                await asyncio.sleep(0.001)
        wal.write_bytes(b"while nobody waits")
        await asyncio.sleep(0.01)
        seen = len(looks)
        with watch:
            while len(looks) == seen:
                await asyncio.sleep(0.001)
        watch.close()

    asyncio.run(main())


def test_events_that_do_not_come_are_given_up(tmp_path):
    async def main():
        (tmp_path / "x.db-wal").write_bytes(b"")
        looks = 0

        def look():
            nonlocal looks
            looks += 1
            return True  # always a change, and never an event

        watch = ChangeWatch(look, path=str(tmp_path / "x.db"), interval=0.001)
        watch._told = -1000.0
        async with asyncio.timeout(20):
            with watch:
                while looks < 50:
                    await asyncio.sleep(0.001)
        assert watch._listening is None
        watch.close()

    asyncio.run(main())


def test_checkpoints_come_by_size_and_restart_only_when_large():
    runs = []
    size = 0
    checkpointer = Checkpointer(runs.append, lambda: size, passive=100, restart=300)

    def consider(bytes_now):
        nonlocal size
        size = bytes_now
        checkpointer.consider()
        if checkpointer._work is not None:
            checkpointer._work.result(10)
        found, runs[:] = list(runs), []
        return found

    assert consider(50) == []
    assert consider(120) == ["PASSIVE"]
    assert consider(130) == [], "not again before it has grown by as much"
    assert consider(230) == ["PASSIVE"]
    assert consider(10) == [], "the file was begun anew"
    assert consider(110) == ["PASSIVE"]
    assert consider(400) == ["PASSIVE", "RESTART"]
    checkpointer.close()


def test_a_checkpoint_that_fails_is_remembered_and_harms_nobody():
    def fail(_mode):
        raise OSError("no disk")

    checkpointer = Checkpointer(fail, lambda: 1000, passive=10, restart=10_000)
    checkpointer.consider()
    checkpointer._work.result(10)
    assert str(checkpointer.trouble) == "no disk"
    checkpointer.close()


def test_the_wal_files_size_is_zero_where_there_is_none(tmp_path):
    size = wal_size(str(tmp_path / "x.db"))
    assert size() == 0
    (tmp_path / "x.db-wal").write_bytes(b"12345")
    assert size() == 5


def test_named_blocks_of_sql():
    text = "prose\n-- name: one\nselect 1\n  -- a word\n-- name: two\nselect 2\nfrom x\n"
    assert parse(text) == {"one": "select 1", "two": "select 2\nfrom x"}
    for wrong in ("-- name: a b\nselect 1", "-- name: a\n", "-- name: a\nselect 1\n-- name: a\nselect 2"):
        with pytest.raises(ValueError):
            parse(wrong)
