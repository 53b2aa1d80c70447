"""What can be wrong with a SQLite store's file, and with a connection that is to be joined."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from decimal import Decimal

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenflow.clock import SystemClock
from evenflow.errors import Refused, StatementFailed, StoreUnavailable, TransactionError
from evenflow.migrations import load_migrations
from evenflow.drivers.sqlite.diagnosis import NoRoom
from evenflow.stores.sqlite.store import SqliteStore
from evenflow.stores.sqlite.driver import ApswLink, Place
from evenflow.stores.sqlite.types import bound

DRIVERS = ["apsw", "sqlite3"]
MADE = "create table made (id integer primary key, word text)"
ADD = "insert into made (id, word) values ($1, $2)"


@pytest.fixture(params=DRIVERS)
def driver(request):
    return request.param


async def opened(location, driver="apsw", **options):
    store = SqliteStore(location, SystemClock(), driver=driver, **options)
    await store.open()
    return store


async def write(store, sql, *args):
    async def work(session):
        return await session.execute(sql, args)

    return await store.transact(work)


def child(code, *args):
    """A real process that runs this code and says when it is ready."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def end(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


HOLD = """
import sys, time, apsw
c = apsw.Connection(sys.argv[1]); c.set_busy_timeout(10000)
c.execute("begin immediate"); c.execute("insert into made (id, word) values (999, 'half')")
print("ready", flush=True); time.sleep(600)
"""


def test_a_lock_is_waited_for_and_its_holder_named(tmp_path, driver):
    async def go():
        store = await opened(tmp_path / "s.db", driver, wait=0.3)
        await write(store, MADE)
        process = child(HOLD, tmp_path / "s.db")
        try:
            ticks = asyncio.ensure_future(_ticks())
            started = time.monotonic()
            with pytest.raises(StoreUnavailable) as caught:
                await write(store, ADD, 1, "w")
            assert time.monotonic() - started >= 0.3
            ticks.cancel()
            assert f"process {process.pid}" in str(caught.value)
            assert (await asyncio.gather(ticks, return_exceptions=True)) and _ticks.count > 20
            with pytest.raises(StoreUnavailable, match=str(process.pid)):
                await store.session().begin()
            assert await store.read("select * from made") == []
        finally:
            end(process)
        assert await write(store, ADD, 1, "w") == 1
        await store.close()

    asyncio.run(go())


async def _ticks():
    _ticks.count = 0
    while True:
        await asyncio.sleep(0.002)
        _ticks.count += 1


def test_a_store_that_is_locked_opens_for_who_only_looks(tmp_path, driver):
    async def go():
        store = await opened(tmp_path / "s.db", driver)
        await write(store, MADE)
        await store.close()
        process = child(HOLD, tmp_path / "s.db")
        try:
            looking = await opened(tmp_path / "s.db", driver, wait=0.3)
            assert looking.id == store.id
            assert await looking.read("select count(*) from made") == [(0,)]
            with pytest.raises(StoreUnavailable, match=str(process.pid)):
                await write(looking, ADD, 1, "w")
            await looking.close()
        finally:
            end(process)

    asyncio.run(go())


def test_a_disk_that_is_full_at_the_start_is_told_apart(tmp_path, driver):
    async def go():
        await (await opened(tmp_path / "s.db", driver)).close()
        with pytest.raises(OSError, match="No space"):
            (tmp_path / "ballast").write_bytes(b"x" * (3 << 20))
        with pytest.raises(NoRoom, match="the disk is full"):
            await opened(tmp_path / "s.db", driver)

    with small_disk(tmp_path, "2m"):
        asyncio.run(go())


def test_a_frozen_holder_is_named_and_its_end_frees_the_store(tmp_path):
    async def go():
        store = await opened(tmp_path / "s.db", wait=0.2)
        await write(store, MADE)
        process = child(HOLD, tmp_path / "s.db")
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable, match=f"process {process.pid}"):
                await write(store, ADD, 1, "w")
        finally:
            waiting = asyncio.ensure_future(write(await _patient(store, tmp_path), ADD, 2, "w"))
            await asyncio.sleep(0.02)
            end(process)
        assert await waiting == 1
        assert await store.read("select id from made") == [(2,)]
        await store.close()
        await _patient.store.close()

    asyncio.run(go())


async def _patient(store, folder):
    _patient.store = SqliteStore(folder / "s.db", SystemClock(), wait=20.0)
    process_is_frozen = _patient.store._connect  # opening writes, so only connect while the file is locked
    await process_is_frozen()
    return _patient.store


DIE = """
import asyncio, sys
from evenflow.clock import SystemClock
from evenflow.stores.sqlite.store import SqliteStore
async def main():
    store = SqliteStore(sys.argv[1], SystemClock(), driver=sys.argv[2])
    await store.open()
    kept = store.session()
    await kept.begin()
    await kept.execute("insert into made (id, word) values (1, 'kept')")
    await kept.commit()
    session = store.session()
    await session.begin()
    await session.run([("insert into made (id, word) values ($1, 'x' || hex(randomblob(500)))", (n,)) for n in range(2, 20000)])
    print("ready", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def test_a_killed_process_leaves_nothing_of_its_transaction(tmp_path, driver):
    async def go():
        store = await opened(tmp_path / "s.db", driver)
        await write(store, MADE)
        end(child(DIE, tmp_path / "s.db", driver))
        assert await store.read("select id from made") == [(1,)]
        assert await write(store, ADD, 2, "after") == 1
        await store.close()
        again = await opened(tmp_path / "s.db", driver)
        assert await again.read("select id from made") == [(1,), (2,)]
        assert await again.read("pragma integrity_check") == [("ok",)]
        await again.close()

    asyncio.run(go())


MIGRATE = """
import asyncio, sys
from evenflow.clock import SystemClock
from evenflow.store import Migration
from evenflow.stores.sqlite.store import SqliteStore
async def main():
    store = SqliteStore(sys.argv[1], SystemClock())
    print("ready", flush=True)
    sys.stdin.readline()
    await store.open()
    steps = [Migration("shop", n, f"{n:04}_step.sql", f"create table t{n} (id integer); insert into t{n} values ({n})") for n in range(1, 6)]
    applied = await store.migrate(steps)
    print(store.id, *(step.number for step in applied), flush=True)
    await store.close()
asyncio.run(main())
"""


def test_ten_processes_may_start_at_once(tmp_path):
    path = tmp_path / "s.db"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", MIGRATE, path], **pipes) for _ in range(10)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 10
    assert len({line[0] for line in lines}) == 1
    assert sorted(number for line in lines for number in line[1:]) == ["1", "2", "3", "4", "5"]
    with sqlite3.connect(path) as connection:
        assert connection.execute("select count(*) from evenflow_store").fetchone() == (1,)
        assert connection.execute("select count(*) from t3").fetchone() == (1,)
    connection.close()


@contextmanager
def small_disk(folder, size):
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_nobodys_fault_and_heals(tmp_path, driver):
    async def go():
        store = await opened(tmp_path / "s.db", driver)
        await write(store, MADE)
        ballast = tmp_path / "ballast"
        ballast.write_bytes(b"x" * (2 << 20))
        with pytest.raises(StoreUnavailable, match="full"):
            for number in range(10_000):
                await write(store, ADD, number, "x" * 2000)
        before = await store.read("select count(*) from made")
        session = store.session()
        with pytest.raises(StoreUnavailable, match="full"):
            await session.begin()
            await session.run([(ADD, (n, "y" * 5000)) for n in range(20_000, 22_000)])
            await session.commit()
        await session.rollback()
        assert await store.read("select count(*) from made") == before
        ballast.unlink()
        assert await write(store, ADD, 50_000, "room") == 1
        await store.close()

    with small_disk(tmp_path, "4m"):
        asyncio.run(go())


def test_one_full_unit_fails_and_its_group_is_told(tmp_path, driver):
    async def go():
        store = await opened(tmp_path / "s.db", driver)
        await write(store, MADE)
        link = store._open.turns.link
        link.value(f"pragma max_page_count = {link.value('pragma page_count') + 20}")
        outcomes = await asyncio.gather(
            *(write(store, ADD, n, "x" * (200_000 if n == 5 else 10)) for n in range(10)), return_exceptions=True
        )
        rows = {row[0] for row in await store.read("select id from made")}
        assert {n for n, outcome in enumerate(outcomes) if outcome == 1} == rows
        assert 5 not in rows
        assert all(outcome == 1 or isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        assert await write(store, ADD, 100, "after") == 1
        await store.close()

    asyncio.run(go())


def test_a_read_only_file_is_refused(tmp_path, driver):
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    path = tmp_path / "s.db"
    path.touch()
    path.chmod(0o400)
    with pytest.raises(Refused, match="read-only"):
        asyncio.run(opened(path, driver))


def test_what_is_no_database_is_refused_and_left_alone(tmp_path, driver):
    path = tmp_path / "s.db"
    path.write_bytes(b"this is no database, " * 1000)
    with pytest.raises(Refused, match="damaged, or is no SQLite database"):
        asyncio.run(opened(path, driver))
    assert path.read_bytes() == b"this is no database, " * 1000


def test_a_missing_folder_is_named(tmp_path, driver):
    with pytest.raises(Refused, match="nowhere"):
        asyncio.run(opened(tmp_path / "nowhere" / "at" / "all" / "s.db", driver))


def test_another_applications_file_is_refused_and_left_alone(tmp_path, driver):
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as connection:
        connection.execute("pragma application_id = 77")
        connection.execute("create table theirs (x)")
    connection.close()
    with pytest.raises(Refused, match="another application"):
        asyncio.run(opened(path, driver))
    with sqlite3.connect(path) as connection:
        assert connection.execute("select name from sqlite_schema").fetchall() == [("theirs",)]
    connection.close()


def test_a_teams_own_database_becomes_a_store(tmp_path, driver):
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as connection:
        connection.execute("pragma user_version = 41")
        connection.execute("create table theirs (x)")
    connection.close()

    async def go():
        store = await opened(path, driver)
        assert await store.read("select * from theirs") == []
        assert await store.read("pragma user_version") == [(41,)]
        await store.close()
        await (await opened(path, driver)).close()

    asyncio.run(go())


def test_a_replaced_file_is_noticed_before_anything_is_written(tmp_path, driver):
    async def go():
        store = await opened(tmp_path / "s.db", driver)
        await write(store, MADE)
        for name in ("s.db", "s.db-wal", "s.db-shm"):
            (tmp_path / name).unlink()
        with pytest.raises(StoreUnavailable, match="deleted or replaced"):
            await write(store, ADD, 1, "lost")
        with pytest.raises(StoreUnavailable, match="deleted or replaced"):
            await store.session().begin()
        await store.close()

    asyncio.run(go())


def test_a_newer_evenflows_store_is_refused(tmp_path):
    async def go():
        store = await opened(tmp_path / "s.db")
        await write(store, "insert into evenflow_migration values ('evenflow', 9999, '9999_x.sql', '', 0)")
        await store.close()
        with pytest.raises(Refused, match="newer version"):
            await opened(tmp_path / "s.db")

    asyncio.run(go())


def test_two_copies_of_sqlite_never_open_one_file(tmp_path):
    async def go():
        store = await opened(tmp_path / "s.db", "apsw")
        with pytest.raises(Refused, match="another copy of SQLite"):
            await opened(tmp_path / "s.db", "sqlite3")
        await store.close()
        await (await opened(tmp_path / "s.db", "sqlite3")).close()

    asyncio.run(go())


def test_a_damaged_heartbeat_file_is_named(tmp_path):
    (tmp_path / "s.db-beats").write_bytes(b"no database " * 1000)
    with pytest.raises(Refused, match=r"heartbeat file [\s\S]* delete it") as caught:
        asyncio.run(opened(tmp_path / "s.db"))
    assert "s.db-beats" in str(caught.value)


def connection_to(path, driver, **options):
    if driver == "apsw":
        return apsw.Connection(str(path))
    return sqlite3.connect(path, **options)


def test_joining_the_teams_own_transaction(tmp_path, driver):
    async def go():
        store = await opened(tmp_path / "s.db", driver)
        await write(store, "create table paid (id integer primary key, amount numeric(12, 2))")
        theirs = connection_to(tmp_path / "s.db", driver, isolation_level=None)
        for last, kept in (("rollback", []), ("commit", [(1, Decimal("2.5")), (2, Decimal("1.25"))])):
            theirs.execute("begin")
            theirs.execute("insert into paid values (1, 2.5)")
            session = await store.join(theirs)
            await session.begin()
            await session.savepoint()
            await session.run([("insert into paid (amount, id) values ($2, $1)", (2, Decimal("1.25")))])
            await session.release()
            await session.run([("update paid set amount = amount returning id", ())])
            rows = await session.fetch("select * from paid order by id")
            await session.run([("update paid set amount = amount returning id", ())])
            assert rows == [(1, Decimal("2.5")), (2, Decimal("1.25"))]
            await session.commit()
            await session.rollback()
            assert theirs.in_transaction
            assert await store.read("select * from paid") == []
            store.changed.clear()
            waiter = store.changed.waiter()
            theirs.execute(last)
            assert await store.read("select * from paid order by id") == kept
        async with asyncio.timeout(5):
            await waiter
        with pytest.raises(TransactionError, match="is over"):
            await session.execute("insert into paid values (9, 9)")
        theirs.close()
        await store.close()

    asyncio.run(go())


def test_joining_a_legacy_connection_begins_as_it_would_itself(tmp_path):
    async def go():
        store = await opened(tmp_path / "s.db", "sqlite3")
        await write(store, MADE)
        theirs = sqlite3.connect(tmp_path / "s.db")
        theirs.row_factory = sqlite3.Row
        session = await store.join(theirs)
        await session.savepoint()
        await session.execute(ADD, (1, "one"))
        await session.release()
        assert theirs.in_transaction
        assert await session.fetch("select id, word from made") == [(1, "one")]
        theirs.rollback()
        assert await store.read("select * from made") == []
        theirs.close()
        await store.close()

    asyncio.run(go())


def test_joining_the_wrong_connection_is_refused_with_the_remedy(tmp_path, driver):
    async def go():
        store = await opened(tmp_path / "s.db", driver)
        other = "sqlite3" if driver == "apsw" else "apsw"
        wrong = connection_to(":memory:", other)
        with pytest.raises(TransactionError, match=rf"\?driver={other}"):
            await store.join(wrong)
        wrong.close()
        for path in (":memory:", tmp_path / "other.db"):
            elsewhere = connection_to(path, driver)
            elsewhere.execute("begin")
            with pytest.raises(TransactionError, match="leads to"):
                await store.join(elsewhere)
            elsewhere.close()
        idle = connection_to(tmp_path / "s.db", driver, isolation_level=None)
        with pytest.raises(TransactionError, match="not in a transaction"):
            await store.join(idle)
        idle.close()
        with pytest.raises(TransactionError, match="object cannot be joined"):
            await store.join(object())
        await store.close()

    asyncio.run(go())


def test_joining_in_memory_is_refused():
    async def go():
        store = await opened(":memory:")
        connection = apsw.Connection(":memory:")
        connection.execute("begin")
        with pytest.raises(TransactionError, match="in memory, as that of a world"):
            await store.join(connection)
        await store.close()

    asyncio.run(go())


def test_a_slow_disk_sends_commits_to_a_thread(tmp_path, driver):
    async def go():
        store = await opened(tmp_path / "s.db", driver)
        await write(store, MADE)
        store._open.turns._pace.learn(10.0)
        store._open.turns._pace.average = 1.0
        store._open.turns._pace.threaded = True
        outcomes = await asyncio.gather(*(write(store, ADD, n % 30, "w") for n in range(40)), return_exceptions=True)
        assert [outcome for outcome in outcomes if outcome == 1] == [1] * 30
        assert all(outcome == 1 or isinstance(outcome, StatementFailed) for outcome in outcomes)
        store._open.turns._pace.threaded = True
        session = store.session()
        await session.begin()
        await session.execute(ADD, (100, "w"))
        committing = asyncio.ensure_future(session.commit())
        await asyncio.sleep(0)
        committing.cancel()
        await asyncio.gather(committing, return_exceptions=True)
        assert await write(store, ADD, 101, "w") == 1
        assert len(await store.read("select * from made")) == 32
        await store.close()

    asyncio.run(go())


def test_a_statement_that_ends_the_whole_transaction_is_told(driver):
    async def go():
        store = await opened(":memory:", driver)
        await write(store, MADE)
        await write(store, ADD, 1, "one")
        session = store.session()
        await session.begin()
        await session.execute(ADD, (2, "two"))
        with pytest.raises(StatementFailed):
            await session.execute("insert or rollback into made values (1, 'again')")
        with pytest.raises(TransactionError, match="or rollback"):
            await session.execute(ADD, (3, "outside of any transaction"))
        with pytest.raises(TransactionError):
            await session.commit()
        await session.rollback()
        sql = "insert or rollback into made values (1, 'again')"
        units = [write(store, ADD, 10, "w"), write(store, sql), write(store, ADD, 11, "w")]
        outcomes = await asyncio.gather(*units, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StatementFailed, int]
        assert await store.read("select id from made") == [(1,), (11,)]
        await store.close()

    asyncio.run(go())


def test_a_value_that_does_not_fit_its_column_is_named(driver):
    async def go():
        store = await opened(":memory:", driver)
        await write(store, "create table odd (at timestamptz, ok boolean)")
        await write(store, "insert into odd values ('yesterday', 1)")
        with pytest.raises(StatementFailed, match=r"'at' is declared timestamptz and holds 'yesterday'"):
            await store.read("select * from odd")
        assert await store.read("select cast(at as text), ok from odd") == [("yesterday", True)]
        await write(store, "update odd set at = '2026-01-31 10:00:00'")
        ((at,),) = await store.read("select at from odd")
        assert at.isoformat() == "2026-01-31T10:00:00+00:00"
        await store.close()

    asyncio.run(go())


def test_types_follow_a_table_that_was_made_anew(driver):
    async def go():
        store = await opened(":memory:", driver)
        for declared, kind in (("numeric", Decimal), ("text", str), ("integer, word text", int)):
            await write(store, "drop table if exists again")
            await write(store, f"create table again (value {declared})")
            await write(store, "insert into again (value) values ('1')")
            assert type((await store.read("select * from again"))[0][0]) is kind
        await store.close()

    asyncio.run(go())


def test_units_of_one_moment_share_one_commit(tmp_path, driver):
    async def go():
        store = await opened(tmp_path / "s.db", driver)
        await write(store, MADE)
        commits = []
        pace = store._open.turns._pace
        timed = pace.timed
        pace.timed = lambda commit: commits.append(1) or timed(commit)
        await asyncio.gather(*(write(store, ADD, n, "w") for n in range(64)))
        assert len(commits) <= 8
        await store.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["0001_a.sql", "0001_b.sql"], "have the number 1: 0001_a.sql and 0001_b.sql"),
        (["first.sql"], "first.sql"),
        (["0000_a.sql"], "0000_a"),
    ],
)
def test_migrations_with_wrong_names_are_refused(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_text("select 1")
    with pytest.raises(Refused, match=words):
        load_migrations(tmp_path, "shop", "sqlite")


def test_migrations_are_loaded_by_number_with_gaps(tmp_path):
    for name in ("0010_c.sql", "0002_b.sql", "0001_a.sql", "readme.md"):
        (tmp_path / name).write_text(f"-- {name}")
    assert [each.name for each in load_migrations(tmp_path, "shop", "sqlite")] == [
        "0001_a.sql",
        "0002_b.sql",
        "0010_c.sql",
    ]
    with pytest.raises(Refused, match="does not exist"):
        load_migrations(tmp_path / "nowhere", "shop", "sqlite")


def test_a_migration_may_have_a_text_for_each_dialect(tmp_path):
    for name in (
        "0001_a.sql",
        "0002_b.sqlite.sql",
        "0002_b.postgres.sql",
        "0003_c.sql",
        "0003_c.postgres.sql",
        "0004_d.e.sql",
    ):
        (tmp_path / name).write_text(f"-- {name}")

    def names(dialect):
        return [each.name for each in load_migrations(tmp_path, "shop", dialect)]

    assert names("sqlite") == ["0001_a.sql", "0002_b.sqlite.sql", "0003_c.sql", "0004_d.e.sql"]
    assert names("postgres") == ["0001_a.sql", "0002_b.postgres.sql", "0003_c.postgres.sql", "0004_d.e.sql"]
    (tmp_path / "0005_f.postgres.sql").write_text("")
    with pytest.raises(Refused, match="no counterpart for a store that speaks sqlite") as raised:
        names("sqlite")
    assert "0005_" in raised.value.remedy
    (tmp_path / "0005_g.postgres.sql").write_text("")
    with pytest.raises(Refused, match="have the number 5"):
        names("postgres")


@pytest.mark.parametrize("number", ["1234567890.123456", "0.1234567890123456", "1E+300", "1E-300", "9999999999999999"])
def test_a_decimal_that_would_be_rounded_is_refused(number, driver):
    async def go():
        store = await opened(":memory:", driver)
        await write(store, "create table exact (value numeric)")
        with pytest.raises(StatementFailed, match="significant digits|too large or too small"):
            await write(store, "insert into exact values ($1)", Decimal(number))
        await store.close()

    asyncio.run(go())


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_that_is_accepted_comes_back_unchanged(number):
    connection = apsw.Connection(":memory:")
    connection.execute("create table exact (value numeric)")
    link = ApswLink(connection, Place(":memory:", "the store"))
    try:
        link.execute("insert into exact values ($1)", (number,))
    except StatementFailed:
        return
    ((found,),) = link.fetch("select value from exact")
    assert type(found) is Decimal
    assert found == number
    assert link.fetch("select 1 from exact where value = $1", (number,))
    connection.close()


@given(st.integers(-(2**50), 2**50), st.integers(-20, 20))
def test_a_decimal_of_fifteen_digits_is_accepted(digits, exponent):
    number = Decimal(digits).scaleb(exponent)
    assert Decimal(bound(number)) == number if len(str(abs(digits)).strip("0")) <= 15 else True
