"""Move: a topic goes on in another engine, while publishers publish and groups handle.

The log there takes on the incarnation of the old one and counts its generations on; then the old one is sealed. Who
publishes is refused there and goes on here, with the same numbers; who reads finishes the old generations first, group
by group. Each step can be done again: a move that was broken off goes on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal

from evenflow.engine import Engine, Log, Outcome, Partition
from evenflow.envelope import Envelope
from evenflow.errors import EngineUnavailable, Refused
from evenflow.operate.finding import NotFound
from evenflow.running import Running
from evenflow.settings_sources import masked, suggestion
from evenflow.store import Store
from evenflow.topic import Topic

State = Literal["here", "begun", "moved"]
COPY_PASSES = 10
COPY_EVENTS = 2000
COPY_BYTES = 4 << 20
COPY_SILENCE = 30.0
"""Seconds that the old engine may take to give what it holds; then the move is broken off."""
COPY_REST = 500
"""Events that may be left to copy when a compacted topic is sealed: its publishers wait for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One topic that is to move.

    state  "here": all of it is in the old engine; "begun": it is sealed there, and not yet opened in the new one;
           "moved": it goes on in the new engine
    kept   offsets that the old engine keeps of it, which groups finish there
    """

    topic: Topic
    state: State
    log: Log
    kept: int


@dataclass(frozen=True, slots=True)
class MovePlan:
    """From which engine, to which, and what."""

    source: str
    target: str
    topics: tuple[Move, ...]

    @property
    def left(self) -> tuple[Move, ...]:
        """Those that have not moved."""
        return tuple(each for each in self.topics if each.state != "moved")


async def plan_move(running: Running, source: str, target: str, topics: Sequence[str] = ()) -> MovePlan:
    """What a move would do; all topics of the app that the old engine has, or these.

    `source` and `target` are URLs, or names of the settings. Raises `NotFound`, and `Refused` where one cannot move.
    """
    urls = [running.settings.engine_at(place) for place in (source, target)]
    if urls[0] == urls[1]:
        raise Refused("that is one engine, not two", remedy="name the engine to move from, and the one to move to")
    for url in urls:
        if url not in running.settings.engine_urls():
            raise Refused(
                f"the settings do not name the engine {masked(url)}",
                remedy="name both engines in the settings of every process (EVENFLOW_ENGINES__NEW=its URL), start them "
                "again, and move then: a process that knows the old one alone can publish no more",
            )
    old, new = [await running.engine_of(url) for url in urls]
    if old.capabilities.durable and not new.capabilities.durable:
        raise Refused(f"the {new.name} engine forgets what the {old.name} engine keeps", remedy="move to another one")
    found = [await _move(topic, old, new, named=bool(topics)) for topic in _chosen(running, topics)]
    return MovePlan(urls[0], urls[1], tuple(each for each in found if each is not None))


def _chosen(running: Running, names: Sequence[str]) -> list[Topic]:
    chosen = []
    for name in names:
        topic = running.topics.get(running.place(name)) or running.topics.get(name)
        if topic is None:
            known = sorted(each.name for each in running.topics.values())
            raise NotFound(f"this app has no topic {name!r}", remedy=suggestion(name, known) or ", ".join(known))
        if not topic.owned:
            raise Refused(f"the topic {name!r} is another team's", remedy="its owner moves it")
        chosen.append(topic)
    return chosen or [topic for topic in running.topics.values() if topic.owned]


async def _move(topic: Topic, old: Engine, new: Engine, *, named: bool) -> Move | None:
    log = await old.log(topic.name)
    if log is None:
        if named:
            raise NotFound(f"the topic {topic.name!r} is not in the {old.name} engine", remedy="evenflow move status")
        return None
    there = await new.log(topic.name)
    if there is not None and there.incarnation != log.incarnation:
        raise Refused(
            f"there is a topic {topic.name!r} in the {new.name} engine already, which is another log",
            remedy=f"where nobody needs it, delete it there; or: evenflow move --topic … without {topic.name}",
        )
    kept = 0
    for generation in log.generations:
        for partition in log.partitions(generation.number):
            low, high = await old.bounds(partition)
            kept += high - low
    follows = there is not None and there.generations[-1].number > log.generations[-1].number
    moved = log.sealed and bool(log.goes_on) and follows
    return Move(topic=topic, state="moved" if moved else "begun" if log.sealed else "here", log=log, kept=kept)


async def carry_out_move(running: Running, plan: MovePlan, who: str) -> AsyncGenerator[tuple[str, float]]:
    """Do what was planned; gives each topic when it has moved, with the seconds that its publishers waited at most."""
    old, new = await running.engine_of(plan.source), await running.engine_of(plan.target)
    await _remember(running, old, new)
    for each in plan.left:
        yield each.topic.name, await _carry_out(running, each.topic, plan, (old, new), who)


async def _carry_out(running: Running, topic: Topic, plan: MovePlan, engines: tuple[Engine, Engine], who: str) -> float:
    old, new = engines
    log = await old.log(topic.name)
    assert log is not None
    made = await new.declare(topic, after=log)
    copied: dict[Partition, int] = {}
    for _ in range(COPY_PASSES if topic.compacted and not log.sealed else 0):
        if await _copy(old, new, log, copied) <= COPY_REST:
            break
    began = running.clock.monotonic()
    if topic.compacted:
        log = await old.seal(topic.name)
        await _copy(old, new, log, copied)
    await old.seal(topic.name, masked(plan.target))
    took = running.clock.monotonic() - began
    note = f"{masked(plan.source)} to {masked(plan.target)}, from generation {made.generations[-1].number} on"
    args = (running.clock.now(), who, "topic move", topic.name, note)
    for store in {store.id: store for store in running.stores.values()}.values():
        await _note(store, args)
    return took


async def _note(store: Store, args: tuple[object, ...]) -> None:
    await store.transact(lambda session: session.execute(store.sql["audit_add"], args))


async def _remember(running: Running, old: Engine, new: Engine) -> None:
    """What the old engine remembers of outboxes, the new one does too, for when the old one is gone."""
    for service in running.stores:
        name = running.relay_name(service)
        told = await old.recall(name)
        if told is not None:
            await new.told(name, told.store, told.positions)


async def _copy(old: Engine, new: Engine, log: Log, copied: dict[Partition, int]) -> int:
    """Append to the new log what the old one has kept and was not copied yet, in order; how many events that were.

    It is what a group reads that begins when the old engine is gone. Others know the numbers, and take none twice.
    """
    count = 0
    consumer = old.consumer("evenflow.move")
    try:
        every = [each for one in log.generations for each in log.partitions(one.number)]
        waits = await old.backlog({each: copied.get(each, 0) for each in every})  # one question: publishers may wait
        for partition in (each for each in every if waits[each].waiting):
            low, high = await old.bounds(partition)
            offset = max(low, copied.get(partition, low))
            last = await old.read(partition, high - 1) if high > offset else None  # a log may end in what is no event
            consumer.assign(partition, offset)
            while last is not None and offset <= last[0]:
                fetched = await consumer.fetch(COPY_EVENTS, COPY_BYTES, COPY_SILENCE)
                if not fetched:
                    raise EngineUnavailable(
                        f"the {old.name} engine does not give events of {log.topic!r} that it holds: {old.trouble}",
                        remedy="give the same evenflow move once more, when it is well",
                    )
                for batch in fetched:
                    await _append(new, partition.topic, list(batch.envelopes))
                    count += len(batch.envelopes)
                    offset = batch.next
            consumer.release(partition)
            copied[partition] = max(offset, high)
    finally:
        await consumer.close()
    return count


async def _append(engine: Engine, topic: str, envelopes: list[Envelope]) -> None:
    while envelopes:
        outcomes = await engine.append(topic, envelopes)
        left = [e for e, outcome in zip(envelopes, outcomes, strict=True) if outcome is not Outcome.STORED]
        if len(left) == len(envelopes):
            raise EngineUnavailable(f"the {engine.name} engine does not take events of {topic!r}: {engine.trouble}")
        envelopes = left
