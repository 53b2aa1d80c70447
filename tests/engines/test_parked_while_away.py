"""Ten thousand keys are parked when the engine goes away: all are tried again, in order, and healthy keys do not wait."""

import asyncio

import pytest

from evenflow import App, Event, Policy, Service, Topic, Transaction
from evenflow.errors import PublishError, StoreUnavailable
from evenflow.settings import Settings
from services.private import private_kafka, private_postgres
from tests import servers

KEYS = 10_000
SHARE = 1000
ALL = KEYS + SHARE


class Hit(Event, type="hit", topic=Topic("hits", partitions=4), key="key"):
    key: str
    number: int


def taking(folder, broken):
    sql = folder / "sql"
    sql.mkdir()
    (sql / "0001_taken.sql").write_text("create table taken (key text not null, number integer not null)")
    (sql / "0001_taken.postgres.sql").write_text(
        "create table taken (place bigint generated always as identity, key text not null, number integer not null)"
    )
    shop = Service("shop", migrations=str(sql))

    @shop.on(Hit, group="take", policy=Policy(attempts=50, first_delay=5.0, factor=1))
    async def take(hit: Hit, tx: Transaction) -> None:
        if hit.key != "healthy" and broken:
            raise ConnectionError("away")
        tx.write("insert into taken (key, number) values ($1, $2)", hit.key, hit.number)

    return App(shop)


@pytest.mark.parametrize("kind", ["kafka", "postgres"])
def test_what_is_parked_outlives_an_engine_that_goes_away(kind, tmp_path, caplog):
    servers.need(kind)
    broken = [True]
    caplog.set_level("ERROR", "evenflow")  # each retry is a line

    async def main(server):
        app = taking(tmp_path, broken)
        given = {"engine": server.url(), "folder": str(tmp_path)}
        settings = Settings.load({**given, **({"store": server.url()} if kind == "postgres" else {})}, env={})
        async with app.open(settings=settings, handle=True), asyncio.timeout(90):
            store = app._running.stores["shop"]

            async def count(what):
                try:
                    return (await store.read(f"select count(*) from {what}"))[0][0]
                except StoreUnavailable:
                    return 0

            for start in range(0, KEYS, SHARE):
                await app.publish(*[Hit(key=f"k{n}", number=1) for n in range(start, start + SHARE)])
            await app.publish(*[Hit(key=f"k{n}", number=2) for n in range(0, KEYS, KEYS // SHARE)])
            while await count("evenflow_parked") < ALL:
                await asyncio.sleep(0.1)
            server.kill()
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)
            healthy = 0
            while await count("taken where key <> 'healthy'") < ALL:
                try:
                    await app.publish(Hit(key="healthy", number=healthy + 1))
                except PublishError:
                    continue
                healthy += 1
                while await count("taken where key = 'healthy'") < healthy:
                    await asyncio.sleep(0.01)
                if healthy == 1:  # while all others fail
                    broken.clear()
            assert await count("evenflow_parked") == 0
            place = "place" if kind == "postgres" else "rowid"
            rows = await store.read(f"select key, number from taken order by {place}")
        taken = {}
        for key, number in rows:
            taken.setdefault(key, []).append(number)
        assert taken.pop("healthy") == list(range(1, healthy + 1))
        assert taken == {f"k{n}": [1, 2] if n % (KEYS // SHARE) == 0 else [1] for n in range(KEYS)}

    with private_kafka() if kind == "kafka" else private_postgres() as server:
        asyncio.run(main(server))
