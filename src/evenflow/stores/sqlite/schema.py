"""The schema of a SQLite store: the tables that it needs before any migration, and migrations."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from evenflow.drivers.sqlite.file import KindOfFile, read_header
from evenflow.errors import StatementFailed
from evenflow.migrations import checksum, load_migrations
from evenflow.store import Applied, Migration
from evenflow.stores import migrating
from evenflow.stores.migrating import OWNER
from evenflow.stores.sqlite.driver import Link
from evenflow.stores.sqlite.text import statements

KIND = KindOfFile(what="the store", application_id=0x45764673, version=1 << 31, exclusive=False)
"""The id is "EvFs". Any version passes: `user_version` is the team's own."""

_STORE = """
create table if not exists evenflow_store (
    id text not null primary key,
    producer text not null,
    created real not null
) without rowid
"""
_MIGRATION = """
create table if not exists evenflow_migration (
    owner text not null,
    number integer not null,
    name text not null,
    checksum text not null,
    applied real not null,
    primary key (owner, number)
) without rowid
"""


def own_migrations() -> list[Migration]:
    return load_migrations(files("evenflow.sql") / "migrations_sqlite", OWNER, "sqlite")


def prepare(link: Link, path: str, new_id: str, now: float) -> str:
    """Inside a write transaction: make what is missing; the store's id. Raises `Refused` for a file of another kind."""
    fresh = KIND.check(read_header(link.fetch), path)
    if fresh:
        link.control(_STORE)
        link.control(_MIGRATION)
        if not link.value("select count(*) from evenflow_store"):
            link.execute("insert into evenflow_store values ($1, $1, $2)", (new_id, now))
        if not link.value("pragma application_id"):
            link.control(f"pragma application_id = {KIND.application_id}")
    return str(link.value("select id from evenflow_store"))


def ready(link: Link, own: Sequence[Migration], path: str) -> str:
    """The store's id where there is nothing to make and none of ours to apply, or empty: asked without the lock."""
    if KIND.check(read_header(link.fetch), path):
        return ""
    if not migrating.complete(applied(link), own):
        return ""
    return str(link.value("select id from evenflow_store") or "")


def apply(link: Link, migration: Migration, now: float) -> bool:
    """Inside a write transaction: apply the migration if it is not applied yet. Raises `Refused`."""
    rows = link.fetch(
        "select name, checksum from evenflow_migration where owner = $1 and number = $2",
        (migration.owner, migration.number),
    )
    if rows:
        migrating.unchanged(migration, *rows[0])
        return False
    link.control("pragma defer_foreign_keys = on")
    for line, statement in statements(migration.sql):
        try:
            link.execute(statement)
        except StatementFailed as error:
            place = line + _inside(error, statement)
            raise migrating.failed_at(migration, error.reason, place, statement) from error
    link.execute(
        "insert into evenflow_migration values ($1, $2, $3, $4, $5)",
        (migration.owner, migration.number, migration.name, checksum(migration), now),
    )
    return True


def _inside(error: StatementFailed, statement: str) -> int:
    """How many lines into the statement SQLite saw what is wrong; it does not always tell."""
    offset = getattr(error.__cause__, "error_offset", -1)
    return max(0, statement.encode()[: max(0, offset)].count(b"\n"))


def applied(link: Link) -> list[Applied]:
    """The migrations that this database has; none where it is not made yet."""
    if not link.value("select count(*) from sqlite_schema where name = 'evenflow_migration'"):
        return []
    rows = link.fetch("select owner, number, name, checksum, applied from evenflow_migration order by owner, number")
    return [Applied(*row) for row in rows]


def not_newer(link: Link, own: Sequence[Migration], path: str) -> None:
    """Raise `Refused` if a newer Evenflow has migrated this database."""
    newest = link.value(f"select coalesce(max(number), 0) from evenflow_migration where owner = '{OWNER}'")
    migrating.not_newer(newest, own, path)
