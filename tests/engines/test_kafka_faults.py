"""Brokers that go away and come back: by itself, without loss, in order, and soon."""

import asyncio
import time

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from evenflow.clock import SystemClock
from evenflow.engine import Outcome, Partition
from evenflow.errors import EngineUnavailable
from evenflow.places import make_engine
from evenflow.testing.engine_kit import SIZE, beginning, event, reader
from evenflow.topic import Topic
from services.private import private_kafka
from tests import servers

SOON = 5.0
"""Seconds after which all is as before, once the broker is well."""


@pytest.fixture(scope="module")
def broker():
    servers.need("kafka")
    with private_kafka() as server:
        yield server


async def through(address, harm, heal, gap, deadline=20):
    """Publish and read while something happens; what is not stored is appended again, as an outbox does.

    `gap` says for how long: seconds, or a question to the producer that is asked until it says yes.
    """
    engine = make_engine(f"kafka://{address}?allow_unsafe=single&deadline={deadline}", SystemClock())
    await engine.open()
    log = await engine.declare(Topic(f"t{time.monotonic_ns()}", partitions=4))
    consumer = await reader(engine, beginning(log))
    stored, seen, stopping = [], [], asyncio.Event()
    again = {"publish": 0.0, "consume": 0.0}

    async def publish():
        number = 0
        while not stopping.is_set():
            batch = [event(number + n, f"k{n}") for n in range(20)]
            number += 20
            while batch:
                outcomes = await engine.append(log.topic, batch)
                stored.extend(each.number for each, o in zip(batch, outcomes, strict=True) if o is Outcome.STORED)
                batch = [each for each, o in zip(batch, outcomes, strict=True) if o is not Outcome.STORED]
            again["publish"] = time.monotonic()
            await asyncio.sleep(0.005)

    async def consume():
        while not (stopping.is_set() and set(stored) <= {each.number for each in seen}):
            try:
                for batch in await consumer.fetch(500, SIZE, 0.2):
                    seen.extend(batch.envelopes)
                    again["consume"] = time.monotonic()
            except EngineUnavailable:
                continue

    tasks = [asyncio.ensure_future(publish()), asyncio.ensure_future(consume())]
    async with asyncio.timeout(90):
        while len(seen) < 100:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(harm)
        if callable(gap):
            while not gap(engine._appends._producer):
                await asyncio.sleep(0.01)
        else:
            await asyncio.sleep(gap)
        await asyncio.to_thread(heal)
        healed = time.monotonic()
        while min(again.values()) < healed:
            assert time.monotonic() - healed < SOON, f"not well after {SOON} s: {again}, {healed}"
            await asyncio.sleep(0.01)
        stopping.set()
        await asyncio.gather(*tasks)
    first = {}
    for each in seen:
        first.setdefault(each.number, each.key)
    for key in {each.key for each in seen}:
        mine = [number for number, its in first.items() if its == key]
        assert mine == sorted(mine), f"the order of {key} was lost: {mine}"
    rebuilt = engine._appends._producer.rebuilt
    await engine.close()
    return rebuilt


def test_broker_killed_and_started_again(broker):
    assert asyncio.run(through(broker.address, broker.kill, broker.start, 0.5)) == 0


def test_broker_frozen_past_the_deadline(broker):
    """The producer at the end was made when no broker could be reached, and has to find out that one is back."""

    def anew_while_down(producer):
        seen.append(not producer._up.is_set())
        return producer.rebuilt > 1 and seen[-2:] == [True, True]

    seen = []
    assert asyncio.run(through(broker.address, broker.freeze, broker.thaw, anew_while_down, deadline=4)) >= 2


def test_connections_cut_and_half_open(broker):
    with broker.proxied() as proxy:
        asyncio.run(through(proxy.address, proxy.cut, proxy.heal, 1.0))
        asyncio.run(through(proxy.address, proxy.forget, proxy.heal, 0.5))


def test_connections_that_are_forgotten_on_the_way_for_ever(broker):
    """As a firewall does: what was open brings nothing any more, and what is new works."""
    with broker.proxied() as proxy:
        asyncio.run(through(proxy.address, proxy.forget, lambda: None, 0.0))


def test_answers_that_are_lost(broker):
    with broker.proxied() as proxy:
        asyncio.run(through(proxy.address, lambda: proxy.swallow(up=False), proxy.heal, 6.0, deadline=3))


def test_leaders_are_elected_anew(broker):
    """A client that has asked for offsets goes by the epoch of the leader that it knew, and is refused for ever."""

    async def main():
        engine = make_engine(f"kafka://{broker.address}?allow_unsafe=single", SystemClock())
        await engine.open()
        log = await engine.declare(Topic(f"t{time.monotonic_ns()}", partitions=1))
        partition, admin = Partition(log.topic, 1, 0), broker.admin()
        before = await engine.bounds(partition)
        elected = await asyncio.to_thread(a_new_leader, broker, admin, log.topic)
        async with asyncio.timeout(SOON):
            assert await engine.bounds(partition) == before
        await engine.close()
        assert elected, "no leader was elected in several trials, or the library asks for its epoch by now"

    asyncio.run(main())


def a_new_leader(broker, admin, topic):
    """Freeze the broker until its lease with the controller is over. Whether a client that knew it is refused now."""
    for _ in range(6):
        said = asked(admin, topic)
        broker.freeze()
        time.sleep(2.5)  # broker.session.timeout.ms and some
        broker.thaw()
        until = time.monotonic() + 3.0
        while said is None and time.monotonic() < until:
            time.sleep(0.05)
            said = asked(admin, topic)
        if said == KafkaError.FENCED_LEADER_EPOCH:
            return True
    return False


def asked(admin, topic):
    """The code of the error that a question for the topic's end meets."""
    (future,) = admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.latest()}).values()
    try:
        future.result(10)
    except KafkaException as error:
        return error.args[0].code()
    return None
