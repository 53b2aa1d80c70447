"""What Kafka keeps of groups is asked for and told while connections come and go: the process lives, and knows it then.

With the library's client for administrators this ended the process (an assertion in librdkafka; found by tests/crash).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

from evenflow.clock import SystemClock
from evenflow.engine import Partition, Told
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


def test_of_a_group_only_partitions_are_asked_for_that_may_be_its_own() -> None:
    async def main() -> None:
        engines = [make_engine(f"kafka://{at.bootstrap}?allow_unsafe=single", SystemClock()) for _ in range(2)]
        teller, asker = engines
        for each in engines:
            await each.open()
        try:
            mine, other, group = f"{at.prefix}mine", f"{at.prefix}other", f"{at.prefix}g"
            await teller.declare(Topic(mine, partitions=1))
            await teller.declare(Topic(mine, partitions=2))
            await teller.declare(Topic(other, partitions=1))
            await teller.told(group, "store", {Partition(mine, 1, 0): 3, Partition(mine, 2, 1): 4})
            await teller._groups.settle()
            asked: dict[str, set[tuple[str, int]]] = {}
            commits = asker._groups._commits
            of = commits.of

            async def seen(name: str, names: Iterable[tuple[str, int]]) -> object:
                asked[name] = {*names}
                return await of(name, asked[name])

            commits.of = seen
            told = {Partition(mine, 1, 0): 3, Partition(mine, 2, 1): 4}
            assert (await asker.readers(mine)) == {group: told}
            known = {(mine, 0), (f"{mine}--2", 0), (f"{mine}--2", 1), ("evenflow--marks", 0)}
            assert asked[group] == known
            assert await asker.recall(group) == Told("store", told)
            assert known | {(other, 0)} <= asked[group]
        finally:
            for each in engines:
                await each.close()

    with servers.topics() as at:
        asyncio.run(main())
