"""One parked event in full: as it is, as it was before it was edited, its history, and who has touched it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from evenflow.envelope import Envelope, unpack
from evenflow.errors import Refused
from evenflow.operate.finding import Home, NotFound, has_transactions, home
from evenflow.operate.parked_filter import Filter, condition
from evenflow.parking import Parked
from evenflow.running import Running
from evenflow.store import Row, Session

HISTORY = 100
EVERYTHING = 2**31

Read = Callable[[str, tuple[object, ...]], Awaitable[list[Row]]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that has failed. `process` is host:pid; attempts with the same `fingerprint` failed alike."""

    attempt: int
    at: float
    process: str
    error_type: str
    error: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Touch:
    """What a person has asked that concerns its lane: an operation over many, or an action on it alone."""

    at: float
    who: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One parked event with its place. `original` is the envelope as it was parked, where it has been edited since.

    `packed` is how the envelope stands in the store: what a change of it is compared with.
    """

    group: str
    topic: str
    lane: str
    generation: int
    offset: int
    slot: int
    partition: int
    packed: bytes
    envelope: Envelope
    head: bool
    due: float | None
    attempts: int
    error: str | None
    error_type: str | None
    wish: str | None
    first_failed: float | None
    failed: float | None
    parked: float
    fingerprint: str | None
    original: Envelope | None

    @property
    def place(self) -> tuple[str, str, str, int, int]:
        """The key of its row."""
        return (self.group, self.topic, self.lane, self.generation, self.offset)

    @property
    def name(self) -> str:
        """Its lane as a person writes it: the key, if it has one."""
        return self.envelope.key if self.envelope.key is not None else self.lane

    @property
    def at_rest(self) -> bool:
        """Whether it is a dead letter that nobody has asked anything of: nothing touches it by itself."""
        return self.head and self.due is None and self.wish is None


@dataclass(frozen=True, slots=True)
class Story:
    """What has happened to a parked event: the attempts that failed, and what people have asked.

    `rehearsable`: whether its handler has a transaction that a rehearsal can roll back.
    """

    letter: Letter
    attempts: Sequence[Attempt]
    touches: Sequence[Touch]
    rehearsable: bool


def letter(group: str, topic: str, lane: str, row: Row) -> Letter:
    """A row of `parked_whole`."""
    (generation, offset, slot, partition, packed, head, due, attempts, error, error_type, wish, first_failed, failed,
     parked, fingerprint, original) = row  # fmt: skip
    return Letter(
        group=group, topic=topic, lane=lane, generation=generation, offset=offset, slot=slot, partition=partition,
        packed=packed, envelope=unpack(packed)[0], head=bool(head), due=due, attempts=attempts, error=error,
        error_type=error_type, wish=wish, first_failed=first_failed, failed=failed, parked=parked,
        fingerprint=fingerprint, original=None if original is None else unpack(original)[0],
    )  # fmt: skip


async def letters(read: Read, sql: str, place: tuple[str, str, str], limit: int) -> list[Letter]:
    """The first events of a lane, (group, topic, lane), in order; `sql` is the statement `parked_whole`."""
    return [letter(*place, row) for row in await read(sql, (*place, limit))]


async def rows_of(found: Home, lane: tuple[str, str], session: Session | None = None) -> list[Letter]:
    """A whole lane, (topic, lane), in order; as a transaction sees it, if one is given."""
    read = found.store.read if session is None else session.fetch
    return await letters(read, found.store.sql["parked_whole"], (found.group, *lane), EVERYTHING)


async def head_of(running: Running, group: str, lane: str, topic: str | None = None) -> tuple[Home, Letter]:
    """The first event of a lane, by its key or its name. Raises `NotFound`, `Refused` where it is in several topics."""
    found = await home(running, group)
    sql = found.store.sql
    for each in (lane, f"k{lane}"):
        rows = await found.store.read(sql["parked_topics"], (found.group, each))
        topics = [row[0] for row in rows if topic in (None, row[0])]
        if len(topics) > 1:
            raise Refused(f"{lane!r} is parked of several topics", remedy=f"--topic {' or --topic '.join(topics)}")
        if topics:
            (first,) = await letters(found.store.read, sql["parked_whole"], (found.group, topics[0], each), 1)
            return found, first
    raise NotFound(
        f"nothing is parked in {found.group!r} for {lane!r}",
        remedy=f"evenflow parked list --group {found.group} shows what is",
    )


async def dead_lanes(found: Home, wanted: Filter, limit: int) -> list[tuple[str, str]]:
    """Topic and lane of the dead letters that a filter means, in order. Its lane may be a key, as people say it."""
    rows: list[Row] = []
    for lane in (wanted.lane, f"k{wanted.lane}") if wanted.lane is not None else (None,):
        sql, args = condition(replace(wanted, lane=lane), 2).into(found.store.sql["letters_first"], found.group, limit)
        rows = rows or await found.store.read(sql, args)
    return [(row[0], row[1]) for row in rows]


async def lanes_of(found: Home) -> list[tuple[str, str]]:
    """Topic and lane of all that is parked."""
    return [(row[0], row[1]) for row in await found.store.read(found.store.sql["parked_everything"], (found.group,))]


async def story(running: Running, parked: Parked) -> Story:
    """All about a parked event. Raises `NotFound` when it is no more."""
    found = await home(running, parked.group)
    store, sql = found.store, found.store.sql
    args = (found.group, parked.topic, parked.lane, parked.offset, parked.partition)
    rows = [letter(*args[:3], row) for row in await store.read(sql["parked_one"], args)]
    one = next((each for each in rows if each.envelope.id == parked.envelope.id), None)
    if one is None:
        raise NotFound(f"it is not parked in {found.group!r} any more", remedy="look at the list again")
    attempts = [Attempt(*row) for row in await store.read(sql["attempt_list"], one.place)]
    touches = [
        Touch(at, who, f"operation {number} ({kind})", f"{state}; this one: {mine}")
        for number, kind, who, at, state, mine in await store.read(sql["operations_of"], (*one.place, HISTORY))
    ]
    touches += [Touch(*row) for row in await store.read(sql["audit_of"], (subject(one), one.parked, HISTORY))]
    rehearsable = found.spec is not None and has_transactions(found.spec)
    return Story(one, attempts, sorted(touches, key=lambda each: each.at), rehearsable)


def subject(of: Letter) -> str:
    """What the audit calls it."""
    return f"{of.group} {of.lane}"
