"""CONTRACT: what an engine promises. An engine moves envelopes; it knows nothing of handlers, retries or metrics.

Positions are not the engine's: they live in each service's store. The engine keeps only a lazy copy (`told`), which
is never ahead, so that its own tools see how far a group is and so that a wrong or restored store is noticed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from evenflow.checkup import Finding
from evenflow.envelope import Envelope
from evenflow.envelopes import Envelopes
from evenflow.topic import Topic


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What differs between engines, as data. The core reads it once, at start.

    durable  an append that returned survives the process and, as far as the disk is honest, the machine
    shared   several processes may use it at once
    atomic   one append is stored whole or not at all
    tidies   `maintain` removes at once what retention and compaction ask for; otherwise servers do in their own time
    """

    durable: bool
    shared: bool
    atomic: bool = True
    tidies: bool = True


class Partition(NamedTuple):
    """One ordered part of one generation of a topic."""

    topic: str
    generation: int
    number: int


class Generation(NamedTuple):
    """A topic's partition count never changes in place: another count is a new generation, read after the old."""

    number: int
    partitions: int


@dataclass(frozen=True, slots=True)
class Log:
    """A topic as the engine keeps it. `incarnation` changes when the log is made anew: positions belong to it.

    `generations` rise; only the last one is appended to. A log that moves to another engine keeps its incarnation, and
    its generations are counted on there. Here it is `sealed`: nothing is appended any more. `goes_on` says where to.
    """

    topic: str
    incarnation: str
    generations: tuple[Generation, ...]
    sealed: bool = False
    goes_on: str = ""

    def partitions(self, generation: int) -> tuple[Partition, ...]:
        """All partitions of one generation."""
        for each in self.generations:
            if each.number == generation:
                return tuple(Partition(self.topic, generation, n) for n in range(each.partitions))
        return ()


class Bounds(NamedTuple):
    """`low`: the first offset that is kept. `high`: the offset that the next event will get."""

    low: int
    high: int


class Outcome(enum.Enum):
    """The answer of an append for one envelope."""

    STORED = "stored"
    REFUSED = "refused"  # surely not stored
    OVERSIZE = "oversize"  # surely not stored: it is over the limit of its topic, whoever appends it
    UNKNOWN = "unknown"  # a time-out, a lost reply; to be appended again with the same id and number


@dataclass(frozen=True, slots=True)
class Batch:
    """Envelopes of one partition in order. `offsets` run parallel to `envelopes`; `next` is where to read on."""

    partition: Partition
    offsets: Sequence[int]
    envelopes: Envelopes
    next: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in one partition: how many events, and the `time` of the oldest (None when none waits)."""

    waiting: int
    oldest: float | None


@dataclass(frozen=True, slots=True)
class Told:
    """The engine's copy of a group: the identity of the store that holds its positions, and how far it was."""

    store: str
    positions: Mapping[Partition, int]


class Consumer(Protocol):
    """Reads the partitions that it was given, for one group of one process. Fetches nothing before `assign`."""

    def assign(self, partition: Partition, offset: int) -> None:
        """Read this partition from this offset: the answer to a lease; also how one seeks."""
        ...

    def release(self, partition: Partition) -> None:
        """Give the partition up. What was fetched of it has been finished or dropped."""
        ...

    def pause(self, partition: Partition) -> None: ...
    def resume(self, partition: Partition) -> None: ...

    async def fetch(self, limit: int, size: int, wait: float | None) -> Sequence[Batch]:
        """What there is, at most `limit` envelopes and about `size` bytes, fairly across partitions.

        Returns as soon as there is anything; an empty sequence after `wait` seconds or a `wake()`. Raises
        `GroupStopped` when retention has removed events that this group has not read, and `EngineUnavailable`.
        """
        ...

    def wake(self) -> None:
        """A fetch that waits returns at once; the next one does if none waits."""
        ...

    async def close(self) -> None: ...


class Engine(Protocol):
    """Moves envelopes. One object per process; all methods run on one event loop."""

    name: str
    capabilities: Capabilities

    @property
    def trouble(self) -> str:
        """Why the last append was not stored; empty after one that was."""
        ...

    async def open(self) -> None:
        """Connect, and verify the settings that durability rests on. Raises `Refused` with the remedy, and
        `EngineUnavailable` where waiting for a server may be enough.
        """
        ...

    async def close(self) -> None: ...

    async def declare(self, topic: Topic, *, after: Log | None = None) -> Log:
        """Make an owned topic, or a new generation when its partition count differs; keep its facts up to date.

        For another team's topic (not owned) only looks: raises `Refused` when it does not exist. A sealed log gets no
        new generation.

        With `after`, the log as another engine holds it, this one continues it: a log with that incarnation whose
        last generation has a higher number than the last one there, made if it is not there yet; a sealed one is open
        again with it. Raises `Refused` when the topic is here as another log.
        """
        ...

    async def seal(self, topic: str, goes_on: str | None = None) -> Log:
        """Close the log to every process: what was answered STORED stands, and nothing is appended from now on.

        An append that comes later, or was on its way, is REFUSED, and `trouble` names `goes_on`. With `goes_on`, the
        words for where the log is continued, it is told that it is; without, that it will be. Sealing what is sealed
        changes at most these words. Raises `Refused` for a topic that is not there, and `EngineUnavailable`.
        """
        ...

    async def log(self, topic: str) -> Log | None:
        """The topic as it stands now, or None."""
        ...

    async def topics(self) -> Sequence[str]:
        """The names of all topics that are there, also those of other teams, in alphabetical order."""
        ...

    async def append(self, topic: str, envelopes: Sequence[Envelope]) -> Sequence[Outcome]:
        """Store envelopes in order; the partition is `slot % partitions` of the last generation.

        Answers per envelope, durable before it returns. Keeps a prefix per slot: after the first envelope of a slot
        that is not STORED, none of that slot is. Raises nothing for an engine in trouble: that is REFUSED or UNKNOWN.
        """
        ...

    async def limit(self, topic: str) -> int | None:
        """Bytes of data that an event of this topic may have, as it is now; None where there is no limit to speak of.

        It is asked at the start and every so often, so that an event is refused where it is published. One that comes
        through all the same is OVERSIZE.
        """
        ...

    def consumer(self, group: str) -> Consumer: ...

    async def bounds(self, partition: Partition) -> Bounds: ...

    async def read(self, partition: Partition, offset: int) -> tuple[int, Envelope] | None:
        """The last event at or before this offset, with its own offset; None when none is kept."""
        ...

    async def find(self, partition: Partition, time: float) -> int:
        """The first offset whose event was appended at or after this Unix time; `high` when there is none."""
        ...

    async def backlog(self, positions: Mapping[Partition, int]) -> Mapping[Partition, Backlog]:
        """What waits from these positions on."""
        ...

    async def told(self, group: str, store: str, positions: Mapping[Partition, int]) -> None:
        """Keep a copy of how far the group is. Called lazily; the copy is only ever behind, but after a seek back.

        With an empty `store` the name is nobody's any more: another store may take it.
        """
        ...

    async def recall(self, group: str) -> Told | None:
        """The copy, or None for a group that this engine has not heard of."""
        ...

    async def groups(self) -> Sequence[str]:
        """The names of all groups, in alphabetical order; also those of other clients, which `recall` does not know."""
        ...

    async def readers(self, topic: str) -> Mapping[str, Mapping[Partition, int]]:
        """The copies of all groups that have told of this topic, by group; without those whose name is nobody's.

        It is what the backlog of a topic is measured by.
        """
        ...

    async def examine(self, *, deep: bool) -> Sequence[Finding]:
        """A check-up of its settings, files and servers; `deep` reads all that it keeps. Changes nothing.

        May be asked before `open`, and answers where that would refuse.
        """
        ...

    async def maintain(self) -> None:
        """Retention, compaction and the like: called every so often, off the hot path; cheap when nothing is due."""
        ...
