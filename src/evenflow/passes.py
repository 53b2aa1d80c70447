"""One pass over a batch of one partition: the handler of a transactional group, called event by event.

It begins swiftly, where nothing about the events is special, and goes on event by event from the first that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice, repeat
from operator import call
from typing import Any

from evenflow.calling import Calling, publish_all
from evenflow.drive import Repeat, ends_us
from evenflow.engine import Batch
from evenflow.envelope import Envelope
from evenflow.envelopes import Envelopes
from evenflow.errors import FenceLost, StoreConflict, StoreUnavailable
from evenflow.failure import Failure
from evenflow.group import GroupLoop
from evenflow.parking import ParkingFull, lane_of
from evenflow.policy import HandlerTimeout
from evenflow.registry import Binding
from evenflow.unit_of_work import Transaction, UnitOfWork
from evenflow.work import Progress

Item = tuple[int, Envelope, Any]
"""Offset, envelope, event."""


class Pass:
    """One pass over a batch in a unit of work. A careful one has each event under a savepoint."""

    def __init__(self, loop: GroupLoop, calling: Calling, unit: UnitOfWork, batch: Batch, *, careful: bool) -> None:
        self.loop = loop
        self.calling = calling
        self.unit = unit
        self.batch = batch
        self.careful = careful
        owned = loop.owned[batch.partition]
        self.progress = Progress(owned, batch.next, batch.envelopes.id_at(len(batch.envelopes) - 1), owned.marks.fork())
        self.held: list[int] = []
        """Places of events that stand behind a parked one of their key, where that was looked up for all at once."""
        self._taken = False
        """Whether the numbers of all its events are taken already."""
        self._parked: list[tuple[int, str]] = []
        """Offset and lane of what was set aside."""

    async def run(self) -> Progress:
        """Work through the batch, as far as it goes."""
        progress = self.progress
        known = await self.loop.known_strangers(self.batch)
        self.unit.envelopes = self.batch.envelopes
        await self.work_through(known)
        self.unit.current = None
        if progress.blocked:
            self._stop_there()
        return progress

    def _stop_there(self) -> None:
        """Take nothing from where the partition has to wait: of a list, later events may be set aside by then."""
        loop, progress = self.loop, self.progress
        progress.stop_at(self.batch, progress.next, dense=loop.work.dense(progress.owned))
        progress.lanes = {lane for offset, lane in self._parked if offset < progress.next}
        progress.failures = [each for each in progress.failures if each[0] < progress.next]
        for offset, lane in self._parked:
            if offset >= progress.next:
                loop.parking.undo(self.unit, progress.owned, lane, offset)

    async def work_through(self, known: set[tuple[str, str]]) -> None:
        """Call the handler for each event."""
        done = await self._swiftly()
        if self.progress.complete and done < len(self.batch.envelopes):
            await self._one_by_one(self.select(done, known))

    async def park_first(self, error: Exception) -> Progress:
        """Park its first event, uncalled, unless it is a repeat."""
        progress, offset, envelope = self.progress, self.batch.offsets[0], self.batch.envelopes[0]
        if self._new(offset, envelope, await self.loop.known_strangers(self.batch)):
            self.park(offset, envelope, self.loop.parking.judge(error))
        if progress.blocked:
            self._stop_there()
        return progress

    # -- the hot path -----------------------------------------------------------------------------------------------

    def events(self) -> Iterator[Any] | None:
        """The events, decoded as they are asked for, if all of them are new and ours. Those `held` are left out."""
        progress, envelopes = self.progress, self.batch.envelopes
        if self.careful:
            return None
        if progress.owned.lanes:
            self.held = self._held_places()
        events = decoded(self.loop.work.bindings, envelopes, self.held)
        if events is None:
            return None
        self._taken = progress.taking.take_run(envelopes, dense=self.loop.work.dense(progress.owned))
        if not self._taken:
            progress.taking = progress.owned.marks.fork()
            return None
        return events

    def _held_places(self) -> list[int]:
        owned, offsets = self.progress.owned, self.batch.offsets
        lanes, (_, generation, number) = owned.lanes, owned.partition
        keys = self.batch.envelopes.keys()
        if None not in keys:
            return [place for place, key in enumerate(keys) if f"k{key}" in lanes]
        return [
            place
            for place, key in enumerate(keys)
            if (f"k{key}" if key is not None else f"#{generation}/{number}/{offsets[place]}") in lanes
        ]

    async def _swiftly(self) -> int:
        """Call the handler for one event after another, until something about one is special. How many are done."""
        work, unit, batch, held = self.loop.work, self.unit, self.batch, 0
        plain = work.around_event is None and work.spec.delivery is None and not work.spec.blocking
        events = self.events() if plain else None
        if events is None:
            return 0
        function = work.direct or (lambda event, tx: work.call(event, tx, None))
        statements, published, tx = unit.statements, unit.published, None
        place = start = first = 0
        unit.noticed = False
        try:
            for stop in (*self.held, len(batch.offsets)):
                for event in islice(events, stop - place) if self.held else events:
                    tx = unit.current = Transaction(unit, place)
                    start, first = len(statements), len(published)
                    result = await function(event, tx)
                    if result is not None:
                        publish_all(tx, result)
                    if unit.noticed:
                        self._notice(place)
                        place += 1
                        break
                    place += 1
                else:
                    if stop == len(batch.offsets) or not self.behind(batch.offsets[stop], batch.envelopes[stop]):
                        break
                    place, held = place + 1, held + 1
                    continue
                break
        except BaseException as error:
            self.progress.handled = place - held
            if tx is None or tx._cause != place:
                return place  # it could not be decoded
            offset, envelope = batch.offsets[place], batch.envelopes[place]
            await self._again(offset, envelope, event, await self.failed(error, tx, (start, first)))
            if self.calling.alone:
                self._cut(place)
            return place + 1
        self.progress.handled = place - held
        return place

    def _notice(self, place: int) -> None:
        """After an event at which something was noticed."""
        unit = self.unit
        unit.noticed = False
        if unit.failed is not None:
            raise Repeat from unit.failed
        self._cut(place)

    def _cut(self, place: int) -> None:
        """The chunk ends with this event: it was the first to wait for something outside."""
        progress = self.progress
        if progress.complete and place + 1 < len(self.batch.offsets):
            progress.stop_at(self.batch, self.batch.offsets[place + 1], dense=self.loop.work.dense(progress.owned))

    # -- event by event ---------------------------------------------------------------------------------------------

    def select(self, start: int, known: set[tuple[str, str]]) -> Generator[Item]:
        """From a place on: what is new, asked for, readable, and behind no parked event of its key.

        One by one, so that what the last event needed serves the next, and is not cold by then.
        """
        loop, progress, batch = self.loop, self.progress, self.batch
        bindings, topic = loop.work.bindings, batch.partition.topic
        for offset, envelope in islice(zip(batch.offsets, batch.envelopes, strict=True), start, None):
            if not (self._taken or self._new(offset, envelope, known)):
                continue
            binding = bindings.get(envelope.type)
            if binding is None:
                loop.counters.skipped += 1
                continue
            if (progress.owned.lanes or progress.lanes) and self._held(offset, envelope):
                if not self.behind(offset, envelope):
                    break
                continue
            try:
                event = binding.read(envelope, topic)
            except Exception as error:
                self.park(offset, envelope, loop.parking.judge(error))
                if not progress.complete:
                    break
                continue
            yield offset, envelope, event

    def _new(self, offset: int, envelope: Envelope, known: set[tuple[str, str]]) -> bool:
        if envelope.producer:
            return self.loop.fresh(self.progress.owned, self.progress.taking, envelope)
        return self.loop.first_seen(self.progress, offset, envelope, known)

    async def _one_by_one(self, items: Iterable[Item]) -> None:
        unit, progress, alone = self.unit, self.progress, self.calling.alone
        for offset, envelope, event in items:
            mark = unit.mark()
            tx = unit.current = Transaction(unit, envelope)
            try:
                await self._call(offset, envelope, event, tx, 1)
            except BaseException as error:
                await self._again(offset, envelope, event, await self.failed(error, tx, mark))
            else:
                progress.handled += 1
            if self.calling.alone is not alone:
                self._cut(list(self.batch.offsets).index(offset))
            if not progress.complete:
                break

    async def _call(self, offset: int, envelope: Envelope, event: Any, tx: Transaction, attempt: int) -> None:
        unit = self.unit
        if self.careful:
            unit.current = None
            await unit.flush()
            await (await unit.begin()).savepoint()
            unit.current = tx
        await self.calling.call(unit, tx, event, self.loop.delivery(self.progress.owned, offset, envelope, attempt))
        if unit.failed is not None:  # and the handler has gone on
            raise unit.failed if self.careful else Repeat from unit.failed
        if self.careful:
            unit.current = None  # what is waited for from here on is not the handler's
            await unit.flush()
            await (await unit.begin()).release()

    # -- failures ---------------------------------------------------------------------------------------------------

    async def failed(
        self, error: BaseException, tx: Transaction, mark: tuple[int, int], earlier: Failure | None = None
    ) -> Failure:
        """Take back what the event did, and say what follows. Raises what is not the event's fault."""
        unit = self.unit
        unit.current = None
        expired, unit.expired = unit.expired is tx, None
        if expired and isinstance(error, asyncio.CancelledError):
            error = HandlerTimeout(self.loop.spec.policy.timeout)
        elif ends_us(error) or isinstance(error, (StoreUnavailable, FenceLost, Repeat)):
            raise error
        elif isinstance(unit.failed, StoreConflict):
            raise unit.failed from error
        self.loop.parking.stop_for(error)
        if self.careful:
            await unit.undo_to_savepoint(mark)
        elif unit.ran is tx or not unit.undo(mark):
            raise Repeat from error
        return self.loop.parking.judge(error, 1 if earlier is None else earlier.attempt + 1, earlier=earlier)

    async def _again(self, offset: int, envelope: Envelope, event: Any, failure: Failure) -> None:
        """Call the handler again in place, as often as its policy says, and park the event where that does not help."""
        unit = self.unit
        while failure.again:
            mark = unit.mark()
            tx = unit.current = Transaction(unit, envelope)
            try:
                await self._call(offset, envelope, event, tx, failure.attempt + 1)
            except BaseException as error:
                failure = await self.failed(error, tx, mark, failure)
            else:
                self.progress.handled += 1
                return
        self.park(offset, envelope, failure)

    def park(self, offset: int, envelope: Envelope, failure: Failure) -> None:
        """Set a failed event aside in the same transaction; where there is no place left, the partition waits."""
        loop, progress = self.loop, self.progress
        lane = lane_of(envelope, progress.owned.partition, offset)
        try:
            loop.parking.failed(self.unit, progress.owned, offset, envelope, lane, failure)
        except ParkingFull as full:
            progress.block(offset, full.message)
            return
        progress.lanes.add(lane)
        progress.failures.append((offset, envelope, failure))
        self._parked.append((offset, lane))

    def _held(self, offset: int, envelope: Envelope) -> bool:
        """Whether an earlier event of its key is parked."""
        lane = lane_of(envelope, self.progress.owned.partition, offset)
        return lane in self.progress.owned.lanes or lane in self.progress.lanes

    def behind(self, offset: int, envelope: Envelope) -> bool:
        """Park an event because an earlier one of its key is. False where there is no place left."""
        loop, owned = self.loop, self.progress.owned
        lane = lane_of(envelope, owned.partition, offset)
        try:
            loop.parking.behind(self.unit, owned, offset, envelope, lane)
        except ParkingFull as full:
            self.progress.block(offset, full.message)
            return False
        self._parked.append((offset, lane))
        loop.counters.behind += 1
        return True


def decoded(bindings: dict[str, Binding], envelopes: Envelopes, without: Sequence[int]) -> Iterator[Any] | None:
    """The events of a run but for these places, decoded as they are asked for.

    None unless each is for us, and read from its bytes alone.
    """
    kinds = (envelopes.types, envelopes.versions, envelopes.content_types)
    if list not in map(type, kinds):
        decode = _decoder(bindings, *kinds)
        return None if decode is None else map(decode, _others(envelopes.data, without))
    columns = [column if type(column) is list else repeat(column) for column in kinds]
    decoders = {kind: _decoder(bindings, *kind) for kind in dict.fromkeys(zip(*columns, strict=False))}
    if None in decoders.values():
        return None
    each = map(decoders.__getitem__, zip(*columns, strict=False))
    return map(call, _others([*each], without) if without else each, _others(envelopes.data, without))


def _others(column: list[Any], without: Sequence[int]) -> list[Any]:
    if not without:
        return column
    kept = column.copy()
    for place in reversed(without):
        del kept[place]
    return kept


def _decoder(bindings: dict[str, Binding], type_: Any, version: Any, content_type: Any) -> Any:
    binding = bindings.get(type_)
    if binding is None or (version, content_type) != (binding.version, binding.content_type):
        return None
    return binding.decode
