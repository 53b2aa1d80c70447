"""What is looked at before a PostgreSQL store is used, and when a person asks how it is."""

from __future__ import annotations

from collections.abc import Collection

from evenflow.checkup import Finding
from evenflow.drivers.postgres.checks import durability_findings
from evenflow.drivers.postgres.errors import PostgresError, Trouble
from evenflow.drivers.postgres.link import Link
from evenflow.errors import Refused

_RIGHTS = """
select n.oid is not null, coalesce(has_schema_privilege(n.oid, 'create, usage'), false),
    has_database_privilege(current_database(), 'create'), current_user, current_database()
from (select 1) as one left join pg_catalog.pg_namespace as n on n.nspname = $1
"""


async def open_checks(link: Link, schema: str, allow_unsafe: Collection[str]) -> None:
    """Raise `Refused` for what a store cannot be kept on."""
    findings = [*await durability_findings(link, allow_unsafe), *await rights(link, schema)]
    wrong = [each for each in findings if each.level == "wrong"]
    if wrong:
        raise Refused(
            f"the store at {link.place.words} cannot be kept: " + "; ".join(each.message for each in wrong),
            remedy="; ".join(each.remedy for each in wrong if each.remedy),
        )


async def rights(link: Link, schema: str) -> list[Finding]:
    """Whether our tables may be made and used there."""
    ((exists, may_use, may_create, user, database),) = await link.fetch(_RIGHTS, (schema,))
    if exists and not may_use:
        return [
            Finding(
                "wrong",
                "rights",
                f"the role {user!r} may not use the schema {schema!r}, or make tables there",
                f'as its owner: grant create, usage on schema "{schema}" to "{user}"',
            )
        ]
    if not exists and not may_create:
        return [
            Finding(
                "wrong",
                "rights",
                f"the schema {schema!r} does not exist, and the role {user!r} may not make it in {database!r}",
                f'as its owner: create schema "{schema}" authorization "{user}" (or name another with ?schema=)',
            )
        ]
    return [Finding("ok", "rights", f"{user} in {database}, schema {schema}" + ("" if exists else " (not made yet)"))]


async def tells_timeline(link: Link) -> bool:
    """Whether the server says on which timeline it is: not all that are called PostgreSQL have any."""
    try:
        await link.fetch("select pg_walfile_name(pg_current_wal_lsn())")
    except PostgresError as error:
        if error.trouble is not Trouble.STATEMENT:
            raise
        return False
    return True
