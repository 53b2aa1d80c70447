"""A check-up of a PostgreSQL store: what `evenflow doctor` prints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from evenflow.checkup import Finding
from evenflow.clock import Clock
from evenflow.drivers.postgres.checks import clock_finding, durability_findings, pooled
from evenflow.drivers.postgres.errors import PostgresError, connect_remedy
from evenflow.drivers.postgres.link import Link
from evenflow.drivers.postgres.place import PostgresPlace
from evenflow.errors import EvenflowError
from evenflow.stores.postgres.open import rights
from evenflow.stores.postgres.schema import quoted

LONG = 60.0
"""Seconds after which somebody's transaction is worth a word: what it has read is not vacuumed, what it locks waits."""

_LONG = """
select pid, extract(epoch from now() - xact_start)::float8, application_name, usename, state
from pg_catalog.pg_stat_activity
where datname = current_database() and xact_start < now() - make_interval(secs => $1) and pid <> pg_backend_pid()
order by xact_start limit 5
"""
_ROOM = """
select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
    (select count(*) from pg_catalog.pg_stat_activity where backend_type = 'client backend')
"""
_TABLES = """
select c.relname from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = $1 and c.relkind = 'r' and c.relname like 'evenflow\\_%' order by c.relname
"""


async def examine(
    place: PostgresPlace, schema: str, connections: int, allow_unsafe: Collection[str], clock: Clock, *, deep: bool
) -> list[Finding]:
    """Changes nothing; also before the store is made. `connections`: that one process opens."""
    try:
        link = await Link.connect(place)
    except PostgresError as error:
        remedy = error.remedy or connect_remedy(error.message)
        return [Finding("wrong", "the store", f"{place.words} cannot be reached: {error.message}", remedy)]
    try:
        found = [Finding("ok", "the store", f"{place.words}, schema {schema}")]
        found += await durability_findings(link, allow_unsafe)
        found += await rights(link, schema)
        found += [each async for each in _surroundings(link, connections, clock)]
        if deep:
            found += await _read_all(link, schema)
        return found
    except (PostgresError, EvenflowError) as error:
        return [*found, Finding("wrong", "the store", error.message, error.remedy)]
    finally:
        link.close()


async def _surroundings(link: Link, connections: int, clock: Clock) -> AsyncIterator[Finding]:
    behind = await pooled(link)
    if behind:
        yield Finding("ok", "pooler", "there is one in between: others' commits are noticed by looking, not told")
    yield await clock_finding(link, clock.now)
    ((limit, used),) = await link.fetch(_ROOM)
    room = f"{used} of {limit} are used; a process of this service opens up to {connections}"
    if not behind and used + connections > limit:
        yield Finding("warn", "connections", room, "raise max_connections, or give the stores smaller pools (?pool=)")
    else:
        yield Finding("ok", "connections", room)
    for pid, age, application, user, state in await link.fetch(_LONG, (LONG,)):
        who = f"{application or 'somebody'} (pid {pid}, user {user})"
        yield Finding(
            "warn",
            "long transaction",
            f"{who} has had a transaction open for {age:,.0f} s, now {state}",
            f"end it, or: select pg_terminate_backend({pid})",
        )


async def _read_all(link: Link, schema: str) -> list[Finding]:
    """Read every row that we keep, so that a damaged page is seen."""
    rows = 0
    tables = [name for (name,) in await link.fetch(_TABLES, (schema,))]
    for name in tables:
        table = f"{quoted(schema)}.{quoted(name)}"
        try:
            ((count, _),) = await link.fetch(
                f"select count(*), coalesce(sum(length(t::text)), 0)::float8 from {table} as t"
            )
        except PostgresError as error:
            return [Finding("wrong", "content", f"{table} cannot be read: {error.message}", "restore it from a backup")]
        rows += count
    return [Finding("ok", "content", f"{rows:,} rows in {len(tables)} tables were read")]
