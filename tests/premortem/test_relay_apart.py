"""A topic whose engine does not take its events holds up no other: the relay goes on with those."""

import asyncio
from contextlib import suppress

import pytest

from evenflow import App, Event, Service, Topic, Transaction, testing
from evenflow.engine import Outcome
from evenflow.engines.memory import MemoryEngine
from evenflow.errors import EvenflowError, PublishRefused

BAD, GOOD = Topic("bad", partitions=1), Topic("good", partitions=1)


class Bad(Event, type="bad", topic=BAD, key="key"):
    key: str


class Good(Event, type="good", topic=GOOD, key="key"):
    key: str


@pytest.mark.parametrize("count", [1, 120])  # 120: more rows than one look takes
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_one_topic_holds_up_no_other(count, store, monkeypatch, request):
    shop, seen, broken, append = Service("shop"), [], [True], MemoryEngine.append

    @shop.on(Good, group="good")
    async def good(event: Good, tx: Transaction) -> None:
        seen.append(event.key)

    @shop.on(Bad, group="bad")
    async def bad(event: Bad, tx: Transaction) -> None:
        seen.append(event.key)

    async def refusing(engine, topic, envelopes):
        if topic == "bad" and broken[0]:
            return [Outcome.REFUSED] * len(envelopes)
        return await append(engine, topic, envelopes)

    monkeypatch.setattr(MemoryEngine, "append", refusing)
    given = {"store": request.getfixturevalue("postgres_url")} if store == "postgres" else {}

    async def main():
        app = App(shop, events=[Good, Bad])
        async with testing.world(app, settings=given) as world:
            for n in range(count):
                async with app.transaction(shop) as tx:
                    tx.publish(Bad(key=f"b{n % 7}"))
            async with app.transaction(shop) as tx:
                tx.publish(Good(key="g"))
            for _ in range(5):
                with suppress(EvenflowError):  # it does not come to rest: events of `bad` wait
                    await world.advance(1.0)
            assert seen == ["g"]
            await asyncio.wait_for(app.publish(Good(key="g")), 5.0)  # behind what is in the outbox of its slot
            late = asyncio.create_task(app.publish(Bad(key="b0")))
            for _ in range(32):
                with suppress(EvenflowError):
                    await world.advance(1.0)
            with pytest.raises(PublishRefused, match=r"waits in its outbox for more than 30 s: .*'bad'"):
                await asyncio.wait_for(late, 5.0)
            broken[0] = False
            await world.advance(10.0)
            assert seen[:2] == ["g", "g"]
            assert seen[2:] == [f"b{n % 7}" for n in range(count)]

    asyncio.run(asyncio.wait_for(main(), 40.0))
