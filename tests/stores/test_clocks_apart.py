"""Two workers whose clocks are an hour apart, and a server between them: effects once, in order, soon, and it is said."""

import asyncio
import os
import signal
import time

import pytest

from evenflow import App, Due, Event, Policy, Service, Topic, Transaction
from evenflow.clock import SystemClock
from evenflow.operate.doctor import examine
from evenflow.settings import Settings
from tests.premortem.stage import ended, in_child

HOUR = 3600.0
LEASE = 2.0
KEYS, EACH = 20, 30


class Shifted(SystemClock):
    """A clock that is wrong."""

    def __init__(self, by):
        self.now = lambda: time.time() + by


class Noted(Event, type="noted", topic=Topic("notes", partitions=4, retention=600.0), key="key"):
    key: str
    number: int


def noting(folder):
    (folder / "sql").mkdir(exist_ok=True)
    (folder / "sql" / "0001_seen.sql").write_text(
        "create table seen (place bigint generated always as identity, key text, number bigint, pid integer)"
    )
    shop = Service("shop", migrations=str(folder / "sql"), policy=Policy(attempts=20, first_delay=0.2, factor=1))
    tried = set()

    @shop.on(Noted, group="note")
    async def note(noted: Noted, tx: Transaction) -> None:
        if noted.number % 7 == 3 and noted not in tried:
            tried.add(noted)
            raise ConnectionError("the first time")
        tx.write("insert into seen (key, number, pid) values ($1, $2, $3)", noted.key, noted.number, os.getpid())

    @shop.every("tick", 0.5, missed="all")
    async def tick(due: Due, tx: Transaction) -> None:
        number = round(due.due.timestamp() * 2)
        tx.write("insert into seen (key, number, pid) values ('tick', $1, $2)", number, os.getpid())

    return App(shop, events=[Noted]), shop


def settings(url, folder):
    return Settings.load({"engine": url, "store": url, "folder": str(folder), "lease": LEASE}, env={})


@pytest.mark.parametrize("ahead_dies", [True, False])
def test_two_workers_an_hour_apart(ahead_dies, postgres_url, tmp_path):
    async def work(clock):
        app, _ = noting(tmp_path)
        async with app.running(handle=["shop"], settings=settings(postgres_url, tmp_path), clock=clock):
            await asyncio.sleep(60)

    wrong, right = in_child(lambda: work(Shifted(HOUR))), in_child(lambda: work(SystemClock()))
    dies, stays = (wrong, right) if ahead_dies else (right, wrong)
    alive = [dies, stays]

    async def main():
        app, shop = noting(tmp_path)
        async with (
            app.running(handle=(), settings=settings(postgres_url, tmp_path)) as it,
            asyncio.timeout(40),
        ):
            store = it.stores["shop"]

            async def seen():
                return await store.read("select key, number, pid from seen where key <> 'tick' order by place")

            async def publish(numbers):
                for number in numbers:
                    async with app.transaction(shop) as tx:
                        for key in range(KEYS):
                            tx.publish(Noted(key=f"k{key}", number=number))

            async def owners():
                rows = await store.read("select distinct owner from evenflow_position where owner is not null")
                pids = {each.id: each.pid for each in await store.processes()}
                return {pids.get(owner) for (owner,) in rows}

            while not {wrong, right} <= await owners():
                await asyncio.sleep(0.1)
            await publish(range(EACH))
            while len(await seen()) < KEYS * EACH:
                await asyncio.sleep(0.1)
            async with app.transaction(shop) as tx:
                tx.publish(Noted(key="due", number=0), after=0.5)
            await publish(range(EACH, 2 * EACH))
            os.kill(dies, signal.SIGKILL)
            ended(dies)
            alive.remove(dies)
            began = time.monotonic()
            while len(await seen()) < 2 * KEYS * EACH + 1:
                await asyncio.sleep(0.1)
            took = time.monotonic() - began
            rows = await seen()
            ticks = [n for (n,) in await store.read("select number from seen where key = 'tick' order by number")]
            found = [
                each async for each in examine(app_of(), settings(postgres_url, tmp_path), Shifted(HOUR), deep=False)
            ]
        clocks = [each for each in found if each.about == "clock" and each.level == "warn"]
        assert clocks and "3600" in clocks[0].message.replace(",", ""), clocks
        by = {}
        for key, number, _ in rows:
            by.setdefault(key, []).append(number)
        assert by.pop("due") == [0]
        assert by == {f"k{n}": list(range(2 * EACH)) for n in range(KEYS)}
        assert len(ticks) == len(set(ticks)) and ticks
        assert took < 20.0

    def app_of():
        return noting(tmp_path)[0]

    try:
        asyncio.run(main())
    finally:
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
            ended(pid)
