"""The tests of the core with their stores on PostgreSQL: TEST_STORE=postgres.

What a test places in a file, a store of its own in its folder, is then a schema of its own in one database. Stores in
memory stay where they are, and so does the engine. What a test says of files themselves is for SQLite alone.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest

from evenflow import places
from evenflow.clock import Clock
from evenflow.store import Store

ON = os.environ.get("TEST_STORE") == "postgres"
SERIAL = "bigint generated always as identity primary key" if ON else "integer primary key autoincrement"
"""The type of a column that numbers its rows."""

MEMORY_SERIAL = "integer primary key autoincrement"
"""The same in a store in memory."""

files_only = pytest.mark.skipif(ON, reason="it is about the files of a SQLite store")


def store_class() -> Any:
    """The class of the stores that tests have in their folders: what a planted bug changes."""
    if ON:
        from evenflow.stores.postgres.store import PostgresStore

        return PostgresStore
    from evenflow.stores.sqlite.store import SqliteStore

    return SqliteStore


def dump(folder: Path) -> dict[str, list[str]]:
    """All that is in the stores of a folder, but for who uses them."""
    import psycopg

    found = {}
    with psycopg.connect(_url[0]) as connection:
        for file, schema in sorted(_schemas.items()):
            if folder in file.parents:
                tables = connection.execute(
                    "select tablename from pg_tables where schemaname = %s", (schema,)
                ).fetchall()
                found[str(file)] = [
                    f"{name} {row}"
                    for (name,) in sorted(tables)
                    if name not in ("evenflow_process", "evenflow_change")
                    for row in connection.execute(f'select * from "{schema}"."{name}" order by 1, 2').fetchall()  # type: ignore[arg-type]
                ]
    return found


_schemas: dict[Path, str] = {}
_url: list[str] = []
_opened = ExitStack()
_sqlite = places.STORES["sqlite"]


def begin() -> None:
    """Make the database, and have the stores in it."""
    from evenflow.drivers.postgres.place import conninfo_of
    from evenflow.stores.postgres.store import PostgresStore, PostgresStoreOptions
    from tests import servers

    url = _opened.enter_context(servers.database("core"))
    _url[:] = [url]

    def store(given: places.Url, service: str, clock: Clock) -> Store:
        if given.rest == ":memory:":
            return _sqlite(given, service, clock)
        file = Path(places._path(given)).absolute()
        schema = f"{file.stem}_{sha1(str(file).encode()).hexdigest()[:16]}"
        _schemas[file] = schema
        return PostgresStore(conninfo_of(url, url), clock, PostgresStoreOptions(schema=schema), name=service)

    places.STORES = {**places.STORES, "sqlite": store}


def end() -> None:
    """Drop the database."""
    _opened.close()
