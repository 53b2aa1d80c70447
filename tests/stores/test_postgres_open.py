"""Opening a store on PostgreSQL: what is refused, with its remedy; many at once; migrations; the check-up."""

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager

import psycopg
import pytest

from evenflow.clock import SystemClock
from evenflow.errors import Refused, SettingsError, StatementFailed, StoreUnavailable
from evenflow.places import make_store
from evenflow.drivers.postgres.errors import connect_words
from evenflow.store import Migration
from tests import servers


@asynccontextmanager
async def opened(url, service="shop"):
    store = make_store(url, service, SystemClock())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def _open(url):
    async with opened(url):
        pass


def refused(url, kind=Refused):
    with pytest.raises(kind) as caught:
        asyncio.run(_open(url))
    return str(caught.value)


def admin(url, *statements):
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def name_of(url):
    return url.rpartition("/")[2]


@pytest.mark.parametrize(
    ("setting", "words", "remedy"),
    [
        ("synchronous_commit = off", "synchronous_commit is off", "allow_unsafe=synchronous_commit"),
        ("default_transaction_read_only = on", "read_only is on", "target_session_attrs=read-write"),
    ],
)
def test_unsafe_settings_are_refused(postgres_url, setting, words, remedy):
    admin(postgres_url, f"alter database {name_of(postgres_url)} set {setting}")
    error = refused(postgres_url)
    assert words in error
    assert remedy in error


def test_what_is_allowed_is_taken(postgres_url):
    admin(postgres_url, f"alter database {name_of(postgres_url)} set synchronous_commit = off")
    asyncio.run(_open(postgres_url + "?allow_unsafe=synchronous_commit"))


def test_another_encoding_is_refused(postgres_url):
    name = name_of(postgres_url) + "_latin"
    admin(postgres_url, f"create database {name} encoding 'LATIN1' template template0 locale 'C'")
    try:
        assert "LATIN1" in refused(postgres_url.replace(name_of(postgres_url), name))
    finally:
        admin(postgres_url, f"drop database {name} with (force)")


def test_missing_rights_are_refused(postgres_url):
    plain = servers.postgres().url(name_of(postgres_url), user="evenflow_plain")
    assert 'create schema "shop" authorization "evenflow_plain"' in refused(plain)
    admin(postgres_url, "create schema shop")
    assert 'grant create, usage on schema "shop"' in refused(plain)
    admin(postgres_url, 'grant create, usage on schema "shop" to evenflow_plain')
    asyncio.run(_open(plain))


def test_a_wrong_address_is_refused_and_tells_no_password(postgres_url):
    password = servers.postgres().password
    wrong = {
        postgres_url.replace(password, "s3cret"): "password",
        postgres_url + "_x": "does not exist",
        "postgresql://evenflow:s3cret@127.0.0.1:1/shop": "cannot be reached",
    }
    for url, words in wrong.items():
        error = refused(url, Refused if "reached" not in words else StoreUnavailable)
        assert words in error
        assert "s3cret" not in error
        assert password not in error
    with pytest.raises(SettingsError, match="no URL of PostgreSQL"):
        make_store("postgresql://[h/db", "shop", SystemClock())


@pytest.mark.parametrize(
    ("option", "words"),
    [("pol=3", "did you mean pool?"), ("cache_bytes=3", "an option of an engine"), ("xyzzy=3", "and libpq's own")],
)
def test_an_option_that_nobody_has_is_told(option, words):
    with pytest.raises(SettingsError) as told:
        make_store(f"postgresql://h/db?{option}", "shop", SystemClock())
    assert repr(option.partition("=")[0]) in told.value.message
    assert words in (told.value.remedy or "")


@pytest.mark.parametrize(
    ("libpq", "words"),
    [
        (
            'connection failed: connection to server at "h", port 1 failed: FATAL:  password failed\n'
            'connection to server at "h", port 1 failed: FATAL:  password failed',
            "password failed",
        ),
        (
            'connection failed: connection to server at "h", port 1 failed: Connection refused\n'
            "\tIs the server running on that host and accepting TCP/IP connections?",
            "Connection refused",
        ),
        (
            'connection to server at "g", port 1 failed: no route\nconnection to server at "h", port 1 failed: refused',
            'connection to server at "g", port 1 failed: no route; connection to server at "h", port 1 failed: refused',
        ),
    ],
)
def test_a_reason_is_told_once(libpq, words):
    assert connect_words(libpq) == words


def test_services_of_one_database_are_apart(postgres_url):
    async def main():
        async with opened(postgres_url, "shop") as shop, opened(postgres_url, "billing-eu") as billing:
            assert shop.id != billing.id
            await shop.migrate([Migration("shop", 1, "0001_t.sql", "create table t (n int); insert into t values (1)")])
            await billing.migrate([Migration("billing-eu", 1, "0001_t.sql", "create table t (n int)")])
            assert await shop.read("select n from t") == [(1,)]
            assert await billing.read("select n from t") == []
            assert await billing.read("select count(*) from shop.t") == [(1,)]

    asyncio.run(main())


STARTER = """
import asyncio, sys
from evenflow.clock import SystemClock
from evenflow.places import make_store
from evenflow.drivers.postgres.errors import connect_words
from evenflow.store import Migration

async def main():
    store = make_store(sys.argv[1], "shop", SystemClock())
    await store.open()
    steps = [Migration("shop", n, f"{n:04}_s.sql", f"create table t{n} (id int); select pg_sleep(0.05)") for n in (1, 2)]
    done = await store.migrate(steps)
    print(store.id, len(done))
    await store.close()

asyncio.run(main())
"""


def test_ten_processes_open_at_once(postgres_url):
    started = [
        subprocess.Popen([sys.executable, "-c", STARTER, postgres_url], stdout=subprocess.PIPE, text=True)
        for _ in range(10)
    ]
    said = [each.communicate(timeout=120)[0].split() for each in started]
    assert [each.returncode for each in started] == [0] * 10
    assert len({identity for identity, _ in said}) == 1
    assert sum(int(count) for _, count in said) == 2


@pytest.mark.parametrize(
    ("sql", "line", "words"),
    [
        ("create table a (n int);\n\ninsert into a values ('x');", 3, "invalid input syntax"),
        (
            "create table a (n int primary key);\ninsert into a values (1);\n-- again\ninsert into a values (1);",
            4,
            "unique",
        ),
        ("create table a (n int);\ncreate index concurrently i on a (n);", None, "create index if not exists"),
        ("create table a (n int); commit; create table b (n int)", None, "ends the transaction"),
        ("create function f() returns int language sql as $$ select 1; $$;\nselect nonsense;", 2, "nonsense"),
    ],
)
def test_a_migration_that_fails_names_its_line(postgres_url, sql, line, words):
    async def main():
        async with opened(postgres_url) as store:
            with pytest.raises(Refused) as caught:
                await store.migrate([Migration("shop", 1, "0001_a.sql", sql)])
            assert words in str(caught.value)
            assert line is None or f"0001_a.sql:{line}:" in str(caught.value)
            assert await store.migrate([Migration("shop", 1, "0001_a.sql", "select 1")])

    asyncio.run(main())


def test_the_check_up_tells_what_is_found(postgres_url):
    async def main():
        store = make_store(postgres_url, "shop", SystemClock())
        before = {each.about: each for each in await store.examine(deep=True)}
        assert before["rights"].message.endswith("(not made yet)")
        await store.open()
        try:
            found = {each.about: each for each in await store.examine(deep=True)}
        finally:
            await store.close()
        assert {each.level for each in found.values()} == {"ok"}, found
        assert {"version", "fsync", "clock", "connections", "content"} <= set(found)

    asyncio.run(main())
    lost = make_store("postgresql://evenflow@127.0.0.1:1/shop", "shop", SystemClock())
    assert [each.level for each in asyncio.run(lost.examine(deep=False))] == ["wrong"]


def test_a_statement_that_would_change_the_connection_is_refused(postgres_url):
    async def main():
        async with opened(postgres_url) as store:
            session = store.session()
            await session.begin()
            for sql in ("set search_path = public", "listen x", "discard all", "prepare transaction 'x'", "abort"):
                with pytest.raises(StatementFailed):
                    await session.execute(sql)
            await session.execute("set local statement_timeout = '20s'")
            await session.rollback()

    asyncio.run(main())


def test_the_pool_connects_as_far_as_it_needs_to(postgres_url):
    async def main():
        async with opened(postgres_url + "?pool=2") as store:
            sessions = [store.session() for _ in range(2)]
            for session in sessions:
                await session.begin()
                await session.execute("select 1")
            ((count,),) = await store.read(
                "select count(*) from pg_stat_activity where datname = current_database() and application_name like $1",
                ("evenflow shop %",),
            )
            assert count == 4
            for session in sessions:
                await session.rollback()

    asyncio.run(main())
    with pytest.raises(StoreUnavailable):
        asyncio.run(make_store(postgres_url, "shop", SystemClock()).read("select 1"))
