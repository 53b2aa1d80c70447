"""The disk under Kafka is full: publishing waits and says so, and goes on after room was made. Nothing is lost."""

import asyncio

import pytest

from evenflow.clock import SystemClock
from evenflow.engine import Outcome
from evenflow.errors import EngineUnavailable
from evenflow.places import make_engine
from evenflow.testing.engine_kit import SIZE, beginning, event, reader
from evenflow.topic import Topic
from services.disk import small_disk
from services.places import ServiceError
from services.private import private_kafka
from tests import servers

ROOM = 3 << 20


@pytest.fixture
def crowded():
    """A broker on a small disk, and a file there that can be removed."""
    servers.need("kafka")
    try:
        with small_disk(200) as disk, private_kafka(disk) as server:
            yield server, disk / "filler"
    except ServiceError as error:
        if "right to mount" in str(error):
            servers.refuse(str(error))
        raise


def fill(filler):
    """Leave a little room."""
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        except OSError:
            file.truncate(max(0, file.tell() - ROOM))


def test_a_full_disk_is_waited_for_and_loses_nothing(crowded):
    server, filler = crowded
    loaded = [event(n, f"k{n % 7}", data=b"%d" % n + bytes(20_000)) for n in range(400)]

    async def main():
        engine = make_engine(f"kafka://{server.address}?allow_unsafe=single&deadline=3", SystemClock())
        await engine.open()
        log = await engine.declare(Topic("t", partitions=2))
        consumer = await reader(engine, beginning(log))
        await asyncio.to_thread(fill, filler)
        waiting, stored = list(loaded), []

        async def append(most):
            some, rest = waiting[:most], waiting[most:]
            outcomes = await engine.append("t", some)
            left = [each for each, outcome in zip(some, outcomes, strict=True) if outcome is not Outcome.STORED]
            stored.extend(each.number for each in some if each not in left)
            waiting[:] = [*left, *rest]
            return left

        async with asyncio.timeout(60):
            while not await append(20):
                assert waiting, "the disk was not full"
            assert stored and engine.trouble, "it says why"
            filler.unlink()
            await asyncio.to_thread(server.restart)
            while waiting:
                await append(50)
            assert not engine.trouble
            seen = {}
            while len(seen) < len(loaded):
                try:
                    for batch in await consumer.fetch(500, SIZE, 0.2):
                        for each in batch.envelopes:
                            seen.setdefault(each.number, each)
                except EngineUnavailable:
                    continue
        for key in {each.key for each in loaded}:
            mine = [number for number, each in seen.items() if each.key == key]
            assert mine == sorted(mine)
        assert {n: each.data for n, each in seen.items()} == {each.number: each.data for each in loaded}
        await engine.close()

    asyncio.run(main())
