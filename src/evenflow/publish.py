"""Publishing without a transaction: straight into the engine, durable when it returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from evenflow.clock import Clock
from evenflow.engine import Engine, Outcome
from evenflow.envelope import Envelope
from evenflow.errors import PublishRefused, PublishUnknown, TransactionError
from evenflow.ids import SLOTS, new_id, new_ids, slot_of
from evenflow.outbox import Outbox
from evenflow.position import PROCESS_PREFIX
from evenflow.registry import Encoded, Registry
from evenflow.unit_of_work import cause, open_unit

DEADLINE = 30.0
"""Seconds after which an append without an answer is reported as unknown."""
AGAIN = 0.2


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
    ) -> None:
        self.source = source
        self.producer = PROCESS_PREFIX + new_id(clock.now)
        self._registry = registry
        self._ready = ready
        self._place = place
        self._outboxes = outboxes
        self._clock = clock
        self._limit = event_limit
        self._numbers: dict[str, list[int]] = {}

    async def publish(self, events: Sequence[Any]) -> None:
        """Append events; in the order given, per key. Nothing is appended when one of them is invalid."""
        unit = open_unit.get()
        if unit is not None and not unit.done:
            raise TransactionError(
                "app.publish inside an open transaction would be real before its commit",
                remedy="use tx.publish; it is published with the commit",
            )
        encode, limit = self._registry.encode, self._limit
        by_topic: dict[str, list[Encoded]] = {}
        for event in events:
            encoded = encode(event, limit)
            name = encoded[0].topic.name
            if name in by_topic:
                by_topic[name].append(encoded)
            else:
                by_topic[name] = [encoded]
        for name, ours in by_topic.items():
            topic = self._place(name)
            engine = await self._ready(topic)
            for outbox in self._outboxes:
                if not outbox.idle:
                    for slot in sorted({each[2] for each in ours if each[1] is not None}):
                        await outbox.wait_for_slot(topic, slot)
            await self._append(engine, topic, self._envelopes(topic, ours))

    def _envelopes(self, topic: str, encoded: list[Encoded]) -> list[Envelope]:
        """The hot path of publishing in lists."""
        now = self._clock.now()
        numbers = self._numbers.setdefault(topic, [0] * SLOTS)
        because, source, producer = cause.get(), self.source, self.producer
        correlation, causation = ("", "") if because is None else (because.correlation or because.id, because.id)
        envelopes = []
        for id_, (spec, key, slot, data, content_type) in zip(new_ids(len(encoded), now), encoded, strict=True):
            place = slot if key is not None else slot_of(id_)
            number = numbers[place] = numbers[place] + 1
            envelopes.append(
                Envelope(
                    id_, source, spec.type, spec.version, key, place, now, data,
                    producer, number, correlation, causation, content_type,
                )
            )  # fmt: skip
        return envelopes

    async def _append(self, engine: Engine, topic: str, envelopes: list[Envelope]) -> None:
        deadline = self._clock.monotonic() + DEADLINE
        doubtful = False
        while True:
            outcomes = await engine.append(topic, envelopes)
            left = [(e, o) for e, o in zip(envelopes, outcomes, strict=True) if o is not Outcome.STORED]
            if not left:
                return
            over = self._clock.monotonic() >= deadline
            doubtful = doubtful or any(outcome is Outcome.UNKNOWN for _, outcome in left)
            if not doubtful:
                reason = engine.trouble or "it gave no reason"
                stored = len(envelopes) - len(left)
                self._take_back(topic, [e for e, _ in left])
                raise PublishRefused(
                    f"{len(left)} of {len(envelopes)} events were not stored by the {engine.name} engine: {reason}"
                    + (f"; {stored} were" if stored else ""),
                    remedy="publish them again when the engine is well, or publish in a transaction: the outbox waits",
                )
            if over:
                raise PublishUnknown(
                    f"the {engine.name} engine did not say within {DEADLINE:g} s whether {len(left)} events are stored"
                )
            envelopes = [e for e, _ in left]
            await self._clock.sleep(AGAIN)

    def _take_back(self, topic: str, refused: list[Envelope]) -> None:
        """Numbers of events that surely are not stored are used again, where they were the last."""
        for envelope in reversed(refused):
            if self._numbers[topic][envelope.slot] == envelope.number:
                self._numbers[topic][envelope.slot] -= 1
