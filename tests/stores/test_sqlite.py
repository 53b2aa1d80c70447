"""The store on SQLite: the conformance suite, with both drivers, on files and in memory."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from evenflow.clock import SystemClock
from evenflow.stores.sqlite.store import SqliteStore
from evenflow.testing.store_suite import checks, run_check
from evenflow.testing.suite import NotApplicable


def factory_of(location, **options):
    @asynccontextmanager
    async def factory():
        store = SqliteStore(location, SystemClock(), **options)
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    return factory


KINDS = {
    "memory": lambda folder: factory_of(":memory:"),
    "memory_sqlite3": lambda folder: factory_of(":memory:", driver="sqlite3"),
    "file": lambda folder: factory_of(folder / "store.db"),
    "file_sqlite3": lambda folder: factory_of(folder / "store.db", driver="sqlite3"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", checks(), ids=lambda check: check.__name__)
def test_suite(check, kind, tmp_path):
    try:
        asyncio.run(run_check(check, KINDS[kind](tmp_path)))
    except NotApplicable as reason:
        pytest.skip(str(reason))
