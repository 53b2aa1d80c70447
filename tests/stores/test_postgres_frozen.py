"""An owner that is frozen in the middle of a transaction holds nobody up for longer than its lease."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psycopg
import pytest

from evenflow import App, Service
from evenflow.clock import SystemClock
from evenflow.places import make_store
from evenflow.settings import Settings
from tests.premortem.stage import ended, in_child
from tests.stores.test_postgres import pooled

CHILD = """
import asyncio, sys
from evenflow.clock import SystemClock
from evenflow.ownership import this_process
from evenflow.places import make_store

async def main():
    store = make_store(sys.argv[1], "shop", SystemClock())
    await store.open()
    await store.beat(this_process("frozen", ("shop.charge",)))
    session = store.session()
    await session.begin()
    await session.run([("update made set word = 'theirs' where id = $1", (1,))])
    print("holds", flush=True)
    await asyncio.sleep(1)
    try:
        await session.commit()
    except Exception as error:
        print(type(error).__name__, flush=True)
    print(await store.read("select word from made"), flush=True)
    await store.close()

asyncio.run(main())
"""


@contextmanager
def frozen(url):
    """A process that holds a row's lock, stopped in the middle."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, url], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "holds\n"
        os.kill(child.pid, signal.SIGSTOP)
        yield child
    finally:
        child.kill()
        child.stdout.close()
        child.wait()


@pytest.mark.parametrize("way", ["straight", "pooled"])
def test_what_a_frozen_process_holds_is_taken_from_it(postgres_url, way):
    url = pooled(postgres_url) if way == "pooled" else postgres_url

    async def main():
        store = make_store(url, "shop", SystemClock())
        await store.open()
        try:
            session = store.session()
            await session.begin()
            await session.run(
                [
                    ("create table made (id bigint primary key, word text)", ()),
                    ("insert into made values (1, 'before')", ()),
                ]
            )
            await session.commit()
            with frozen(url) as child:
                claim = asyncio.ensure_future(
                    store.transact(lambda session: session.execute("update made set word = 'ours' where id = 1"))
                )
                await asyncio.sleep(0.2)
                assert not claim.done(), "nobody held the row"
                await store.end("somebody else")
                await asyncio.sleep(0.1)
                assert not claim.done(), "another process's session was ended"
                started = time.monotonic()
                await store.end("frozen")
                assert await claim == 1
                assert time.monotonic() - started < 5
                os.kill(child.pid, signal.SIGCONT)
                assert await asyncio.to_thread(child.stdout.readline) == "StoreUnavailable\n"
                assert await asyncio.to_thread(child.stdout.readline) == "[Row(word='ours')]\n"
        finally:
            await store.close()

    asyncio.run(main())


def test_a_frozen_publisher_that_owns_nothing_holds_up_others_for_a_lease_only(postgres_url, tmp_path):
    """Nobody claims anything of it; who shares the store notices that it beats no more."""
    given = {"engine": "sqlite:///log.db", "store": postgres_url, "folder": str(tmp_path), "lease": 2.0}

    def published():
        return App(Service("shop"))

    async def freeze(app):
        async with app.open(settings=Settings.load(given, env={})), app.transaction(app.services[0]) as tx:
            await tx.execute("update made set word = 'theirs'")
            os.kill(os.getpid(), signal.SIGSTOP)
            await asyncio.sleep(60)

    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute("create schema shop")
        admin.execute("create table shop.made as select 'before' as word")
    child = in_child(lambda: freeze(published()))
    try:
        os.waitpid(child, os.WUNTRACED)

        async def main():
            app = published()
            async with app.open(settings=Settings.load(given, env={})):
                began = time.monotonic()
                async with app.transaction(app.services[0]) as tx:
                    await tx.execute("update made set word = 'ours'")
                assert time.monotonic() - began < 10.0

        asyncio.run(main())
    finally:
        os.kill(child, signal.SIGKILL)
        ended(child)
