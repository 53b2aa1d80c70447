"""The check-up of one engine or store, by its URL alone: settings, what it holds, whose groups read there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from evenflow.checkup import Finding
from evenflow.clock import Clock
from evenflow.engine import Engine, Log
from evenflow.errors import EngineUnavailable, EvenflowError
from evenflow.operate.doctor_running import clock_ahead
from evenflow.outbox import RELAY_PARTITION
from evenflow.places import ENGINES, STORES, make_engine, make_store, parse, postgres_there, with_schema
from evenflow.settings_sources import masked
from evenflow.store import Store

Kind = Literal["engine", "store"]
TOGETHER = 20
"""So many topics, or groups, are looked at at the same time."""
PATIENCE = 10.0
"""Seconds that topics, and groups, may take; what is left then is counted."""
NO_NAME = "store"
"""A service's name, where only the URL is known."""


class Place(NamedTuple):
    """What is to be looked at. `title` tells it from others of the same database."""

    kind: Kind
    url: str
    title: str


async def examine_url(
    url: str, clock: Clock, *, deep: bool = True, kind: Kind | None = None
) -> AsyncGenerator[Finding]:
    """What can be told of an engine or a store by its URL, as it is found. Raises `SettingsError` for what is neither.

    `kind` chooses where a URL may be both; without it what is there decides.
    """
    scheme = parse(url).scheme
    if missing(url):
        yield Finding("wrong", "file", f"{masked(url)} is not there", "correct the URL: evenflow config shows them")
        return
    seen = set[tuple[str, str]]()
    try:
        if scheme.startswith("postgres"):
            places = await _in_database(url, kind)
        elif kind is None and scheme in ENGINES and scheme in STORES:
            places = await _in_file(url, clock)
        else:
            places = [Place(kind or ("engine" if scheme in ENGINES else "store"), url, "")]
    except EngineUnavailable as error:
        yield Finding("wrong", "the database", error.message, error.remedy)
        return
    for each in places:
        async for finding in _place(each, clock, deep=deep):
            key = (finding.about, "" if finding.about == "clock" else finding.message)
            if key not in seen:  # two schemas of one server have its settings in common
                seen.add(key)
                yield finding


def missing(url: str) -> bool:
    """Whether this is a file that is not there, which opening it would make."""
    found = parse(url)
    return (
        found.scheme == "sqlite" and found.rest.startswith("///") and not Path(found.rest.removeprefix("///")).exists()
    )


async def _in_file(url: str, clock: Clock) -> list[Place]:
    """A file is a store where it is one, and else what is wrong with it is told as of a log."""
    engine, store = Place("engine", url, ""), Place("store", url, "")
    for each in (engine, store):
        if not any(found.level == "wrong" for found in await _settings(each, clock, deep=False)):
            return [each]
    return [engine]


async def _in_database(url: str, wanted: Kind | None) -> list[Place]:
    """The log and the stores that a database of PostgreSQL holds; where it holds none, a log that it may hold."""
    named = parse(url).options.get("schema", "")
    found = await postgres_there(url)
    both: tuple[tuple[Kind, tuple[str, ...]], ...] = (("engine", found.logs), ("store", found.stores))
    places = [
        Place(kind, with_schema(url, kind, schema), f"schema {schema}")
        for kind, schemas in both
        for schema in schemas
        if wanted in (None, kind) and named in ("", schema)
    ]
    one = wanted or "engine"
    return places or [Place(one, with_schema(url, one, named), "")]


async def _place(place: Place, clock: Clock, *, deep: bool) -> AsyncIterator[Finding]:
    _made(place, clock)
    sound = True
    for finding in await _settings(place, clock, deep=deep):
        sound = sound and (finding.level != "wrong" or finding.about == "disk")
        same = finding.about in ("the store", "the event log") and place.title
        yield finding._replace(about=f"{finding.about} in {place.title}") if same else finding
    about = "topics" if place.kind == "engine" else "groups"
    if not sound:
        yield Finding("warn", about, "not looked at, for what is wrong above")
        return
    try:
        content = _log(place, clock) if place.kind == "engine" else _store(place, clock)
        async for finding in content:
            yield finding
    except EvenflowError as error:
        yield Finding("wrong", "start", error.message, error.remedy)


def _made(place: Place, clock: Clock) -> Engine | Store:
    """It, not opened. Raises `SettingsError`."""
    return make_engine(place.url, clock) if place.kind == "engine" else make_store(place.url, NO_NAME, clock)


async def _settings(place: Place, clock: Clock, *, deep: bool) -> Sequence[Finding]:
    try:
        return await _made(place, clock).examine(deep=deep)
    except EvenflowError as error:
        return [Finding("wrong", f"the {place.kind}", f"{masked(place.url)}: {error.message}", error.remedy)]


# -- an engine --------------------------------------------------------------------------------------------------------


async def _log(place: Place, clock: Clock) -> AsyncIterator[Finding]:
    if place.url.startswith("postgres") and not place.title:
        return  # opening it would make it
    engine = make_engine(place.url, clock)
    await engine.open()
    try:
        async for finding in _topics(engine, clock):
            yield finding
    finally:
        await engine.close()


async def _topics(engine: Engine, clock: Clock) -> AsyncIterator[Finding]:
    topics, groups = await engine.topics(), await engine.groups()
    if not topics:
        yield Finding("ok", "topics", "there are none yet")
    for what, names, look in (("topics", topics, _topic), ("groups", groups, _group)):
        left, until = list(names), clock.monotonic() + PATIENCE
        while left and clock.monotonic() < until:
            some, left = left[:TOGETHER], left[TOGETHER:]
            for findings in await asyncio.gather(*(look(engine, name, clock.now()) for name in some)):
                for finding in findings:
                    yield finding
        if left:
            yield Finding("warn", what, f"{len(left):,} more were not looked at, since the others took so long")


async def _topic(engine: Engine, name: str, now: float) -> list[Finding]:
    try:
        log = await engine.log(name)
        if log is None:
            return []
        count, newest = await _kept(engine, log)
    except EvenflowError as error:
        return [Finding("warn", f"topic {name}", f"cannot be looked at: {error.message}", error.remedy)]
    ahead = clock_ahead(name, newest, now)
    return [Finding("ok", f"topic {name}", _words(log, count)), *([] if ahead is None else [ahead])]


async def _kept(engine: Engine, log: Log) -> tuple[int, float | None]:
    """How many offsets are kept, and the time of the last event of one partition."""
    parts = [part for each in log.generations for part in log.partitions(each.number)]
    ends = await asyncio.gather(*map(engine.bounds, parts))
    full = [(part, high) for part, (low, high) in zip(parts, ends, strict=True) if high > low]
    last = await engine.read(full[-1][0], full[-1][1] - 1) if full else None
    return sum(high - low for low, high in ends), None if last is None else last[1].time


def _words(log: Log, count: int) -> str:
    partitions = log.generations[-1].partitions
    words = f"{partitions} partition{'' if partitions == 1 else 's'}, {count:,} offsets kept"
    if len(log.generations) > 1:
        words += f", in {len(log.generations)} generations"
    return words + (f", closed: it goes on in {log.goes_on or 'another engine'}" if log.sealed else "")


async def _group(engine: Engine, name: str, now: float) -> list[Finding]:
    about = f"group {name}"
    try:
        told = await engine.recall(name)
        if told is None or not told.store or RELAY_PARTITION in told.positions:
            return []  # another client's, nobody's, or an outbox
        waits = (await engine.backlog(told.positions)).values()
    except EvenflowError as error:
        return [Finding("warn", about, f"cannot be looked at: {error.message}", error.remedy)]
    oldest = min((each.oldest for each in waits if each.oldest is not None), default=None)
    age = "" if oldest is None else f", the oldest {max(0.0, now - oldest):,.0f} s"
    said = f"{sum(each.waiting for each in waits):,} events wait{age}, as it has told"
    return [Finding("ok", about, f"{said}; its positions are in the store {told.store}")]


# -- a store ----------------------------------------------------------------------------------------------------------


async def _store(place: Place, clock: Clock) -> AsyncIterator[Finding]:
    store = make_store(place.url, NO_NAME, clock)
    applied = await store.applied()
    if not applied:
        yield Finding("ok", "groups", "no service has run here yet")
        return
    there = {each.number for each in applied if each.owner == "evenflow"}
    if not there >= {each.number for each in store.own_migrations()}:
        said = "its tables are of an older version, so its groups are not looked at"
        yield Finding("warn", "schema", said, "evenflow migrate apply, or start its service")
        return
    for owner in sorted({each.owner for each in applied} - {"evenflow"}):
        last = max((each for each in applied if each.owner == owner), key=lambda each: each.number)
        yield Finding("ok", f"schema of {owner}", f"migrated up to {last.name}")
    await store.open()
    try:
        async for finding in _content(store, clock.now()):
            yield finding
    finally:
        await store.close()


async def _content(store: Store, now: float) -> AsyncIterator[Finding]:
    yield Finding("ok", "identity", f"{store.id}: engines know by it whose positions are here")
    for group, topic, _, state, reason in await store.read(store.sql["group_list"]):
        message, _, remedy = (reason or "").partition("\n  → ")
        if state == "stopped":
            yield Finding("wrong", f"group {group}", f"is stopped at {topic}: {message}", remedy)
        else:
            yield Finding("ok", f"group {group}", f"reads {topic}")
    ((events, _, oldest, _),) = await store.read(store.sql["outbox_size"])
    waits = f"{events:,} events wait, the oldest {max(0.0, now - oldest):,.0f} s" if events else "empty"
    yield Finding("ok", "outbox", waits)
    pids = ", ".join(f"{each.pid} on boot {each.boot[:8]}" for each in await store.processes())
    yield Finding("ok", "processes", f"pid {pids}" if pids else "none has it open")
