"""The schema of a PostgreSQL store: the tables that it needs before any migration, and migrations, under one lock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from importlib.resources import files

from evenflow.drivers.postgres.errors import PostgresError, Trouble
from evenflow.drivers.postgres.link import Link
from evenflow.errors import Refused, StatementFailed, StoreUnavailable
from evenflow.migrations import checksum, load_migrations
from evenflow.store import Applied, Migration
from evenflow.stores import migrating
from evenflow.stores.migrating import OWNER
from evenflow.stores.postgres.session import translate

_TABLES = """
create table if not exists evenflow_store (
    id text not null primary key,
    producer text not null,
    created double precision not null
);
create table if not exists evenflow_migration (
    owner text not null,
    number bigint not null,
    name text not null,
    checksum text not null,
    applied double precision not null,
    primary key (owner, number)
);
-- One row per process that uses the store. Worth nothing after a crash of the server.
create unlogged table if not exists evenflow_process (
    id text not null primary key,
    pid bigint not null,
    boot text not null,
    started bigint not null,
    groups jsonb not null,
    beat bigint not null,
    application text not null          -- the name that its sessions have in pg_stat_activity
) with (fillfactor = 50);
-- Rises when somebody has committed: for those who cannot be notified.
create unlogged table if not exists evenflow_change (
    number bigint not null
) with (fillfactor = 50);
"""
_SPLIT = re.compile(
    r"""'(?:[^'\\]|''|\\.)*' | "(?:[^"]|"")*" | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ | --[^\n]* | /\*.*?\*/ | (?P<end>;)""",
    re.DOTALL | re.VERBOSE,
)
_OURS = re.compile(r"\bevenflow_")
_INDEXED = re.compile(r" indexed by \w+")
_LEADING = re.compile(r"(?:\s+|--[^\n]*|/\*.*?\*/)*", re.DOTALL)


def own_migrations() -> list[Migration]:
    return load_migrations(files("evenflow.sql") / "migrations_postgres", OWNER, "postgres")


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def qualified(texts: Mapping[str, str], schema: str) -> dict[str, str]:
    """The statements with our tables by their full names: a search path of the user's own leads nowhere else."""
    full = f"{quoted(schema)}.evenflow_"
    return {name: _OURS.sub(lambda _: full, _INDEXED.sub("", sql)) for name, sql in texts.items()}


def lock_key(schema: str) -> int:
    """What the advisory lock of a schema is called: everybody who changes it takes this first."""
    return int.from_bytes(blake2b(f"evenflow {schema}".encode(), digest_size=8).digest(), "big", signed=True)


class PostgresSchema:
    """The tables of one store. `opening` are the texts that begin a transaction in which they are found."""

    def __init__(self, schema: str, opening: Sequence[str], wait: float, what: str) -> None:
        self.schema = schema
        self._opening = opening
        self._wait = wait
        self._what = what
        self._name = quoted(schema)

    async def identity(self, link: Link) -> str:
        """The store's id, or empty where it is not made yet."""
        if not await self._made(link):
            return ""
        rows = await link.fetch(f"select id from {self._name}.evenflow_store")
        return str(rows[0][0]) if rows else ""

    async def ready(self, link: Link, own: Sequence[Migration]) -> str:
        """The store's id where there is nothing to make and none of ours to apply, or empty: asked without the lock."""
        identity = await self.identity(link)
        return identity if identity and migrating.complete(await self.applied(link), own) else ""

    async def _made(self, link: Link) -> bool:
        ((count,),) = await link.fetch(
            "select count(*) from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace "
            "where n.nspname = $1 and c.relname in "
            "('evenflow_store', 'evenflow_migration', 'evenflow_process', 'evenflow_change')",
            (self.schema,),
        )
        return bool(count == 4)

    async def prepare(self, link: Link, new_id: str, now: float, own: Sequence[Migration]) -> str:
        """Make what is missing; the store's id. Raises `Refused`."""
        try:
            await self._lock(link)
            if not await self._made(link):
                await self._make(link, new_id, now)
            ((newest,),) = await link.fetch(
                "select coalesce(max(number), 0) from evenflow_migration where owner = $1", (OWNER,)
            )
            migrating.not_newer(newest, own, f"{link.place.words}, schema {self.schema}")
            ((identity,),) = await link.fetch("select id from evenflow_store")
            await link.control("commit")
        except PostgresError as error:
            raise self._refused(error) from error
        return str(identity)

    async def _make(self, link: Link, new_id: str, now: float) -> None:
        if not await link.fetch("select 1 from pg_catalog.pg_namespace where nspname = $1", (self.schema,)):
            await link.control(f"create schema {self._name}")
        await link.script(_TABLES)
        await link.run(
            [
                (
                    "insert into evenflow_store select $1, $1, $2 where not exists (select 1 from evenflow_store)",
                    (new_id, now),
                ),
                ("insert into evenflow_change select 0 where not exists (select 1 from evenflow_change)", ()),
            ]
        )

    def _refused(self, error: PostgresError) -> Refused:
        if error.sqlstate == "42501":
            return Refused(
                f"{self._what} at {self.schema!r} cannot be made: {error.message}",
                remedy=f"as the owner of the database: create schema {self._name} authorization the_role "
                "(or name another with ?schema=)",
            )
        if error.trouble is Trouble.STATEMENT:
            return Refused(f"{self._what} cannot be made: {error.message}", remedy=error.remedy)
        raise translate(error, self._what) from error

    async def _lock(self, link: Link) -> None:
        """Begin, and wait as long as another process changes this schema."""
        await link.control(
            *self._opening,
            "set local lock_timeout = 0",
            f"select pg_advisory_xact_lock({lock_key(self.schema)})",
            f"set local lock_timeout = {round(self._wait * 1000)}",
        )

    async def apply(self, link: Link, migration: Migration, now: float) -> bool:
        """Apply the migration in a transaction of its own if it is not applied yet. Raises `Refused`."""
        try:
            await self._lock(link)
            rows = await link.fetch(
                "select name, checksum from evenflow_migration where owner = $1 and number = $2",
                (migration.owner, migration.number),
            )
            if rows:
                migrating.unchanged(migration, *rows[0])
                await link.control("commit")
                return False
            await self._script(link, migration)
            row = (migration.owner, migration.number, migration.name, checksum(migration), now)
            await link.run([("insert into evenflow_migration values ($1, $2, $3, $4, $5)", row)])
        except PostgresError as error:
            raise translate(error, self._what) from error
        try:
            await link.control("commit")
        except PostgresError as error:
            failure = translate(error, self._what)
            raise migrating.failed(migration, failure) if isinstance(failure, StatementFailed) else failure from error
        return True

    async def _script(self, link: Link, migration: Migration) -> None:
        try:
            await link.script(migration.sql)
        except PostgresError as error:
            if error.trouble is not Trouble.STATEMENT:
                raise
            line, statement = _placed(migration.sql, error)
            raise migrating.failed_at(migration, error.message, line, statement, error.remedy) from error
        if not link.in_transaction:
            raise Refused(
                f"the migration {migration.name} of {migration.owner!r} ends the transaction that it runs in",
                remedy="take commit, rollback and begin out of it; what it did before may have been applied",
            )

    async def applied(self, link: Link) -> list[Applied]:
        """The migrations that this database has; none where it is not made yet."""
        try:
            if not await self._made(link):
                return []
            rows = await link.fetch(
                f"select owner, number, name, checksum, applied from {self._name}.evenflow_migration order by 1, 2"
            )
        except PostgresError as error:
            failure = translate(error, self._what)
            raise failure if isinstance(failure, StoreUnavailable) else Refused(str(failure)) from error
        return [Applied(*row) for row in rows]


def _placed(script: str, error: PostgresError) -> tuple[int, str]:
    """The line of the statement that failed, or of the place in it that the server names, and the statement."""
    parts = list(_statements(script))
    if error.position:
        at = error.position - 1
        start, end = next((part for part in parts if part[0] <= at < part[1]), (0, len(script)))
    else:
        start, end = parts[error.index] if 0 <= error.index < len(parts) else (0, len(script))
        at = start
    return 1 + script.count("\n", 0, at), script[start:end].strip()


def _statements(script: str) -> list[tuple[int, int]]:
    """Where the single statements of a script begin and end."""
    found, start = [], 0
    ends = [match.end() for match in _SPLIT.finditer(script) if match["end"]]
    for end in (*ends, len(script)):
        leading = _LEADING.match(script, start, end)
        begin = leading.end() if leading else start
        if script[begin:end].strip(" \t\r\n;"):
            found.append((begin, end))
        start = end
    return found
