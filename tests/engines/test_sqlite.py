import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import apsw
import pytest

from evenflow.clock import SystemClock
from evenflow.engine import Outcome
from evenflow.engines.sqlite.engine import SqliteEngine, SqliteOptions
from evenflow.errors import EngineUnavailable, Refused
from evenflow.drivers.sqlite.file import hold, let_go
from evenflow.testing import engine_suite
from evenflow.testing.engine_kit import beginning, event, events, numbers, reader, store, take
from evenflow.topic import Topic
from tests.engines.children import process, said


class Log:
    """A factory of engines on one file."""

    def __init__(self, path, **options):
        self.path = str(path)
        self.options = SqliteOptions(**options)

    @asynccontextmanager
    async def __call__(self):
        engine = SqliteEngine(self.path, SystemClock(), self.options)
        await engine.open()
        try:
            yield engine
        finally:
            await engine.close()

    async def wipe(self):
        for end in ("", "-wal", "-shm"):
            Path(self.path + end).unlink(missing_ok=True)


@pytest.mark.parametrize("check", engine_suite.checks(), ids=lambda check: check.__name__)
def test_promise(check, tmp_path):
    asyncio.run(engine_suite.run_check(check, Log(tmp_path / "log.db")))


# Files that cannot be used.


def refusal(path):
    async def main():
        async with Log(path, lock_limit=0.2)():
            pass

    with pytest.raises(Refused) as caught:
        asyncio.run(main())
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    return str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "log.db"
    path.write_bytes(b"these are the notes of a summer, and no database at all\n" * 200)
    before = path.read_bytes()
    assert "no SQLite database" in refusal(path)
    assert path.read_bytes() == before


def test_a_database_of_another_application_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "log.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table notes (text)")
    connection.close()
    before = path.read_bytes()
    assert "another application" in refusal(path)
    assert path.read_bytes() == before


def test_a_file_of_a_newer_version_is_refused(tmp_path):
    async def make():
        async with Log(tmp_path / "log.db")() as engine:
            await engine.declare(Topic("t", partitions=1))

    asyncio.run(make())
    connection = apsw.Connection(str(tmp_path / "log.db"))
    connection.pragma("user_version", 99)
    connection.close()
    text = refusal(tmp_path / "log.db")
    assert "newer version of Evenflow (format 99" in text


def test_a_file_of_the_format_before_is_brought_up(tmp_path):
    async def main():
        log = Log(tmp_path / "log.db")
        async with log() as engine:
            await engine.declare(Topic("t", partitions=1))
            await store(engine, "t", events(range(3)))
        connection = apsw.Connection(log.path)
        connection.execute("alter table evenflow_topics drop column goes_on")
        connection.pragma("user_version", 1)
        connection.close()
        async with log() as engine, log() as other:
            assert (await engine.log("t")).sealed is False
            await engine.seal("t", "there")
            assert (await other.log("t")).goes_on == "there"
            assert numbers(await take(await reader(engine, beginning(await engine.log("t"))), 3)) == [0, 1, 2]

    asyncio.run(main())


def test_a_path_that_is_a_folder_or_has_none_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    assert "is not a file" in refusal(tmp_path / "folder")
    assert "cannot be made" in refusal(tmp_path / "nowhere" / "at all" / "log.db")


def test_a_read_only_folder_is_refused():
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o555)
        with process("open_as_nobody", folder / "log.db") as child:
            words = " ".join(said(child, "refused"))
        assert "read-only" in words
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_read_only_file_is_refused():
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "log.db").touch()
        (folder / "log.db").chmod(0o444)
        folder.chmod(0o777)
        with process("open_as_nobody", folder / "log.db") as child:
            words = " ".join(said(child, "refused"))
        assert "log.db is read-only" in words
    finally:
        shutil.rmtree(folder)


def test_a_network_file_system_is_refused_unless_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr("evenflow.drivers.sqlite.diagnosis.file_system", lambda _: "nfs4")
    text = refusal(tmp_path / "log.db")
    assert "nfs4" in text and "allow_unsafe=network" in text

    async def allowed():
        async with Log(tmp_path / "log.db", allow_unsafe=frozenset({"network"}))() as engine:
            await engine.declare(Topic("t", partitions=1))

    asyncio.run(allowed())


def test_a_file_that_sqlite3_has_open_in_this_process_is_refused(tmp_path):
    path = tmp_path / "log.db"
    held = hold(str(path), "sqlite3", "the store")
    try:
        assert "another copy of SQLite" in refusal(path)
    finally:
        let_go(held)


def test_what_is_damaged_inside_is_named_and_the_process_lives(tmp_path):
    async def main():
        log = Log(tmp_path / "log.db")
        async with log() as engine:
            made = await engine.declare(Topic("t", partitions=1))
            for start in range(0, 3000, 100):
                await store(engine, "t", [event(n, data=b"x" * 300) for n in range(start, start + 100)])
        with open(log.path, "r+b") as file:
            file.seek(4096 * 6)
            file.write(b"\xff" * 4096 * 20)
        async with log() as engine:
            consumer = await reader(engine, beginning(made))
            with pytest.raises(EngineUnavailable, match="damaged"):
                while await consumer.fetch(1000, 1 << 20, 0.0):
                    pass

    asyncio.run(main())


# Trouble while it is open.


def test_a_lock_held_by_another_process_refuses_with_its_pid_and_ends_by_itself(tmp_path):
    async def main():
        async with Log(tmp_path / "log.db", lock_limit=0.3)() as engine:
            log = await engine.declare(Topic("t", partitions=1))
            await store(engine, "t", events([0]))
            with process("lock", engine.path) as child:
                said(child, "locked")
                ticks = 0

                async def tick():
                    nonlocal ticks
                    while True:
                        await asyncio.sleep(0.005)
                        ticks += 1

                ticking = asyncio.ensure_future(tick())
                assert await engine.append("t", events([1])) == [Outcome.REFUSED]
                ticking.cancel()
                assert f"process {child.pid}" in engine.trouble
                assert "log_process.py" in engine.trouble
                assert f"kill {child.pid}" in engine.trouble
                assert ticks >= 5, "the event loop stood still while the file was locked"
                consumer = await reader(engine, beginning(log))
                assert numbers(await take(consumer, 1)) == [0], "reading goes on meanwhile"
                child.send_signal(signal.SIGSTOP)
                assert await engine.append("t", events([1])) == [Outcome.REFUSED], "a frozen one holds it as well"
            await store(engine, "t", events([2]))
            assert engine.trouble == ""
            assert numbers(await take(consumer, 1)) == [2]

    asyncio.run(main())


def test_a_locked_file_is_refused_at_open_with_the_pid(tmp_path):
    path = tmp_path / "log.db"
    with process("lock", path) as child:
        said(child, "locked")
        assert f"process {child.pid}" in refusal(path)


@contextmanager
def small_disk(kilobytes):
    folder = tempfile.mkdtemp()
    mounted = os.getuid() == 0 and shutil.which("mount") is not None
    mounted = mounted and (
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", folder], capture_output=True)
        .returncode
        == 0
    )  # fmt: skip
    try:
        if not mounted:
            pytest.skip("making a small disk needs the right to mount one")
        yield Path(folder)
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)
        os.rmdir(folder)


def fill_until_refused(path, make_full, make_room):
    async def main():
        stored = 0
        async with Log(path)() as engine:
            log = await engine.declare(Topic("t", partitions=2))
            make_full(engine)
            for batch in range(1000):
                sent = [event(batch * 10 + n, slot=n, data=os.urandom(500)) for n in range(10)]
                answers = await engine.append("t", sent)
                assert len(set(answers)) == 1, "an append is stored whole or not at all"
                if answers[0] is not Outcome.STORED:
                    break
                stored += 10
            assert answers[0] is Outcome.REFUSED
            assert "disk is full" in engine.trouble
            assert numbers(await take(await reader(engine, beginning(log)), stored))
            make_room(engine)
            await store(engine, "t", [event(10**6, slot=0)])
            assert engine.trouble == ""
        async with Log(path)() as engine:
            got = numbers(await take(await reader(engine, beginning(log)), stored + 1))
            assert sorted(got) == [*range(stored), 10**6]

    asyncio.run(main())


def test_a_full_disk_refuses_and_loses_nothing():
    with small_disk(2048) as folder:
        ballast = folder / "ballast"
        ballast.write_bytes(b"x" * 500_000)
        fill_until_refused(folder / "log.db", lambda _: None, lambda _: ballast.unlink())


def test_a_file_at_its_limit_refuses_and_loses_nothing(tmp_path):
    def limit(pages):
        return lambda engine: engine._file._writing.pragma("max_page_count", pages)

    fill_until_refused(tmp_path / "log.db", limit(100), limit(100_000))


def replace(path):
    shutil.copy(path, path + ".copy")
    os.replace(path + ".copy", path)


@pytest.mark.parametrize(
    "change", [os.unlink, replace, lambda path: os.unlink(path + "-wal")], ids=["deleted", "replaced", "wal"]
)
def test_a_file_that_is_taken_away_stops_reading_and_writing(tmp_path, change):
    async def main():
        async with Log(tmp_path / "log.db")() as engine:
            log = await engine.declare(Topic("t", partitions=1))
            await store(engine, "t", events([0]))
            consumer = await reader(engine, beginning(log))
            await take(consumer, 1)
            waiting = asyncio.ensure_future(consumer.fetch(10, 1000, None))
            await asyncio.sleep(0)
            change(engine.path)
            async with asyncio.timeout(15):
                with pytest.raises(EngineUnavailable, match="deleted or replaced"):
                    await waiting
            assert await engine.append("t", events([1])) == [Outcome.REFUSED]
            assert "deleted or replaced" in engine.trouble
            with pytest.raises(EngineUnavailable, match="deleted or replaced"):
                await engine.bounds(log.partitions(1)[0])

    asyncio.run(main())


def test_a_closed_engine_says_so(tmp_path):
    async def main():
        async with Log(tmp_path / "log.db")() as engine:
            log = await engine.declare(Topic("t", partitions=1))
            consumer = await reader(engine, beginning(log))
            waiting = asyncio.ensure_future(consumer.fetch(10, 1000, None))
            await asyncio.sleep(0)
        with pytest.raises(EngineUnavailable, match="closed"):
            await waiting
        assert await engine.append("t", events([1])) == [Outcome.REFUSED]
        assert "closed" in engine.trouble
        await engine.close()

    asyncio.run(main())


def test_one_bad_envelope_fails_alone(tmp_path):
    async def main():
        async with Log(tmp_path / "log.db")() as engine:
            log = await engine.declare(Topic("t", partitions=1))
            bad = event(1, data={1, 2}.__iter__())
            good = [engine.append("t", events([n])) for n in (0, 2)]
            answers = await asyncio.gather(good[0], engine.append("t", [bad]), good[1], return_exceptions=True)
            assert answers[0] == answers[2] == [Outcome.STORED]
            assert isinstance(answers[1], TypeError)
            assert numbers(await take(await reader(engine, beginning(log)), 2)) == [0, 2]

    asyncio.run(main())


def test_appends_of_one_moment_share_one_transaction(tmp_path):
    async def main():
        async with Log(tmp_path / "log.db")() as engine:
            await engine.declare(Topic("t", partitions=1))
            commits = 0
            commit = engine._file._writer._commit

            def counted():
                nonlocal commits
                commits += 1
                commit()

            engine._file._writer._commit = counted
            await asyncio.gather(*(engine.append("t", events([n])) for n in range(500)))
            assert commits <= 2
            rows = engine._file._reading.execute("select count(*) from evenflow_packs").fetchall()
            assert rows[0][0] <= 4

    asyncio.run(main())


def test_what_is_appended_stays_in_memory_only_where_somebody_reads(tmp_path):
    async def main():
        async with Log(tmp_path / "log.db")() as engine:
            log = await engine.declare(Topic("t", partitions=1))
            cache = engine._file.reader.cache
            await engine.append("t", events([0]))
            assert cache.bytes == 0
            assert numbers(await take(await reader(engine, beginning(log)), 1)) == [0]
            read = cache.bytes
            await engine.append("t", events([1]))
            assert cache.bytes > read > 0

    asyncio.run(main())


def test_an_unknown_commit_is_not_called_refused(tmp_path):
    async def main():
        async with Log(tmp_path / "log.db")() as engine:
            log = await engine.declare(Topic("t", partitions=1))

            def fail():
                raise apsw.IOError("disk I/O error")

            writer = engine._file._writer
            commit, writer._commit = writer._commit, fail
            apsw.IOError.extendedresult = apsw.SQLITE_IOERR_FSYNC
            try:
                assert await engine.append("t", events([0])) == [Outcome.UNKNOWN]
            finally:
                del apsw.IOError.extendedresult
                writer._commit = commit
            assert "disk error" in engine.trouble
            await store(engine, "t", events([0]))
            assert numbers(await take(await reader(engine, beginning(log)), 1)) == [0]

    asyncio.run(main())


def test_a_topic_whose_declaration_was_rolled_back_is_not_remembered(tmp_path):
    async def main():
        async with Log(tmp_path / "log.db", lock_limit=0.1)() as engine:
            writer = engine._file._writer
            commit = writer._commit

            def fail():
                raise apsw.FullError("database or disk is full")

            writer._commit = fail
            apsw.FullError.extendedresult = apsw.SQLITE_FULL
            try:
                with pytest.raises(EngineUnavailable, match="disk is full"):
                    await engine.declare(Topic("t", partitions=1))
            finally:
                del apsw.FullError.extendedresult
                writer._commit = commit
            assert await engine.log("t") is None
            log = await engine.declare(Topic("t", partitions=2))
            await store(engine, "t", events([0]))
            assert numbers(await take(await reader(engine, beginning(log)), 1)) == [0]

    asyncio.run(main())


def test_who_looks_while_a_seal_is_committed_does_not_hide_it(tmp_path):
    async def main():
        async with Log(tmp_path / "log.db")() as engine:
            await engine.declare(Topic("t", partitions=1))
            writer = engine._file._writer
            writer._pace.learn = lambda _: None
            writer._pace.threaded = True
            committing = asyncio.get_running_loop().create_future()
            go_on = threading.Event()
            commit, loop = writer._commit, asyncio.get_running_loop()

            def slowly():
                loop.call_soon_threadsafe(committing.set_result, None)
                assert go_on.wait(20)
                commit()

            writer._commit = slowly
            sealing = asyncio.ensure_future(engine.seal("t", "there"))
            await committing
            engine._file._epoch += 1  # as when another process has committed something
            assert not (await engine.log("t")).sealed
            writer._commit = commit
            go_on.set()
            await sealing
            assert (await engine.log("t")).sealed
            assert await engine.append("t", events([0])) == [Outcome.REFUSED]

    asyncio.run(main())


def test_what_retention_removes_during_a_fetch_is_not_taken_for_a_gap(tmp_path):
    async def main():
        log_file = Log(tmp_path / "log.db")
        async with log_file() as engine, log_file() as other:
            log = await engine.declare(Topic("t", partitions=1, retention=1e-6))
            (part,) = log.partitions(1)
            await store(other, "t", events(range(3)))  # so that `engine` has none of them decoded
            await engine.refresh()
            assert engine.bounds_nowait(part).high == 3
            await other.maintain()
            await store(other, "t", events([3]))
            batch, _ = await engine.take(part, 0, 10, 1000)
            assert (list(batch.envelopes), batch.next) == ([], 0)
            assert engine.bounds_nowait(part).low == 3

    asyncio.run(main())


def test_commits_in_a_thread_keep_every_promise(tmp_path):
    async def main():
        async with Log(tmp_path / "log.db")() as engine, Log(tmp_path / "log.db")() as other:
            log = await engine.declare(Topic("t", partitions=2))
            engine._file._writer._pace.learn = lambda _: None
            engine._file._writer._pace.threaded = True
            consumer = await reader(engine, beginning(log))

            async def append(one, first):
                for number in range(first, first + 100):
                    await store(one, "t", [event(number, slot=number)])

            async def read():
                return numbers(await take(consumer, 200, limit=11))

            _, _, got = await asyncio.gather(append(engine, 0), append(other, 1000), read())
            assert sorted(got) == [*range(100), *range(1000, 1100)]

    asyncio.run(main())


def test_a_cancelled_append_leaves_the_engine_whole(tmp_path):
    async def main():
        async with Log(tmp_path / "log.db")() as engine:
            log = await engine.declare(Topic("t", partitions=1))
            for number in range(20):
                task = asyncio.ensure_future(engine.append("t", events([number])))
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                task.cancel()
                await store(engine, "t", events([1000 + number]))
            got = numbers(await take(await reader(engine, beginning(log)), 20))
            assert [n for n in got if n >= 1000] == list(range(1000, 1020))

    asyncio.run(main())


def test_the_wal_file_does_not_grow_for_ever(tmp_path):
    async def main():
        async with Log(tmp_path / "log.db")() as engine:
            checkpointer = engine._file._checkpointer
            checkpointer._step = checkpointer._next = 200_000
            checkpointer._restart = 800_000
            log = await engine.declare(Topic("t", partitions=1))
            total, largest = 0, 0
            while total < 12_000_000:
                await store(engine, "t", [event(n, data=b"x" * 1000) for n in range(50)])
                total += 50_000
                largest = max(largest, os.stat(engine.path + "-wal").st_size)
                if checkpointer._work is not None and total % 500_000 == 0:
                    await asyncio.wrap_future(checkpointer._work)
            assert largest < total / 2, f"{largest} bytes of WAL for {total} of events"
            assert checkpointer.trouble is None
            assert len(numbers(await take(await reader(engine, beginning(log)), 50))) >= 50

    asyncio.run(main())


# Processes.


def test_killed_at_any_moment_nothing_acknowledged_is_lost_and_nothing_is_torn(tmp_path):
    path = tmp_path / "log.db"
    stored = []
    chance = random.Random(7)
    for life in range(5):
        with process("append", path, life * 10_000, 10_000, 12) as child:
            said(child, "ready")
            for _ in range(chance.randint(1, 60)):
                stored.append(int(said(child, "stored")[1]))
            time.sleep(chance.random() * 0.002)
            child.kill()
            rest = child.stdout.read().splitlines()
            stored += [int(line.split()[1]) for line in rest if line.startswith("stored") and len(line.split()) == 3]

    async def check():
        async with Log(path)() as engine:
            log = await engine.declare(Topic("t"))
            ends = [await engine.bounds(each) for each in log.partitions(1)]
            total = sum(each.high for each in ends)
            batches = await take(await reader(engine, beginning(log)), total)
            assert len(numbers(batches)) == total, "offsets have no gap"
            counts = {}
            for batch in batches:
                for each in batch.envelopes:
                    counts[int(each.data)] = counts.get(int(each.data), 0) + 1
            assert set(counts.values()) == {12}, "an append is stored whole or not at all"
            assert set(stored) <= set(counts), "an acknowledged append is lost"
            assert len(counts) - len(stored) <= 5, "at most the append under way is there without an answer"
            for number in range(4):
                mine = [n for b in batches if b.partition.number == number for n in (e.number for e in b.envelopes)]
                assert mine == sorted(mine)

    asyncio.run(check())


def test_two_processes_append_and_a_third_sees_it_all(tmp_path):
    path = tmp_path / "log.db"

    async def make():
        async with Log(path)() as engine:
            await engine.declare(Topic("t", partitions=4))

    asyncio.run(make())
    with process("watch", path, 2 * 150 * 8) as watcher:
        said(watcher, "ready")
        with process("append", path, 0, 150, 8) as one, process("append", path, 1000, 150, 8) as two:
            out = [each.communicate(timeout=60)[0] for each in (one, two)]
        assert all("trouble" not in each and each.count("stored") == 150 for each in out)
        watcher.communicate(timeout=60)
        assert watcher.returncode == 0

    async def check():
        async with Log(path)() as engine:
            log = await engine.declare(Topic("t"))
            batches = await take(await reader(engine, beginning(log)), 2400)
            for part in log.partitions(1):
                mine = [batch for batch in batches if batch.partition == part]
                offsets = [offset for batch in mine for offset in batch.offsets]
                assert offsets == list(range(600)), "offsets have gaps or stand twice"
                for low in (0, 1_000_000):
                    own = [n for n in numbers(mine) if low <= n < low + 1_000_000]
                    assert own == sorted(own) and len(own) == 300

    asyncio.run(check())


def test_an_idle_process_sees_what_another_appends(tmp_path):
    path = tmp_path / "log.db"

    async def make():
        async with Log(path)() as engine:
            await engine.declare(Topic("t", partitions=4))

    asyncio.run(make())
    with process("watch", path, 10) as watcher:
        said(watcher, "ready")

        async def main():
            async with Log(path)() as engine:
                for number in range(10):
                    sent = time.time()
                    await store(engine, "t", [event(number, data=str(number).encode())])
                    line = await asyncio.wait_for(asyncio.to_thread(said, watcher, "seen"), 10)
                    assert int(line[1]) == number
                    assert float(line[2]) - sent < 5.0

        asyncio.run(main())
