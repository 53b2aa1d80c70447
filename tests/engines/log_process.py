"""What tests of engines run in processes of their own: `python log_process.py COMMAND PATH_OR_URL ...`."""

import asyncio
import os
import sys
import time

import apsw

from evenflow.clock import SystemClock
from evenflow.engine import Outcome
from evenflow.engines.sqlite.engine import SqliteEngine
from evenflow.errors import Refused
from evenflow.places import make_engine
from evenflow.testing.engine_kit import event
from evenflow.topic import Topic


def say(*words):
    print(*words, flush=True)


def lock(path):
    connection = apsw.Connection(path)
    connection.execute("begin immediate")
    say("locked")
    sys.stdin.read()


def engine_at(place):
    return make_engine(place, SystemClock()) if "://" in place else SqliteEngine(place, SystemClock())


async def _append(path, first, count, size):
    """Batches of events that share their data, over all partitions; each batch is said when it was acknowledged."""
    engine = engine_at(path)
    await engine.open()
    await engine.declare(Topic("t", partitions=4))
    say("ready")
    for batch in range(first, first + count):
        sent = [event(batch * 1000 + n, slot=n, data=str(batch).encode()) for n in range(size)]
        answers = await engine.append("t", sent)
        if set(answers) != {Outcome.STORED}:
            say("trouble", engine.trouble)
            return
        say("stored", batch, time.time())
    await engine.close()


def append(path, first, count, size):
    asyncio.run(_append(path, int(first), int(count), int(size)))


async def _watch(path, count):
    engine = engine_at(path)
    await engine.open()
    log = await engine.declare(Topic("t"))
    consumer = engine.consumer("watch")
    for partition in log.partitions(log.generations[-1].number):
        consumer.assign(partition, 0)
    say("ready")
    seen = 0
    while seen < count:
        for batch in await consumer.fetch(1000, 1 << 20, None):
            seen += len(batch.envelopes)
            say("seen", batch.envelopes[-1].data.decode(), time.time())
    await engine.close()


def watch(path, count):
    asyncio.run(_watch(path, int(count)))


def open_as_nobody(path):
    if os.getuid() == 0:
        os.setuid(65534)

    async def main():
        engine = SqliteEngine(path, SystemClock())
        try:
            await engine.open()
        except Refused as error:
            say("refused", str(error).replace("\n", " "))
        else:
            say("opened")

    asyncio.run(main())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
