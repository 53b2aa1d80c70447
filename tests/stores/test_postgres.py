"""The store on PostgreSQL: the conformance suite, with one writer, with several, and through pgbouncer."""

import asyncio
import re
import uuid
from contextlib import asynccontextmanager
from functools import partial

import pytest

from evenflow.clock import SystemClock
from evenflow.drivers.postgres.link import Link
from evenflow.drivers.postgres.place import conninfo_of
from evenflow.stores.postgres.store import PostgresStore, PostgresStoreOptions
from evenflow.testing import store_statements
from evenflow.testing.store_suite import checks, run_check
from evenflow.testing.suite import NotApplicable
from tests import servers


def factory_of(url, **options):
    @asynccontextmanager
    async def factory():
        store = PostgresStore(conninfo_of(url, url), SystemClock(), PostgresStoreOptions(**options), name="shop")
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    return factory


def pooled(url):
    """The same database through pgbouncer, in transaction mode."""
    bouncer = servers.pgbouncer()
    return re.sub(r":\d+/", f":{bouncer.port}/", url)


KINDS = {
    "one": {"pool": 1},
    "several": {"pool": 4},
    "pooled": {"pool": 4},
}


@pytest.fixture(scope="module")
def database():
    """One database for all tests of this module: each has a schema of its own."""
    with servers.database() as url:
        yield url


CASES = [
    pytest.param(kind, check, id=f"{check.__name__}-{kind}")
    for kind in KINDS
    for check in checks()
    if kind != "one" or check.__module__ != store_statements.__name__
]


@pytest.mark.parametrize(("kind", "check"), CASES)
def test_suite(check, kind, database):
    if kind == "one" and check.__name__ == "check_units_run_in_the_order_of_asking":
        pytest.skip("units share a commit, sessions have their own: each kind keeps its order, not both together")
    url = pooled(database) if kind == "pooled" else database
    try:
        asyncio.run(run_check(check, factory_of(url, schema=f"t_{uuid.uuid4().hex}", **KINDS[kind])))
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_guards_statements_and_commit_are_one_round_trip(database, monkeypatch):
    trips = []
    real = Link._end_flush
    guard = ("select 1 from made where id = $1 for update", (0,))

    def counted(link):
        trips.append(link)
        real(link)

    async def last(number, session):
        statements = [("insert into made values ($1)", (number,))]
        assert await session.run(statements, [guard], last=True) == 1

    async def main():
        async with factory_of(database, schema=f"t_{uuid.uuid4().hex}")() as store:
            await store_statements.make(store, "create table made (id bigint primary key)")
            await store.transact(lambda session: session.run([("insert into made values ($1)", (0,))]))
            await store.transact(partial(last, 1))
            store._open.control.committed = lambda: None  # it has a connection of its own
            store._open.units._notify = lambda: None
            await asyncio.sleep(0.05)
            monkeypatch.setattr(Link, "_end_flush", counted)
            await store.transact(partial(last, 2))
            monkeypatch.undo()
            assert len(trips) == 1
            assert await store.read("select count(*) from made") == [(3,)]

    asyncio.run(main())
