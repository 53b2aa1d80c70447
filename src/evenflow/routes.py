"""Several engines as one: a topic is in the engine that holds it, generation by generation, whatever the settings say.

The settings say where a topic is made that is nowhere yet. One that moved is in several engines: they hold logs of the
same incarnation, and each of its generations is in one of them. An engine that sealed its log is read to its end first.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from evenflow.checkup import Finding
from evenflow.clock import Clock
from evenflow.engine import Backlog, Bounds, Capabilities, Consumer, Engine, Log, Outcome, Partition, Told
from evenflow.envelope import Envelope
from evenflow.errors import EngineUnavailable, GroupStopped, Refused
from evenflow.routed_consumer import RoutedConsumer
from evenflow.settings_sources import masked
from evenflow.topic import Topic

log = logging.getLogger("evenflow")

OPENS = 5.0
"""Seconds for which an append waits where a topic is sealed and not yet opened elsewhere: what is left is copied."""
AGAIN = 0.01


@dataclass(frozen=True, slots=True)
class Part:
    """The log of a topic as one engine holds it. `place` names the engine."""

    place: str
    engine: Engine
    log: Log


@dataclass(frozen=True, slots=True)
class Route:
    """A topic over all engines. `holders` has the part of each generation; the last one is appended to if `complete`.

    log       as one: what groups read, in this order
    complete  whether the generation that follows the last one is not in an engine that is unknown here
    """

    log: Log
    holders: Mapping[int, Part]
    complete: bool

    @property
    def last(self) -> Part:
        """What holds the last generation."""
        return self.holders[self.log.generations[-1].number]


def join(parts: Sequence[Part]) -> Route:
    """Logs of one incarnation, in whatever order, as one. At least one.

    A log is followed to its end before the next one: its own next generation, or, where it is sealed and goes on, the
    one that another log counts on with. A log that was made to continue one that is not sealed yet is not reached.
    """
    part = min(parts, key=lambda each: each.log.generations[0].number)
    number = part.log.generations[0].number
    found, holders = [], dict[int, Part]()
    while True:
        counts = {each.number: each for each in part.log.generations}
        while number in counts:
            found.append(counts[number])
            holders[number] = part
            number += 1
        open_here = number > part.log.generations[-1].number and not (part.log.sealed and part.log.goes_on)
        following = None if open_here else _holder(parts, number)
        if following is None:
            break
        part = following
    end = part.log
    one = Log(end.topic, end.incarnation, tuple(found), end.sealed, end.goes_on)
    return Route(one, holders, complete=open_here)


def _holder(parts: Sequence[Part], number: int) -> Part | None:
    return next((each for each in parts if any(one.number == number for one in each.log.generations)), None)


class Routes:
    """An engine made of engines, which whoever makes it opens and closes.

    urls     of all of them, the default one first
    home     gives the URL of the engine that a topic is made in
    opened   gives the engine of a URL, open
    engines  those that are open, by URL
    """

    def __init__(
        self,
        urls: Sequence[str],
        home: Callable[[str], str],
        opened: Callable[[str], Awaitable[Engine]],
        engines: Mapping[str, Engine],
        clock: Clock,
    ) -> None:
        self.trouble = ""
        self._urls = urls
        self._home = home
        self._opened = opened
        self._engines = engines
        self._clock = clock
        self._routes: dict[str, Route] = {}
        self._said: set[str] = set()
        every = [each.capabilities for each in engines.values()]
        self.name = " and ".join(dict.fromkeys(each.name for each in engines.values()))
        self.capabilities = Capabilities(
            durable=all(each.durable for each in every),
            shared=all(each.shared for each in every),
            atomic=all(each.atomic for each in every),
            tidies=all(each.tidies for each in every),
        )

    async def open(self) -> None:
        """Nothing is left to do."""

    async def close(self) -> None:
        """Nothing is left to do."""

    # -- where a topic is -------------------------------------------------------------------------------------------

    async def log(self, topic: str) -> Log | None:
        route = await self.route(topic)
        return None if route is None else route.log

    async def route(self, topic: str) -> Route | None:
        """Where a topic is; None where it is in no engine. Raises `Refused` where that cannot be told."""
        known = self._routes.get(topic)
        if known is not None and known.complete:
            last = known.last
            if await last.engine.log(topic) == last.log:
                return known
        return await self._find(topic)

    async def _find(self, topic: str) -> Route | None:
        home = self._home(topic)
        parts = await self._parts(topic, [home])
        if not parts or parts[0].log.sealed or _starts_late(parts[0].log):
            parts += await self._parts(topic, [url for url in self._urls if url != home])
        if not parts:
            self._routes.pop(topic, None)
            return None
        incarnation = parts[0].log.incarnation
        others = [each for each in parts if each.log.incarnation != incarnation]
        if others and parts[0].place != home:
            raise Refused(
                f"the topic {topic!r} is in {masked(parts[0].place)} and, as another log, in "
                f"{masked(others[0].place)}, and the settings place it in {masked(home)}",
                remedy="place it in the one that is right, or take the other one out of the settings",
            )
        route = join([each for each in parts if each.log.incarnation == incarnation])
        if route.last.place != home and topic not in self._said:
            self._said.add(topic)
            log.info("the topic %s is in %s, not where the settings make topics", topic, masked(route.last.place))
        self._routes[topic] = route
        return route

    async def _parts(self, topic: str, urls: Sequence[str]) -> list[Part]:
        found = []
        for url in urls:
            try:
                engine = await self._opened(url)
                held = await engine.log(topic)
            except (EngineUnavailable, Refused) as error:
                raise EngineUnavailable(
                    f"the engine {masked(url)} cannot be asked for the topic {topic!r}: {error.message}",
                    remedy=f"{error.remedy}; or take it out of the settings, when all have finished what moved from it "
                    "(evenflow move status)",
                ) from error
            if held is not None:
                found.append(Part(url, engine, held))
        return found

    async def _holder(self, partition: Partition) -> Engine:
        """The engine of a partition. Raises `GroupStopped` for one that no engine here has."""
        topic, generation, _ = partition
        route = self._routes.get(topic)
        if route is None or generation not in route.holders:
            route = await self._find(topic)
        if route is None or generation not in route.holders:
            raise GroupStopped(
                f"generation {generation} of the topic {topic!r} is in an engine that the settings do not name",
                remedy="name that engine too (EVENFLOW_ENGINES__OLD=its URL), and start again",
            )
        return route.holders[generation].engine

    def holder_nowait(self, partition: Partition) -> Engine:
        """The same for one that was asked about before."""
        return self._routes[partition.topic].holders[partition.generation].engine

    # -- the contract -----------------------------------------------------------------------------------------------

    async def declare(self, topic: Topic, *, after: Log | None = None) -> Log:
        """In its engine, or where the settings say. Only a single engine continues another's log."""
        assert after is None
        route = await self.route(topic.name)
        if route is None:
            return await (await self._opened(self._home(topic.name))).declare(topic)
        if route.complete:
            await route.last.engine.declare(topic)
            route = await self.route(topic.name)
            assert route is not None
        return route.log

    async def seal(self, topic: str, goes_on: str | None = None) -> Log:
        """In the engine that holds its last generation."""
        engine = await self._last(topic)
        return await engine.seal(topic, goes_on)

    async def _last(self, topic: str) -> Engine:
        route = await self.route(topic)
        return await self._opened(self._home(topic)) if route is None else route.last.engine

    async def append(self, topic: str, envelopes: Sequence[Envelope]) -> Sequence[Outcome]:
        """What a log refuses because it is sealed goes on at once to where it is continued, with the same numbers."""
        route = self._routes.get(topic)  # where one that is not complete goes on may be known by now
        engine = route.last.engine if route is not None and route.complete else await self._last(topic)
        outcomes = await engine.append(topic, envelopes)
        self.trouble = engine.trouble
        if Outcome.REFUSED not in outcomes:
            return outcomes
        try:
            following = await self._following(topic, engine)
        except (EngineUnavailable, Refused) as error:
            self.trouble = f"{self.trouble}; {error.message}".removeprefix("; ")
            return outcomes
        if following is engine:
            return outcomes
        left = [place for place, outcome in enumerate(outcomes) if outcome is not Outcome.STORED]
        later = await self.append(topic, [envelopes[place] for place in left])
        answers = list(outcomes)
        for place, outcome in zip(left, later, strict=True):
            answers[place] = outcome
        return answers

    async def _following(self, topic: str, engine: Engine) -> Engine:
        """The engine that holds the last generation now. It waits while the log is to be opened."""
        deadline = self._clock.monotonic() + OPENS
        while True:
            following = await self._last(topic)
            route = self._routes.get(topic)
            opens = route is not None and route.log.sealed and not route.log.goes_on
            if following is not engine or not opens or self._clock.monotonic() >= deadline:
                return following
            await self._clock.sleep(AGAIN)

    async def limit(self, topic: str) -> int | None:
        return await (await self._last(topic)).limit(topic)

    def consumer(self, group: str) -> Consumer:
        return RoutedConsumer(group, self.holder_nowait, self._clock)

    async def bounds(self, partition: Partition) -> Bounds:
        return await (await self._holder(partition)).bounds(partition)

    async def read(self, partition: Partition, offset: int) -> tuple[int, Envelope] | None:
        return await (await self._holder(partition)).read(partition, offset)

    async def find(self, partition: Partition, time: float) -> int:
        return await (await self._holder(partition)).find(partition, time)

    async def backlog(self, positions: Mapping[Partition, int]) -> Mapping[Partition, Backlog]:
        found: dict[Partition, Backlog] = {}
        for engine, part in (await self._split(positions)).values():
            found.update(await engine.backlog(part))
        return {partition: found[partition] for partition in positions}

    async def _split(self, positions: Mapping[Partition, int]) -> dict[int, tuple[Engine, dict[Partition, int]]]:
        split: dict[int, tuple[Engine, dict[Partition, int]]] = {}
        for partition, offset in positions.items():
            engine = await self._holder(partition)
            split.setdefault(id(engine), (engine, {}))[1][partition] = offset
        return split

    async def told(self, group: str, store: str, positions: Mapping[Partition, int]) -> None:
        """Each engine hears of its own partitions; of what is in no topic, and of the store alone, all hear."""
        ours = {partition: offset for partition, offset in positions.items() if await self._held(partition)}
        for engine, part in (await self._split(ours)).values():
            await engine.told(group, store, part)
        others = {partition: offset for partition, offset in positions.items() if not partition.topic}
        trouble: EngineUnavailable | None = None
        for engine in list(self._engines.values()) if others or not positions else ():
            try:
                await engine.told(group, store, others)
            except EngineUnavailable as error:  # the others hear of it all the same
                trouble = error
        if trouble is not None:
            raise trouble

    async def _held(self, partition: Partition) -> bool:
        """Whether a partition is in an engine: what was told of one that is gone may be forgotten."""
        if not partition.topic:
            return False
        try:
            await self._holder(partition)
        except GroupStopped:
            return False
        return True

    async def recall(self, group: str) -> Told | None:
        """What those that are open remember. Where they know of two stores, the first one of the settings is right."""
        store, positions, heard = "", dict[Partition, int](), False
        for url in self._urls:
            told = await self._engines[url].recall(group) if url in self._engines else None
            if told is not None:
                heard, store = True, store or told.store
                for partition, offset in told.positions.items():
                    positions[partition] = max(offset, positions.get(partition, 0))
        return Told(store, positions) if heard else None

    async def topics(self) -> Sequence[str]:
        return sorted({name for engine in self._engines.values() for name in await engine.topics()})

    async def groups(self) -> Sequence[str]:
        return sorted({name for engine in self._engines.values() for name in await engine.groups()})

    async def readers(self, topic: str) -> Mapping[str, Mapping[Partition, int]]:
        route = await self.route(topic)
        found: dict[str, dict[Partition, int]] = {}
        engines = {} if route is None else {part.place: part.engine for part in route.holders.values()}
        for engine in engines.values():
            for group, positions in (await engine.readers(topic)).items():
                found.setdefault(group, {}).update(positions)
        return found

    async def examine(self, *, deep: bool) -> Sequence[Finding]:
        return [finding for engine in self._engines.values() for finding in await engine.examine(deep=deep)]

    async def maintain(self) -> None:
        for engine in list(self._engines.values()):
            await engine.maintain()


def _starts_late(log: Log) -> bool:
    """Whether generations are, or were, elsewhere."""
    numbers = [each.number for each in log.generations]
    return numbers != list(range(1, len(numbers) + 1))
