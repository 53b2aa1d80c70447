"""The store on PostgreSQL: the conformance suite, with one writer, with several, and through pgbouncer."""

import asyncio
import re
import uuid
from contextlib import asynccontextmanager

import pytest

from evenflow.clock import SystemClock
from evenflow.postgres_place import conninfo_of
from evenflow.stores.postgres import PostgresStore, PostgresStoreOptions
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
