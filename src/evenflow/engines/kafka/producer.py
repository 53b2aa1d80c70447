"""Appending: records are handed to the client library on the event loop, and a thread collects what became of them.

The library keeps the order of each partition by itself and gives nothing up. So the deadline is ours: when it is over,
the producer is thrown away with all that it holds, whose outcome is unknown, and another takes its place. What comes
while no broker can be reached waits outside of the library; if it waits too long, it surely was not stored.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from evenflow.clock import Clock, Signal
from evenflow.engine import Outcome
from evenflow.engines.kafka.client import Client, KafkaError, KafkaException, reason_of
from evenflow.engines.kafka.options import BATCH
from evenflow.engines.kafka.records import headers_of
from evenflow.engines.kafka.reports import CLOSING, Call, Reports
from evenflow.envelope import Envelope
from evenflow.topic import Topic

LOOK = 0.5
"""Seconds between two looks at the deadline, while anything is under way."""
RECORDS = 100_000
SIZE = 128 << 20
"""What may be under way at once; more waits for its turn."""

_SURELY_NOT = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError._MSG_TIMED_OUT,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.POLICY_VIOLATION,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError._BAD_MSG,
    }
)
"""What the broker answers for a record that it has not stored."""


class Lost(Exception):
    """Nobody knows what became of these records: their deadline is over, or the producer has failed."""


class Target:
    """Where an append goes: the topic's name on Kafka and how many partitions it has."""

    __slots__ = ("compacted", "name", "partitions", "shown")

    def __init__(self, name: str, partitions: int, *, compacted: bool, shown: Topic | None = None) -> None:
        self.name = name
        self.partitions = partitions
        self.compacted = compacted
        self.shown = shown


class Producer:
    """Appends records, in call order. All its methods are for the event loop. `batch`: bytes that it sends together."""

    def __init__(self, client: Client, clock: Clock, batch: int = BATCH) -> None:
        self._client = client
        self._batch = batch
        self._clock = clock
        self._calls: dict[Call, None] = {}
        self._records = 0
        self._bytes = 0
        self._turns: deque[Signal] = deque()
        self._up = Signal()
        self._up.set()
        self._closed = False
        self._reports = Reports(self, client, batch)
        self._look: Any = None
        self.rebuilt = 0
        """How often the producer was thrown away."""

    async def append(self, target: Target, envelopes: Sequence[Envelope]) -> tuple[list[Outcome], KafkaError | None]:
        """What became of each of them, and the first error."""
        if not envelopes:
            return [], None
        size = sum([len(each.data) for each in envelopes])
        free = not self._turns and self._up.is_set() and self._room(size) and not self._closed
        if not free and not await self._turn(size):
            return [Outcome.REFUSED] * len(envelopes), None
        call = Call(len(envelopes), size, self._clock.monotonic())
        self._begin(call)
        self._produce(call, target, envelopes)
        try:
            await call.future
        except Lost:
            return [Outcome.UNKNOWN] * len(envelopes), None
        if not call.errors:
            return [Outcome.STORED] * len(envelopes), None
        return _outcomes(envelopes, call.errors), next(iter(call.errors.values()))

    async def close(self) -> None:
        """Let what is under way end, but not for long."""
        until = self._clock.monotonic() + CLOSING
        while self._calls and self._clock.monotonic() < until and self._up.is_set():
            await self._clock.sleep(0.005)
        self._closed = True
        for turn in self._turns:
            turn.set()
        self._give_up()
        self._reports.stop()
        await asyncio.to_thread(self._reports.join)

    # -- how much is under way ----------------------------------------------------------------------------------------

    def _room(self, size: int) -> bool:
        return not self._calls or (self._records < RECORDS and self._bytes + size <= SIZE)

    async def _turn(self, size: int) -> bool:
        """Wait for our turn, behind those who came before; False when it has not come before the deadline."""
        mine = Signal()
        self._turns.append(mine)
        until = self._clock.monotonic() + self._client.options.deadline
        try:
            while not self._closed:
                if self._turns[0] is mine and self._up.is_set() and self._room(size):
                    return True
                left = until - self._clock.monotonic()
                if left <= 0:
                    break
                mine.clear()
                await self._clock.wait(mine, left)
            return False
        finally:
            self._turns.remove(mine)
            self._next()

    def _next(self) -> None:
        """Who is first in the line is to look whether it is its turn."""
        if self._turns:
            self._turns[0].set()

    def _begin(self, call: Call) -> None:
        self._calls[call] = None
        self._records += call.count
        self._bytes += call.size
        if self._look is None:
            self._look = self._clock.call_later(LOOK, self._check)

    def _end(self, call: Call, error: Exception | None) -> None:
        if self._calls.pop(call, call) is call:
            return
        self._records -= call.count
        self._bytes -= call.size
        if not call.future.done():
            call.future.set_exception(error) if error else call.future.set_result(None)

    # -- the library --------------------------------------------------------------------------------------------------

    def _produce(self, call: Call, target: Target, envelopes: Sequence[Envelope]) -> None:
        produce, reported = self._reports.producer.produce, self._reports.reported
        name, partitions, shown = target.name, target.partitions, target.shown
        for index, envelope in enumerate(envelopes):
            key = envelope.key
            keyless = key is None and target.compacted
            try:
                produce(
                    name,
                    envelope.data,
                    envelope.id if keyless else key,
                    envelope.slot % partitions,
                    on_delivery=partial(reported, call, index),
                    headers=headers_of(envelope, keyless=keyless, shown=shown),
                )
            except KafkaException as error:
                self._reports.refused(call, index, reason_of(error))
            except BufferError:
                self._reports.refused(call, index, KafkaError(KafkaError._QUEUE_FULL))

    def settled(self, reports: Reports, calls: Sequence[Call], fatal: bool) -> None:
        """These are over, as the thread of reports has found."""
        for call in calls:
            self._end(call, None)
        if calls:
            self._client.answered()
            self.reachable(reports, True)
        if fatal and not self._closed and reports is self._reports:
            self._rebuild()
        self._next()

    def reachable(self, reports: Reports, up: bool) -> None:
        """A broker has answered, or none can be reached. What was thrown away has no say."""
        if reports is not self._reports:
            return
        if up:
            self._up.set()
            self._next()
        else:
            self._up.clear()

    def _check(self) -> None:
        """Throw the producer away when its oldest record has passed the deadline."""
        self._look = None
        if not self._calls or self._closed:
            return
        oldest = next(iter(self._calls))
        if self._clock.monotonic() - oldest.began >= self._client.options.deadline:
            self._rebuild()
        if self._calls:
            self._look = self._clock.call_later(LOOK, self._check)

    def _rebuild(self) -> None:
        self.rebuilt += 1
        old, self._reports = self._reports, Reports(self, self._client, self._batch, down=not self._up.is_set())
        old.stop()
        self._give_up()
        self._next()

    def _give_up(self) -> None:
        for call in list(self._calls):
            self._end(call, Lost())


def _outcomes(envelopes: Sequence[Envelope], errors: dict[int, KafkaError]) -> list[Outcome]:
    """STORED up to the first of a slot that was not; behind that one, nothing of the slot counts as stored."""
    found: list[Outcome] = []
    broken: dict[int, Outcome] = {}
    for index, envelope in enumerate(envelopes):
        error = errors.get(index)
        if error is not None and envelope.slot not in broken:
            broken[envelope.slot] = Outcome.REFUSED if error.code() in _SURELY_NOT else Outcome.UNKNOWN
        if error is None and envelope.slot in broken:
            found.append(Outcome.UNKNOWN)
        else:
            found.append(broken.get(envelope.slot, Outcome.STORED))
    return found
