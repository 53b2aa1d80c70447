"""What owners and people ask of a large parking lot on PostgreSQL is found by an index."""

import asyncio

import pytest

from evenflow.clock import SystemClock
from evenflow.drivers.postgres.place import conninfo_of
from evenflow.stores.postgres.store import PostgresStore

LANES, BEHIND = 2000, 10
FILL = """
insert into evenflow_parked (group_name, topic, lane, generation, "offset", slot, partition, envelope, head, due, attempts,
    error, error_type, first_failed, failed, parked, type, fingerprint, size)
select 'g', 't', 'k' || n / 10, 1, n, n / 10 % 256, 0, '', (n % 10 = 0)::integer,
    case when n % 20 = 0 then n end, 3, 'ValueError: no', 'ValueError', 1, 1, 1, 'order', 'f' || n / 10 % 7, 300
from generate_series(0, $1::integer - 1) as n
"""
ASKED = [
    ("parked_slots", ("g", "t", 4, 1)),
    ("parked_due", ("g", "t", 5, 1e9, 200)),
    ("parked_lanes", ("g", "t", 256, 1)),
    ("parked_lane", ("g", "t", "k77", 201)),
    ("parked_firsts", ("g", "t", '["k77", "k5"]')),
    ("parked_remove", ("g", "t", "k77", 1, 770)),
    ("parked_head", ("g", "t", "k77", 1, 771, 1.0)),
    ("parked_failed", ("g", "t", "k77", 1, 770, 1.0, 2, "e", "E", "f", 1.0, 1.0)),
    ("parked_wish", ("g", "t", "k77", "redrive", 1.0)),
    ("parked_list", ("g", 100)),
    ("parked_topics", ("g", "k77")),
    ("parked_whole", ("g", "t", "k77", 100)),
    ("letters_first", ("g", 5)),
    ("letters_gather", (1, 0, "g", "t", "k1", 1e300, 100)),
    ("operation_take", (1, 200, 300, "g")),
    ("operation_wish", (1, 0, 100, "g", "redrive", 1.0)),
    ("operation_passed", (1, "g")),
    ("attempt_add", ("g", "t", "k77", 1, 770, 1.0, "h", "E", "e", "f")),
]


@pytest.fixture(scope="module")
def plans():
    from tests import servers

    async def explained(url):
        store = PostgresStore(conninfo_of(url, url), SystemClock(), name="shop")
        await store.open()
        try:
            await store.transact(lambda session: session.execute(FILL, (LANES * BEHIND,)))
            gather = store.sql["letters_gather"].replace(":filter", "true")
            await store.transact(lambda session: session.execute(gather, (1, 0, "g", "", "", 1e300, 1000)))
            await store.transact(lambda session: session.execute(store.sql["operation_take"], (1, 0, 100, "g")))
            for table in ("parked", "operation_item", "lot"):
                await store.transact(lambda session, table=table: session.execute(f"analyze evenflow_{table}"))
            found = {}
            for name, args in ASKED:
                statement = "explain " + store.sql[name].replace(":filter", "true")
                session = store.session()
                await session.begin()
                found[name] = "\n".join(row[0] for row in await session.fetch(statement, args))
                await session.rollback()
            return found, await store.read(store.sql["parked_lot"], ("g",))
        finally:
            await store.close()

    with servers.database() as url:
        return asyncio.run(explained(url))


@pytest.mark.parametrize("name", [name for name, _ in ASKED])
def test_it_is_found_by_an_index(name, plans):
    found, _ = plans
    for table in ("parked", "attempt", "operation_item"):
        assert f"Seq Scan on evenflow_{table}" not in found[name], found[name]
    assert "Index" in found[name]


def test_the_lot_is_counted_by_slots(plans):
    _, lot = plans
    assert lot == [(LANES * BEHIND, 300 * LANES * BEHIND)]
