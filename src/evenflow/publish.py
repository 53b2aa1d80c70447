"""Publishing without a transaction: straight into the engine, durable when it returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from evenflow.clock import Clock
from evenflow.engine import Engine, Outcome
from evenflow.envelope import Envelope
from evenflow.errors import PublishRefused, PublishUnknown, TransactionError
from evenflow.ids import new_id, slot_of
from evenflow.outbox import Outbox
from evenflow.position import PROCESS_PREFIX
from evenflow.registry import Registry
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
        self._numbers: dict[tuple[str, int], int] = {}

    async def publish(self, events: Sequence[Any]) -> None:
        """Append events; in the order given, per key. Nothing is appended when one of them is invalid."""
        unit = open_unit.get()
        if unit is not None and not unit.done:
            raise TransactionError(
                "app.publish inside an open transaction would be real before its commit",
                remedy="use tx.publish; it is published with the commit",
            )
        encoded = [self._registry.encode(event, self._limit) for event in events]
        by_topic: dict[str, list[tuple[Any, ...]]] = {}
        for each in encoded:
            by_topic.setdefault(self._place(each[0].topic.name), []).append(each)
        for topic, ours in by_topic.items():
            engine = await self._ready(topic)
            for outbox in self._outboxes:
                if not outbox.idle:
                    for each in ours:
                        if each[1] is not None:
                            await outbox.wait_for_slot(topic, each[2])
            await self._append(engine, topic, [self._envelope(topic, each) for each in ours])

    def _envelope(self, topic: str, encoded: tuple[Any, ...]) -> Envelope:
        spec, key, slot, data, content_type = encoded
        id_ = new_id(self._clock.now)
        if key is None:
            slot = slot_of(id_)
        number = self._numbers[topic, slot] = self._numbers.get((topic, slot), 0) + 1
        because = cause.get()
        if because is None:
            correlation, causation = "", ""
        else:
            correlation, causation = because.correlation or because.id, because.id
        return Envelope(
            id_, self.source, spec.type, spec.version, key, slot, self._clock.now(), data,
            self.producer, number, correlation, causation, content_type,
        )  # fmt: skip

    async def _append(self, engine: Engine, topic: str, envelopes: list[Envelope]) -> None:
        deadline = self._clock.monotonic() + DEADLINE
        while True:
            outcomes = await engine.append(topic, envelopes)
            left = [(e, o) for e, o in zip(envelopes, outcomes, strict=True) if o is not Outcome.STORED]
            if not left:
                return
            over = self._clock.monotonic() >= deadline
            if all(outcome is Outcome.REFUSED for _, outcome in left):
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
            if self._numbers.get((topic, envelope.slot)) == envelope.number:
                self._numbers[topic, envelope.slot] -= 1
