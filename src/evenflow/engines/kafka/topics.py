"""Topics of ours as topics of Kafka: `orders`, and when its partitions change, `orders--2`, which is read after it.

A topic that another generation follows, or that is sealed, is closed to everybody: Kafka refuses each record that is
larger than `max.message.bytes`, and that is set to nothing. Only when every partition has been seen to refuse, the next
topic is made. So nobody who has not heard of it can append behind a group that has gone on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evenflow.engine import Generation, Log, Partition
from evenflow.engines.generations import due_generation
from evenflow.engines.kafka.client import ASK, Client, Found, administration
from evenflow.engines.kafka.marks import MARKS, Made, Mark, Marks
from evenflow.engines.kafka.peek import Missing, Name, Peek
from evenflow.engines.kafka.records import Place
from evenflow.engines.log_consumer import no_such_partition, no_such_topic
from evenflow.errors import EngineUnavailable, Refused
from evenflow.topic import Topic

VISIBLE = 15.0
"""Seconds within which a topic that was made can be used."""
DAY = 86_400_000
SIZE = "max.message.bytes"
ENDS_ONLY, CLOSED = 80, 0
"""The largest batch that a topic takes which is being closed, and one that is. Of the first size are the marks that end
a transaction, and nearly nothing else: where they are refused, it is open for ever, and nobody reads past it."""

_KEPT = ("cleanup.policy", "retention.ms", "retention.bytes")
"""What decides which events are kept."""

UNDECLARED = Topic("undeclared")
"""What is known of a topic that was only looked at, whatever its name."""

log = logging.getLogger("evenflow")

Probe = Callable[[str, int], Awaitable[bool]]
"""Whether a partition of a topic (by its name on Kafka) refuses records."""


@dataclass(frozen=True, slots=True)
class State:
    """A topic as it was found: `last` is the name of what is appended to."""

    log: Log
    made: tuple[Made, ...]
    mark: Mark | None
    declared: Topic
    places: Mapping[Partition, Place]

    @property
    def last(self) -> str:
        return self.made[-1].name

    @property
    def ours(self) -> bool:
        """Whether Evenflow has made it. What others have made is used, and never configured or closed by itself."""
        return self.mark is not None and self.mark.ours


class Topics:
    """What is known of topics, and how one is made."""

    def __init__(self, client: Client, marks: Marks, peek: Peek, probe: Probe) -> None:
        self._client = client
        self._marks = marks
        self._peek = peek
        self._probe = probe
        self._known: dict[str, State] = {}
        self._declared: dict[str, Topic] = {}

    # -- what there is ------------------------------------------------------------------------------------------------

    async def log(self, topic: str) -> Log | None:
        """The topic as it stands now, or None."""
        state = await self._look(topic)
        return None if state is None else state.log

    async def names(self) -> list[str]:
        """All topics: of ours without their later generations, and without what only brokers and we need."""
        listed = await self._client.listed()
        marked = await self._marks.names()
        ours = {marked.get(name, (name, 1))[0] for name in listed}
        return sorted(each for each in ours if each != MARKS and not each.startswith("__"))

    async def state(self, topic: str) -> State:
        """The topic as it was when last looked at. Raises `Refused` when there is none."""
        state = self._known.get(topic) or await self._look(topic)
        if state is None:
            raise no_such_topic(topic)
        return state

    async def place(self, partition: Partition, *, again: bool = False) -> Place:
        """Where a partition is. `again`: look whether that is still so. Raises `GroupStopped` when it is nowhere."""
        known = self._known.get(partition.topic)
        state = known if known is not None and not again else await self._look(partition.topic)
        found = None if state is None else state.places.get(partition)
        if found is None and state is known:  # it may be new
            state = await self._look(partition.topic)
            found = None if state is None else state.places.get(partition)
        if found is None:
            raise no_such_partition(partition)
        return found

    async def name_of(self, partition: Partition) -> str:
        """The topic of Kafka that this partition is of."""
        known = self._known.get(partition.topic) or await self._look(partition.topic)
        place = None if known is None else known.places.get(partition)
        return partition.topic if place is None else place.topic

    async def partitions(self, topic: str | None = None) -> dict[Name, Partition]:
        """By where they are on Kafka, the partitions of one topic; or of all that were looked at or are remembered."""
        if topic is not None:
            state = await self._look(topic)
            states, found = [] if state is None else [state], {}
        else:
            states, marks = list(self._known.values()), await self._marks.all()
            found = {
                (made.name, number): Partition(name, made.number, number)
                for name, mark in marks.items()
                for made in mark.generations
                for number in range(made.partitions)
            }
        known = [place for state in states for place in state.places.values()]
        return found | {(place.topic, place.partition.number): place.partition for place in known}

    async def _look(self, topic: str) -> State | None:
        mark = await self._marks.of(topic)
        names = [topic] if mark is None else [each.name for each in mark.generations]
        found = await self._client.described(names)
        if mark is None and found:  # who makes a topic remembers it before: it may have been made meanwhile
            mark = await self._marks.of(topic)
        if mark is not None and not _is_of(mark, found):
            mark = None
        made = _generations(topic, mark, found)
        if not made:
            self._known.pop(topic, None)
            return None
        incarnation = made[0].id if mark is None else mark.incarnation or made[0].id
        found_log = Log(topic, incarnation, tuple(Generation(each.number, each.partitions) for each in made))
        if mark is not None:
            found_log = replace(found_log, sealed=mark.sealed, goes_on=mark.goes_on)
        declared = self._declared.get(topic, UNDECLARED)
        places = {
            partition: Place(partition, each.name, each.id, declared)
            for each in made
            for partition in found_log.partitions(each.number)
        }
        state = self._known[topic] = State(found_log, made, mark, declared, places)
        return state

    async def config(self, name: str) -> Mapping[str, str]:
        """The configuration of a topic, by its name on Kafka."""
        resource = administration.ConfigResource(administration.ResourceType.TOPIC, name)
        (future,) = self._client.admin.describe_configs([resource], request_timeout=ASK).values()
        found: Mapping[str, Any] = await self._client.ask(future, f"how is the topic {name!r} configured")
        return {each.name: each.value for each in found.values()}

    # -- what is made -------------------------------------------------------------------------------------------------

    async def declare(self, topic: Topic, after: Log | None) -> Log:
        """See `Engine.declare`."""
        self._declared[topic.name] = topic
        state = await self._look(topic.name)
        if state is not None:
            self._check_grown(state)
        if topic.partitions is None:
            if state is None:
                raise no_such_topic(topic.name)
            await self._remember(state)
            return state.log
        wanted = self._facts(topic)
        due = due_generation(None if state is None else state.log, topic.partitions, after)
        if due is None:
            assert state is not None
            await self._keep_facts(state, wanted)
            await self._remember(state)
            return state.log
        if state is not None:
            if not state.ours:  # its writers, whoever they are, would be refused from now on
                have = state.made[-1].partitions
                raise Refused(
                    f"somebody else has made the topic {topic.name!r}, with partitions={have}, not {topic.partitions}",
                    remedy=f"if it is another team's, write Topic({topic.name!r}); if it was made for you, declare "
                    f"partitions={have}; or give yours another name (topics.{topic.name}.name in the settings)",
                )
            await self._close(state)
        return await self._make(topic.name, state, due, "" if after is None else after.incarnation, wanted)

    async def _remember(self, state: State) -> None:
        """Remember a topic as it is now, so that what somebody does to it by hand is noticed."""
        if state.mark is not None and state.mark.generations == state.made:
            return
        known = state.log
        mark = Mark(known.incarnation, state.made, ours=state.ours, sealed=known.sealed, goes_on=known.goes_on)
        try:
            await self._marks.put(known.topic, mark)
        except Refused as error:  # we may only read here
            log.info("Kafka does not remember how the topic %r is: %s", known.topic, error.message)

    async def _make(
        self, topic: str, state: State | None, due: Generation, incarnation: str, config: Mapping[str, str]
    ) -> Log:
        """Make a generation. It is remembered before, so that a second attempt finds what this one leaves behind."""
        before = () if state is None else state.made
        name = topic if state is None else f"{topic}--{due.number}"
        new = Made(due.number, name, "", due.partitions)
        known = incarnation or ("" if state is None else state.log.incarnation)
        await self._marks.put(topic, Mark(known, (*before, new), ours=True))
        copies = await self._client.copies()
        settings = {**config, "min.insync.replicas": str(2 if copies > 2 else 1)}
        await self._client.make_topic(name, due.partitions, copies, settings)
        until = asyncio.get_running_loop().time() + VISIBLE
        while True:
            made = await self._look(topic)
            if made is not None and made.made[-1].number == due.number:
                await self._marks.put(topic, Mark(made.log.incarnation, made.made, ours=True))
                return made.log
            if asyncio.get_running_loop().time() > until:
                raise EngineUnavailable(f"the topic {name!r} was made, and the brokers do not show it")
            await asyncio.sleep(0.02)

    async def seal(self, topic: str, goes_on: str | None) -> Log:
        """See `Engine.seal`."""
        state = await self._look(topic)
        if state is None:
            raise no_such_topic(topic)
        words = state.log.goes_on if goes_on is None else goes_on
        if not state.log.sealed:
            await self._close(state)
        mark = Mark(state.log.incarnation, state.made, ours=state.ours, sealed=True, goes_on=words)
        await self._marks.put(topic, mark)
        sealed = await self._look(topic)
        assert sealed is not None
        return sealed.log

    def _facts(self, topic: Topic) -> dict[str, str]:
        """The configuration of a topic with these facts."""
        policy = "compact" if topic.compacted else "delete"
        bounded = topic.retention is not None or topic.retention_bytes is not None
        if topic.compacted and bounded:
            policy = "compact,delete"
        age = -1 if topic.retention is None else max(1, int(topic.retention * 1000))
        size = -1 if topic.retention_bytes is None else topic.retention_bytes
        return {
            "cleanup.policy": policy,
            "retention.ms": str(age),
            "retention.bytes": str(size),
            "segment.ms": str(7 * DAY if age < 0 else min(7 * DAY, max(60_000, age // 4))),
            "segment.bytes": str(1 << 30 if size < 0 else min(1 << 30, max(1 << 20, size // 4))),
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(self._client.options.max_bytes),
            "unclean.leader.election.enable": "false",
        }

    async def _keep_facts(self, state: State, wanted: Mapping[str, str]) -> None:
        name = state.last
        known = await self.config(name)
        changed = {key: value for key, value in wanted.items() if known.get(key) != value}
        changed.pop(SIZE, None)
        if changed and state.ours:
            await self._configure(name, changed)
            self._known.pop(state.log.topic, None)
        elif kept := {key: known.get(key) for key in _KEPT if key in changed}:
            log.warning(
                "the topic %r was made by others and stays as it is: %s, where the code asks for %s\n  → configure it "
                "there, or declare what it has",
                name,
                _words(kept),
                _words({key: changed[key] for key in kept}),
            )

    async def _configure(self, name: str, values: Mapping[str, str]) -> None:
        entries = [
            administration.ConfigEntry(*each, incremental_operation=administration.AlterConfigOpType.SET)
            for each in values.items()
        ]
        resource = administration.ConfigResource(administration.ResourceType.TOPIC, name, incremental_configs=entries)
        (future,) = self._client.admin.incremental_alter_configs([resource], request_timeout=ASK).values()
        await self._client.ask(future, f"configure the topic {name!r}")

    async def _close(self, state: State) -> None:
        """Let the last generation take no more records, and see that it does so."""
        last, said = state.made[-1], False
        if (await self.config(last.name)).get(SIZE) != str(CLOSED):
            await self._shut(last, ENDS_ONLY)
            while not await self._decided(last):
                if not said:
                    log.warning("the topic %r is closed when a transaction of others in it has ended", last.name)
                said = True
                await asyncio.sleep(0.05)
        await self._shut(last, CLOSED)

    async def _shut(self, made: Made, size: int) -> None:
        await self._configure(made.name, {SIZE: str(size)})
        while (await self.config(made.name)).get(SIZE) != str(size):  # or the broker would keep what we try it with
            await asyncio.sleep(0.01)
        for partition in range(made.partitions):
            while not await self._probe(made.name, partition):
                await asyncio.sleep(0.01)

    async def _decided(self, made: Made) -> bool:
        """Whether no transaction of others is open there: its records would come behind what is taken for the end."""
        names, latest = [(made.name, n) for n in range(made.partitions)], administration.OffsetSpec.latest()
        try:
            return await self._peek.offsets(names, latest, committed=True) == await self._peek.offsets(names, latest)
        except Missing:
            raise no_such_topic(made.name) from None

    # -- grown by hand ------------------------------------------------------------------------------------------------

    def _check_grown(self, state: State) -> None:
        """Raise `Refused` for a topic whose partitions are not those that it was made with, until that is confirmed."""
        for each in () if state.mark is None else state.mark.generations:
            count = {made.name: made.partitions for made in state.made}.get(each.name, 0)
            if each.id and each.partitions < count and state.log.topic not in self._client.options.grown:
                raise Refused(
                    f"the topic {each.name!r} was increased by hand from {each.partitions} to {count} partitions: keys "
                    "stand in other partitions now, and what waits of them would be overtaken",
                    remedy=f"let all groups read what waits; then add grown={state.log.topic} to the engine's URL "
                    "(its partitions are used as they are now)",
                )


def _words(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _is_of(mark: Mark, found: Mapping[str, Found]) -> bool:
    """Whether the topics that were found are those of the mark, not ones that were made anew."""
    return all(each.id in ("", found[each.name].id) for each in mark.generations if each.name in found)


def _generations(topic: str, mark: Mark | None, found: Mapping[str, Found]) -> tuple[Made, ...]:
    """The generations that are there."""
    known = (Made(1, topic, "", 0),) if mark is None else mark.generations
    return tuple(Made(each.number, each.name, *found[each.name]) for each in known if each.name in found)
