"""One pass over a batch of one partition: the handler of a transactional group, called event by event.

It begins swiftly, where nothing about the events is special, and goes on event by event from the first that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Iterator
from itertools import islice, repeat
from operator import call
from typing import Any

from evenflow.calling import Calling, publish_all
from evenflow.drive import HandlerTimeout, Repeat, ends_us
from evenflow.engine import Batch
from evenflow.envelope import Envelope
from evenflow.envelopes import Envelopes
from evenflow.errors import FenceLost, StoreUnavailable
from evenflow.group import GroupLoop
from evenflow.parking import ParkingFull, lane_of
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
        self._taken = False
        """Whether the numbers of all its events are taken already."""

    async def run(self) -> Progress:
        """Work through the batch, as far as it goes."""
        progress = self.progress
        known = await self.loop.known_strangers(self.batch)
        self.unit.envelopes = self.batch.envelopes
        await self.work_through(known)
        self.unit.current = None
        if progress.blocked:
            progress.stop_at(self.batch, progress.next, dense=self.loop.work.dense(progress.owned))
        return progress

    async def work_through(self, known: set[tuple[str, str]]) -> None:
        """Call the handler for each event."""
        done = await self._swiftly()
        if self.progress.complete and done < len(self.batch.envelopes):
            await self._one_by_one(self.select(done, known))

    async def park_first(self, error: Exception) -> Progress:
        """Park its first event, uncalled, unless it is a repeat."""
        progress, offset, envelope = self.progress, self.batch.offsets[0], self.batch.envelopes[0]
        if self._new(offset, envelope, await self.loop.known_strangers(self.batch)):
            self.park(offset, envelope, error)
        if progress.blocked:
            progress.stop_at(self.batch, offset, dense=self.loop.work.dense(progress.owned))
        return progress

    # -- the hot path -----------------------------------------------------------------------------------------------

    def events(self) -> Iterator[Any] | None:
        """The events, decoded as they are asked for, if all of them are new, ours, and behind no parked one."""
        progress, envelopes = self.progress, self.batch.envelopes
        if self.careful or progress.owned.lanes:
            return None
        events = decoded(self.loop.work.bindings, envelopes)
        if events is None:
            return None
        self._taken = progress.taking.take_run(envelopes, dense=self.loop.work.dense(progress.owned))
        if not self._taken:
            progress.taking = progress.owned.marks.fork()
            return None
        return events

    async def _swiftly(self) -> int:
        """Call the handler for one event after another, until something about one is special. How many are done."""
        work, unit = self.loop.work, self.unit
        plain = work.around_event is None and work.spec.delivery is None and not work.spec.blocking
        events = self.events() if plain else None
        if events is None:
            return 0
        function = work.direct or (lambda event, tx: work.call(event, tx, None))
        statements, published, tx = unit.statements, unit.published, None
        place = start = first = 0
        unit.noticed = False
        try:
            for event in events:
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
        except BaseException as error:
            self.progress.handled = place
            if tx is None or tx._cause != place:
                return place  # it could not be decoded
            await self.failed(self.batch.offsets[place], self.batch.envelopes[place], error, tx, (start, first))
            if self.calling.alone:
                self._cut(place)
            return place + 1
        self.progress.handled = place
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
                self.park(offset, envelope, error)
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
                await self._call(offset, envelope, event, tx)
                if unit.failed is not None:
                    raise Repeat from unit.failed
            except BaseException as error:
                await self.failed(offset, envelope, error, tx, mark)
            else:
                progress.handled += 1
            if self.calling.alone is not alone:
                self._cut(list(self.batch.offsets).index(offset))
            if not progress.complete:
                break

    async def _call(self, offset: int, envelope: Envelope, event: Any, tx: Transaction) -> None:
        unit = self.unit
        if self.careful:
            unit.current = None
            await unit.flush()
            await (await unit.begin()).savepoint()
            unit.current = tx
        await self.calling.call(unit, tx, event, self.loop.delivery(self.progress.owned, offset, envelope, 1))
        if self.careful:
            await unit.flush()
            await (await unit.begin()).release()

    # -- failures ---------------------------------------------------------------------------------------------------

    async def failed(
        self, offset: int, envelope: Envelope, error: BaseException, tx: Transaction, mark: tuple[int, int]
    ) -> None:
        """Take back what the event did, and park it. Raises what is not the event's fault."""
        unit = self.unit
        unit.current = None
        if unit.expired is tx and isinstance(error, asyncio.CancelledError):
            error = HandlerTimeout(self.loop.spec.policy.timeout)
        elif ends_us(error) or isinstance(error, (StoreUnavailable, FenceLost, Repeat)):
            raise error
        if self.careful:
            await unit.undo_to_savepoint(mark)
        elif unit.ran is tx or not unit.undo(mark):
            raise Repeat from error
        self.park(offset, envelope, error)

    def park(self, offset: int, envelope: Envelope, error: BaseException) -> None:
        """Set a failed event aside in the same transaction; where there is no place left, the partition waits."""
        loop, progress = self.loop, self.progress
        lane = lane_of(envelope, progress.owned.partition, offset)
        try:
            decision = loop.parking.failed(self.unit, progress.owned, offset, envelope, lane, error)
        except ParkingFull as full:
            progress.block(offset, full.message)
            return
        progress.lanes.add(lane)
        loop.told_failure(decision, envelope, error)

    def _held(self, offset: int, envelope: Envelope) -> bool:
        """Whether an earlier event of its key is parked."""
        lane = lane_of(envelope, self.progress.owned.partition, offset)
        return lane in self.progress.owned.lanes or lane in self.progress.lanes

    def behind(self, offset: int, envelope: Envelope) -> bool:
        """Park an event because an earlier one of its key is. False where there is no place left."""
        loop, owned = self.loop, self.progress.owned
        try:
            loop.parking.behind(self.unit, owned, offset, envelope, lane_of(envelope, owned.partition, offset))
        except ParkingFull as full:
            self.progress.block(offset, full.message)
            return False
        loop.counters.behind += 1
        return True


def decoded(bindings: dict[str, Binding], envelopes: Envelopes) -> Iterator[Any] | None:
    """The events of a run, decoded as they are asked for; None unless each is for us, and read from its bytes alone."""
    kinds = (envelopes.types, envelopes.versions, envelopes.content_types)
    if list not in map(type, kinds):
        decode = _decoder(bindings, *kinds)
        return None if decode is None else map(decode, envelopes.data)
    columns = [column if type(column) is list else repeat(column) for column in kinds]
    decoders = {kind: _decoder(bindings, *kind) for kind in dict.fromkeys(zip(*columns, strict=False))}
    if None in decoders.values():
        return None
    return map(call, map(decoders.__getitem__, zip(*columns, strict=False)), envelopes.data)


def _decoder(bindings: dict[str, Binding], type_: Any, version: Any, content_type: Any) -> Any:
    binding = bindings.get(type_)
    if binding is None or (version, content_type) != (binding.version, binding.content_type):
        return None
    return binding.decode
