"""tail: events as they come, read by nobody's group."""

from __future__ import annotations

import re
import sys
import time
from argparse import Namespace
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from evenflow.cli.failures import Code, UsageError
from evenflow.cli.filters import Condition, Filter, condition, content, fields_of
from evenflow.cli.looking import looking
from evenflow.cli.moment import moment
from evenflow.cli.output import coloured, flush, out, paint, say
from evenflow.engine import Batch, Consumer, Engine, Log, Partition
from evenflow.envelope import Envelope
from evenflow.event import EventSpec, spec_of
from evenflow.operate import NotFound
from evenflow.running import Running
from evenflow.settings_sources import suggestion

Start = str | float

LOOK_AGAIN = 2.0
"""Seconds after which topics and generations that are new are found."""
SILENCE = 5.0
"""Seconds without an event after which the rest, with --no-follow, holds none: a server needs a moment to answer."""
AT_ONCE = 500
BYTES = 4 << 20
_AGO = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_COLOURS = (36, 32, 33, 35, 94, 96)
_json = msgspec.json.Encoder()


class Seen(NamedTuple):
    """An event with its place."""

    partition: Partition
    offset: int
    envelope: Envelope


def tail(options: Namespace) -> int:
    """Until Ctrl-C, or until there is enough."""
    begin, chosen, follow = _begin(options.start), _filter(options), not options.no_follow

    async def work(running: Running) -> None:
        _refuse_unknown(running, options, chosen)
        if begin == "end" and follow and sys.stderr.isatty():
            say(paint("waiting for events; Ctrl-C ends it, --from beginning shows what there is", "dim", sys.stderr))
        left = options.count
        tell = _json_line if options.json else _Line()
        async with aclosing(_Reading(running, options.topic, begin).events(follow=follow)) as events:
            async for seen in events:
                if not chosen.wants(seen.envelope):
                    continue
                out(tell(seen))
                if follow:
                    flush()
                left = None if left is None else left - 1
                if left == 0:
                    return

    try:
        looking(options, work)
    except KeyboardInterrupt:  # how one ends it: nothing to say
        return Code.INTERRUPTED
    return Code.DONE


def _begin(text: str) -> Start:
    """A word, a time with its zone, or how long ago."""
    if text in ("beginning", "end"):
        return text
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return time.time() - float(ago[1]) * _UNITS[ago[2]]
    found = moment(text, "--from")
    if found is None:
        raise UsageError(
            f"--from {text!r} is no time",
            remedy="use beginning, end, 2026-03-01T12:00:00Z, or how long ago: 90s, 15m, 2h",
        )
    return found


def _filter(options: Namespace) -> Filter:
    conditions: list[Condition] = [condition(each) for each in options.where or ()]
    return Filter(options.type or (), options.key or (), conditions)


def _refuse_unknown(running: Running, options: Namespace, chosen: Filter) -> None:
    """A slip in a name would wait for ever. A pattern may match what is yet to come."""
    types = {spec_of(cls).type for cls in running.app.event_classes()}
    for name in options.type or ():
        if name not in types and not set(name) & set("*?["):
            near = suggestion(name, types)
            if near:
                raise NotFound(f"this app knows no event {name!r}", remedy=f"{near} A pattern works too: '{name}*'")
            say(f"this app knows no event {name!r}; known: {', '.join(sorted(types))}")
    _tell_unknown_fields([spec_of(cls) for cls in running.app.event_classes()], chosen.conditions)
    for name in options.topic or ():
        if name not in running._named:
            known = suggestion(name, running._named) or f"known: {', '.join(running._named)}"
            raise NotFound(f"this app has no topic {name!r}", remedy=known)


def _tell_unknown_fields(specs: Sequence[EventSpec], conditions: Sequence[Condition]) -> None:
    """It may be a field of an event that this code does not know, so it is no error."""
    known: set[str] = set()
    for spec in specs:
        names = fields_of(spec)
        if names is None:
            return
        known.update(names)
    for name in {each.path[0] for each in conditions} - known:
        near = suggestion(name, known) or f"known: {', '.join(sorted(known))}"
        say(f"no event of this app has a field {name!r}: {near}")


# -- reading ----------------------------------------------------------------------------------------------------------


class _Reading:
    """The topics of an app, read from a place. Nothing is told to anybody, so no position moves."""

    def __init__(self, running: Running, topics: Sequence[str] | None, begin: Start) -> None:
        self._running = running
        self._topics = list(topics or running._named)
        self._begin = begin
        self._consumer: Consumer | None = None
        self._known: dict[Partition, None] = {}
        self._ends: dict[Partition, int] = {}
        """What there was at the start, of partitions that are not read to there yet."""
        self._first = True

    async def events(self, *, follow: bool) -> AsyncGenerator[Seen]:
        """Of each key in order; what is read together is sorted by time."""
        try:
            while True:
                await self._look_around()
                if self._consumer is None:
                    if not follow:
                        return
                    await self._running.clock.sleep(LOOK_AGAIN)
                    continue
                async for seen in self._until_looked_again(self._consumer, follow=follow):
                    yield seen
                if not follow:
                    return
        finally:
            if self._consumer is not None:
                await self._consumer.close()

    async def _until_looked_again(self, consumer: Consumer, *, follow: bool) -> AsyncGenerator[Seen]:
        clock = self._running.clock
        until = clock.monotonic() + LOOK_AGAIN
        while True:
            if not follow and not self._ends:
                return
            wait = until - clock.monotonic() if follow else SILENCE
            found = await consumer.fetch(AT_ONCE, BYTES, max(0.0, wait))
            batches = [each for each in found if isinstance(each, Batch)]
            seen = [
                Seen(batch.partition, offset, envelope)
                for batch in batches
                for offset, envelope in zip(batch.offsets, batch.envelopes, strict=True)
            ]
            for each in sorted(seen, key=lambda each: each.envelope.time):
                yield each
            for batch in batches:
                if batch.next >= self._ends.get(batch.partition, 0):
                    self._ends.pop(batch.partition, None)
            if not batches:
                if not follow or clock.monotonic() >= until:
                    return
                await clock.sleep(0.0)

    async def _look_around(self) -> None:
        """Find topics and generations that are new, and read them: at the start from where it was asked for."""
        for name in self._topics:
            engine = self._running.engine
            log = await engine.log(self._running.place(name))
            if log is None:
                continue
            if self._consumer is None:
                self._consumer = engine.consumer("evenflow tail")
            for partition in _partitions(log):
                if partition not in self._known:
                    self._known[partition] = None
                    self._consumer.assign(partition, await self._offset(engine, partition))
        self._first = False

    async def _offset(self, engine: Engine, partition: Partition) -> int:
        bounds = await engine.bounds(partition)
        offset = bounds.low
        if self._begin == "end" and self._first:
            offset = bounds.high
        elif isinstance(self._begin, float):
            offset = max(bounds.low, await engine.find(partition, self._begin))
        if offset < bounds.high:
            self._ends[partition] = bounds.high
        return offset


def _partitions(log: Log) -> list[Partition]:
    return [each for generation in log.generations for each in log.partitions(generation.number)]


# -- showing ----------------------------------------------------------------------------------------------------------


def _json_line(seen: Seen) -> str:
    partition, offset, envelope = seen
    line: dict[str, Any] = {
        "topic": partition.topic,
        "generation": partition.generation,
        "partition": partition.number,
        "offset": offset,
        "time": datetime.fromtimestamp(envelope.time, UTC).isoformat(timespec="milliseconds"),
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
        "version": envelope.version,
        "key": envelope.key,
        "correlation": envelope.correlation or envelope.id,
        "causation": envelope.causation or None,
        "data": content(envelope),
    }
    return _json.encode(line).decode()


class _Line:
    """A line for a person: time, type in its colour, key, fields. The date stands where it changes."""

    def __init__(self) -> None:
        self._colours = coloured(sys.stdout)
        self._day = datetime.now().astimezone().date()

    def __call__(self, seen: Seen) -> str:
        envelope = seen.envelope
        when = datetime.fromtimestamp(envelope.time).astimezone()
        head = "" if when.date() == self._day else f"-- {when.date()} --\n"
        self._day = when.date()
        shown = content(envelope)
        data = shown if isinstance(shown, str) else _json.encode(shown).decode()
        key = "" if envelope.key is None else f"  {envelope.key}"
        clock = when.strftime("%H:%M:%S.%f")[:-3]
        if not self._colours:
            return f"{head}{clock}  {envelope.type}{key}  {data}"
        colour = _COLOURS[crc32(envelope.type.encode()) % len(_COLOURS)]
        return f"{head}\x1b[2m{clock}\x1b[0m  \x1b[{colour}m{envelope.type}\x1b[0m\x1b[1m{key}\x1b[0m  {data}"
