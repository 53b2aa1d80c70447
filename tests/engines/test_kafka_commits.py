"""What Kafka keeps of groups is asked for and told while connections come and go: the process lives, and knows it then.

With the library's client for administrators this ended the process (an assertion in librdkafka; found by tests/crash).
"""

from __future__ import annotations

import asyncio
import random

from evenflow.clock import SystemClock
from evenflow.engine import Partition
from evenflow.errors import EvenflowError
from evenflow.places import make_engine
from evenflow.topic import Topic
from tests import servers

CUTS = 12


def test_groups_are_remembered_through_cuts() -> None:
    with servers.topics() as at, servers.kafka().proxied() as proxy:
        partition, chance = Partition(f"{at.prefix}t", 1, 0), random.Random(3)

        async def ask(engine: object, group: str) -> None:
            number = 0
            while True:
                number += 1
                await engine.told(group, "store", {partition: number})
                try:
                    told = await engine.recall(group)
                except EvenflowError:
                    continue  # the connection is cut
                assert told.store == "store"

        async def cut() -> None:
            engine = make_engine(f"kafka://{proxy.address}?allow_unsafe=single", SystemClock())
            await engine.open()
            try:
                await engine.declare(Topic(partition.topic, partitions=1))
                asking = [asyncio.ensure_future(ask(engine, f"{at.prefix}g{n}")) for n in range(3)]
                for _ in range(CUTS):
                    proxy.cut()
                    await asyncio.sleep(0.1 * chance.random())
                    proxy.heal()
                    await asyncio.sleep(0.2 * chance.random())
                for each in asking:
                    each.cancel()
                assert not [
                    each
                    for each in await asyncio.gather(*asking, return_exceptions=True)
                    if type(each) is not asyncio.CancelledError
                ]
                await engine.told(f"{at.prefix}g0", "other", {partition: 10_000})
                async with asyncio.timeout(30):
                    while (told := await engine.recall(f"{at.prefix}g0")) is None or told.store != "other":
                        await asyncio.sleep(0.01)
                assert told.positions[partition] == 10_000
            finally:
                await engine.close()

        asyncio.run(cut())
