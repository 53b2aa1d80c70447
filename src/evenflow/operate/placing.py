"""Where topics are: in which engine each generation is, and which groups have not finished one that was moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evenflow.engine import Engine, Log, Partition
from evenflow.operate.finding import homes
from evenflow.routes import Routes
from evenflow.running import Running
from evenflow.settings_sources import masked


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one engine holds of a topic. `behind` has the groups that are to finish it, and how many offsets they have.

    engine    its URL, without secrets
    kept      offsets that it keeps of these generations
    goes_on   what a sealed log says of where it goes on
    """

    engine: str
    generations: tuple[int, ...]
    kept: int
    sealed: bool
    goes_on: str
    behind: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A topic with its parts in the order in which they are read; the last one takes what is published.

    home      URL of the engine that the settings make it in
    complete  False where it goes on in an engine that the settings do not name
    """

    topic: str
    home: str
    parts: tuple[Part, ...]
    complete: bool


async def placed(running: Running) -> list[Placed]:
    """Where each topic of the app is, those that are anywhere."""
    found = []
    for topic in running.topics:
        parts, complete = await _parts(running, topic)
        if parts:
            behind = await _behind(running, topic)
            shown = tuple([await _shown(*each, behind) for each in parts])
            home = masked(running.home(topic))
            found.append(Placed(topic=topic, home=home, parts=shown, complete=complete))
    return found


async def _parts(running: Running, topic: str) -> tuple[list[tuple[str, Engine, Log, tuple[int, ...]]], bool]:
    engine = running.engine
    if not isinstance(engine, Routes):
        log = await engine.log(topic)
        if log is None:
            return [], True
        numbers = tuple(each.number for each in log.generations)
        return [(running.settings.engine, engine, log, numbers)], not (log.sealed and log.goes_on)
    route = await engine.route(topic)
    if route is None:
        return [], True
    parts: list[tuple[str, Engine, Log, tuple[int, ...]]] = []
    for number, part in route.holders.items():
        if parts and parts[-1][0] == part.place:
            parts[-1] = (*parts[-1][:3], (*parts[-1][3], number))
        else:
            parts.append((part.place, part.engine, part.log, (number,)))
    return parts, route.complete


async def _shown(place: str, engine: Engine, log: Log, numbers: tuple[int, ...], behind: Mapping[str, Stands]) -> Part:
    kept, left = 0, dict[str, int]()
    for number in numbers:
        for partition in log.partitions(number):
            low, high = await engine.bounds(partition)
            kept += high - low
            for group, stands in behind.items():
                if stands.current <= number:
                    left[group] = left.get(group, 0) + max(0, high - max(low, stands.positions.get(partition, low)))
    return Part(
        engine=masked(place), generations=numbers, kept=kept, sealed=log.sealed, goes_on=log.goes_on, behind=left
    )


@dataclass(frozen=True, slots=True)
class Stands:
    """Where a group stands in a topic: the generation that it reads, and its positions."""

    current: int
    positions: Mapping[Partition, int]


async def _behind(running: Running, topic: str) -> dict[str, Stands]:
    """Where groups stand: those of this app by their stores, those of others by what they have told the engines."""
    found = {group: _stands(positions) for group, positions in (await running.engine.readers(topic)).items()}
    for home in await homes(running):
        rows = await home.store.read(home.store.sql["position_list"], (home.group,))
        ours = {Partition(topic, row[2], row[3]): row[4] for row in rows if row[0] == topic}
        if ours:
            found[home.group] = _stands(ours)
    return found


def _stands(positions: Mapping[Partition, int]) -> Stands:
    current = max(each.generation for each in positions)
    return Stands(current, {p: offset for p, offset in positions.items() if p.generation == current})
