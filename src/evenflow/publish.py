"""Publishing without a transaction: straight into the engine, durable when it returns.

Calls of the same moment share an append, and what is called meanwhile waits for its answer: numbers are drawn in the
order of the calls, no answer overtakes another, and the numbers of a refused append are free again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import Context
from itertools import groupby
from typing import Any, NamedTuple

from evenflow.clock import Clock
from evenflow.engine import Engine, Outcome
from evenflow.envelope import Envelope
from evenflow.errors import PublishRefused, PublishUnknown, TransactionError
from evenflow.ids import SLOTS, new_id, new_ids, slot_of
from evenflow.outbox import Outbox
from evenflow.position import PROCESS_PREFIX
from evenflow.protection.backpressure import Gate, Gates
from evenflow.registry import Encode, Encoded, Registry
from evenflow.unit_of_work import cause, open_unit

DEADLINE = 30.0
"""Seconds after which an append without an answer is reported as unknown."""
AGAIN = 0.2
SHARE_EVENTS = 10_000
"""Events that share an append, about: the memory that it takes, and how long the first of them waits for the last."""


def opened_elsewhere() -> TransactionError:
    """The error for a call in another event loop than the one that opened the app."""
    return TransactionError(
        "the app was opened in another event loop: what is open belongs to that one",
        remedy="open it in the loop that uses it (app.sync.open opens one of its own); app.sync is for other threads",
    )


class Publisher:
    """The producer of this process: numbers per topic and slot, from a counter of its own."""

    def __init__(
        self,
        source: str,
        registry: Registry,
        ready: Callable[[str], Awaitable[Engine]],
        place: Callable[[str], str],
        outboxes: Sequence[Outbox],
        clock: Clock,
        *,
        event_limit: int,
        limits: Mapping[str, int],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.source = source
        self.producer = PROCESS_PREFIX + new_id(clock.now)
        self.ready = ready
        self.outboxes = outboxes
        self.relaying = [rows for outbox in outboxes for rows in (outbox.mine, outbox.joined)]
        """Not empty where this process has, or may have, committed events that are not in the engine yet."""
        self.clock = clock
        self._registry = registry
        self._place = place
        self._limit = event_limit
        self._limits = limits
        self.gates: Gates | None = None
        self._lines: dict[str, Line] = {}
        self._ways: dict[type, tuple[Encode, Line]] = {}

    def publish(self, events: Sequence[Any]) -> Awaitable[None]:
        """Append events; in the order given, per key. Nothing is appended when one of them is invalid.

        To be awaited at once: the order of calls is that of these calls.
        """
        unit = open_unit.get()
        if unit is not None and not unit.done:
            raise TransactionError(
                "app.publish inside an open transaction would be real before its commit",
                remedy="use tx.publish; it is published with the commit",
            )
        if len(events) == 1:
            (event,) = events
            encode, line = self._ways.get(type(event)) or self._way(type(event))
            encoded = encode(event, self._limits.get(line.topic, self._limit))
            if line.held or any(self.relaying):
                return line.enter((encoded,))
            return line.enter_one(encoded)
        by_line: dict[Line, list[Encoded]] = {}
        for cls, same in groupby(events, type):
            encode, line = self._ways.get(cls) or self._way(cls)
            limit = self._limits.get(line.topic, self._limit)
            by_line.setdefault(line, []).extend([encode(event, limit) for event in same])
        entered = [line.enter(encoded) for line, encoded in by_line.items()]
        return entered[0] if len(entered) == 1 else _all(entered)

    def _way(self, cls: type) -> tuple[Encode, Line]:
        """How events of a class are published."""
        if asyncio.get_running_loop() is not self.loop:
            raise opened_elsewhere()
        encode = self._registry.encoder(cls)
        name = self._registry.add(cls).spec.topic.name
        line = self._lines.get(name)
        if line is None:
            place = self._place(name)
            gate = self.gates.of(place) if self.gates else None
            line = self._lines[name] = Line(self, place) if gate is None else GatedLine(self, place, gate)
        self._ways[cls] = encode, line
        return encode, line

    async def close(self) -> None:
        """Append what waits. An engine that does not answer is not asked again."""
        for line in self._lines.values():
            await line.close()


async def _all(awaited: Sequence[Awaitable[None]]) -> None:
    """Wait for every topic; raises the first error."""
    entered = [asyncio.ensure_future(each) for each in awaited]
    try:
        await asyncio.gather(*entered, return_exceptions=True)
    finally:
        for each in entered:
            each.cancel()
    for each in entered:
        each.result()


class _Share:
    """Calls that share an append: who waits, for which events. Most calls have one event, and no cause."""

    __slots__ = ("causes", "counts", "encoded", "waiting")

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.encoded: list[Encoded] = []
        self.counts: dict[int, int] = {}
        """By the place of the call: how many events it has, where that is not one."""
        self.causes: dict[int, Envelope] = {}

    def add(self, done: asyncio.Future[None], encoded: Sequence[Encoded], because: Envelope | None) -> None:
        if len(encoded) != 1:
            self.counts[len(self.waiting)] = len(encoded)
        if because is not None:
            self.causes[len(self.waiting)] = because
        self.waiting.append(done)
        self.encoded += encoded

    def calls(self) -> Iterator[tuple[asyncio.Future[None], slice, Envelope | None]]:
        """One by one; the slice is where its events stand."""
        start = 0
        for place, done in enumerate(self.waiting):
            stop = start + self.counts.get(place, 1)
            yield done, slice(start, stop), self.causes.get(place)
            start = stop


class _Held(NamedTuple):
    """A call that waits for an outbox."""

    done: asyncio.Future[None]
    encoded: Sequence[Encoded]
    because: Envelope | None
    slots: frozenset[int]
    until: float


class Line:
    """Calls on their way to one topic, in order."""

    def __init__(self, publisher: Publisher, topic: str) -> None:
        self.topic = topic
        self.held: deque[_Held] = deque()
        """Calls that wait for an outbox; what is called for one of their slots stays behind."""
        self._of = publisher
        self._clock = publisher.clock
        self._numbers = [0] * SLOTS
        self._next = _Share()
        self._loop = publisher.loop
        self._task: asyncio.Task[None] | None = None
        self._holding: asyncio.Task[None] | None = None
        self._closing = False

    def enter_one(self, encoded: Encoded) -> Awaitable[None]:
        """The answer for one event, when it is there. A call that is cancelled before its append is not appended."""
        share, because = self._next, cause.get()
        if because is not None:
            share.causes[len(share.waiting)] = because
        done: asyncio.Future[None] = self._loop.create_future()
        share.waiting.append(done)
        share.encoded.append(encoded)
        if self._task is None:
            self._start()
        return done

    def _enter(self, done: asyncio.Future[None], encoded: Sequence[Encoded], because: Envelope | None) -> None:
        self._next.add(done, encoded, because)
        if self._task is None:
            self._start()

    def _start(self) -> None:
        self._task = self._loop.create_task(self._run(), context=Context())
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        if self._task is task:  # cancelled before its first step
            self._task = None
            self._give_up(self._next)

    def enter(self, encoded: Sequence[Encoded]) -> Awaitable[None]:
        """The same for several, after what this process has committed before for their slots, and what waits for it."""
        done: asyncio.Future[None] = self._loop.create_future()
        if self.held or any(self._of.relaying):
            slots = frozenset([each[2] for each in encoded])
            held = any(not slots.isdisjoint(each.slots) for each in self.held)
            if held or any(outbox.holds(self.topic, slots) for outbox in self._of.outboxes):
                until = self._clock.monotonic() + DEADLINE
                self.held.append(_Held(done, encoded, cause.get(), slots, until))
                if self._holding is None:
                    self._holding = self._loop.create_task(self._hold(), context=Context())
                return done
        self._enter(done, encoded, cause.get())
        return done

    async def _hold(self) -> None:
        """Let those that wait for an outbox go on, one after another."""
        try:
            while self.held:
                call = self.held[0]
                try:
                    for outbox in self._of.outboxes:
                        if not await outbox.wait_for_slots(self.topic, call.slots, call.until):
                            raise _behind(outbox)
                except Exception as error:
                    _tell(call.done, error)
                else:
                    self._enter(call.done, call.encoded, call.because)
                self.held.popleft()
        finally:
            self._holding = None

    async def close(self) -> None:
        """Wait until all that can have their answer have it."""
        self._closing = True
        if self._holding is not None:
            self._holding.cancel()
            for call in self.held:
                _tell(
                    call.done,
                    PublishRefused("the app was closed before its outbox was empty", remedy="publish it again"),
                )
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        share = self._next
        try:
            while self._next.waiting:
                share = self._take()
                try:
                    await self._append(share)
                except Exception as error:
                    for done in share.waiting:
                        _tell(done, error)
        except BaseException:  # this task was cancelled, not those that wait
            self._give_up(share)
            raise
        finally:
            self._task = None

    def _give_up(self, share: _Share) -> None:
        """Cancel those of this share, and those that would have had the next."""
        for done in (*share.waiting, *self._next.waiting):
            done.cancel()
        self._next = _Share()

    def _take(self) -> _Share:
        """Those that share the next append: a stretch of the line, without those that were cancelled."""
        share, self._next = self._next, _Share()
        if len(share.encoded) <= SHARE_EVENTS and not any(map(asyncio.Future.done, share.waiting)):
            return share
        taken = _Share()
        for done, place, because in share.calls():
            if not done.done():
                full = self._next.waiting or len(taken.encoded) >= SHARE_EVENTS
                (self._next if full else taken).add(done, share.encoded[place], because)
        return taken

    async def _append(self, share: _Share) -> None:
        engine = await self._of.ready(self.topic)
        envelopes = self._envelopes(share)
        deadline = self._clock.monotonic() + DEADLINE
        outcomes = await engine.append(self.topic, envelopes)
        if outcomes.count(Outcome.STORED) == len(envelopes):
            for done in share.waiting:
                if not done.done():
                    done.set_result(None)
            return
        parts = [_Part(done, envelopes[place]) for done, place, _ in share.calls()]
        while parts := self._settled(engine, parts, outcomes):
            if self._closing or self._clock.monotonic() >= deadline:
                for part in parts:
                    _tell(part.done, part.unknown(engine))
                return
            await self._clock.sleep(AGAIN)
            outcomes = await engine.append(self.topic, [each for part in parts for each in part.left])

    def _envelopes(self, share: _Share) -> list[Envelope]:
        if not share.causes:
            return self.made(share.encoded, None)
        return [each for _, place, because in share.calls() for each in self.made(share.encoded[place], because)]

    def made(self, encoded: Sequence[Encoded], because: Envelope | None) -> list[Envelope]:
        """The hot path of publishing: ids and numbers, in the order of the calls."""
        now = self._clock.now()
        numbers, source, producer = self._numbers, self._of.source, self._of.producer
        correlation, causation = ("", "") if because is None else (because.correlation or because.id, because.id)
        envelopes = []
        for id_, (spec, key, slot, data, content_type) in zip(new_ids(len(encoded), now), encoded, strict=True):
            place = slot if slot >= 0 else slot_of(id_)
            number = numbers[place] = numbers[place] + 1
            envelopes.append(
                Envelope(
                    id_, source, spec.type, spec.version, key, place, now, data,
                    producer, number, correlation, causation, content_type,
                )
            )  # fmt: skip
        return envelopes

    def _settled(self, engine: Engine, parts: list[_Part], outcomes: Sequence[Outcome]) -> list[_Part]:
        """Tell those whose answer is known; gives the others. One's doubt is not another's."""
        answers, doubtful, refused = iter(outcomes), [], list[Envelope]()
        for part in parts:
            part.take(answers)
            if part.left and part.doubtful:
                doubtful.append(part)
            elif part.left:
                refused += part.left
                _tell(part.done, part.refused(engine))
            elif not part.done.done():
                part.done.set_result(None)
        for envelope in reversed(refused):  # numbers of what surely is not stored are free, where they were the last
            if self._numbers[envelope.slot] == envelope.number:
                self._numbers[envelope.slot] -= 1
        return doubtful


class GatedLine(Line):
    """Calls on their way to a topic with a limit. Those of handlers never wait at its gate."""

    def __init__(self, publisher: Publisher, topic: str, gate: Gate) -> None:
        super().__init__(publisher, topic)
        self._gate = gate

    def enter_one(self, encoded: Encoded) -> Awaitable[None]:
        if cause.get() is not None or self._gate.clear():
            return super().enter_one(encoded)
        return self._through((encoded,))

    def enter(self, encoded: Sequence[Encoded]) -> Awaitable[None]:
        if cause.get() is not None or self._gate.clear():
            return super().enter(encoded)
        return self._through(encoded)

    async def _through(self, encoded: Sequence[Encoded]) -> None:
        await self._gate.enter()
        await super().enter(encoded)


class _Part:
    """One call in an append that was not stored as a whole."""

    def __init__(self, done: asyncio.Future[None], envelopes: list[Envelope]) -> None:
        self.done = done
        self.count = len(envelopes)
        self.left = envelopes
        self.doubtful = False

    def take(self, answers: Iterator[Outcome]) -> None:
        outcomes = [(envelope, next(answers)) for envelope in self.left]
        self.left = [envelope for envelope, outcome in outcomes if outcome is not Outcome.STORED]
        self.doubtful = self.doubtful or any(outcome is Outcome.UNKNOWN for _, outcome in outcomes)

    def refused(self, engine: Engine) -> PublishRefused:
        left = len(self.left)
        return PublishRefused(
            f"{left} of {self.count} events were not stored by the {engine.name} engine: "
            + (engine.trouble or "it gave no reason")
            + (f"; {self.count - left} were" if self.count > left else ""),
            remedy="publish them again when the engine is well, or publish in a transaction: the outbox waits",
        )

    def unknown(self, engine: Engine) -> PublishUnknown:
        return PublishUnknown(
            f"the {engine.name} engine did not say within {DEADLINE:g} s whether {len(self.left)} events are stored"
        )


def _behind(outbox: Outbox) -> PublishRefused:
    why = f": {outbox.trouble}" if outbox.trouble else ""
    return PublishRefused(
        f"what this process has published before for these keys waits in its outbox for more than {DEADLINE:g} s{why}",
        remedy="publish it again when the outbox is empty (evenflow doctor says why it is not), or in a transaction",
    )


def _tell(done: asyncio.Future[None], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
