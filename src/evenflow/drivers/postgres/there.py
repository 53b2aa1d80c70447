"""Which schemas of a database are ours. It changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from evenflow.drivers.postgres.link import Link
from evenflow.drivers.postgres.place import PostgresPlace

_SCHEMAS = """
select n.nspname, bool_or(c.relname = 'evenflow_store'), count(*) filter (where c.relname <> 'evenflow_store') = 4
from pg_catalog.pg_namespace as n join pg_catalog.pg_class as c on c.relnamespace = n.oid
where c.relkind in ('r', 'p') and c.relname in ('evenflow_store', 'format', 'topics', 'partitions', 'told')
group by n.nspname order by n.nspname
"""


class There(NamedTuple):
    """The schemas that hold a log, and those that hold a service's store."""

    logs: tuple[str, ...]
    stores: tuple[str, ...]


async def there(conninfo: Mapping[str, object]) -> There:
    """What the database has. Raises `PostgresError`."""
    link = await Link.connect(PostgresPlace(conninfo, "evenflow doctor"))
    try:
        rows = await link.fetch(_SCHEMAS)
    finally:
        link.close()
    return There(tuple(name for name, _, log in rows if log), tuple(name for name, store, _ in rows if store))
