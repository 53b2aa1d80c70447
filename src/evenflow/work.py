"""What a group works with, what one transaction of it has done so far, and what it has done in all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from evenflow.clock import Clock
from evenflow.engine import Batch, Engine
from evenflow.envelope import Envelope
from evenflow.failure import Failure
from evenflow.handler import Delivery, HandlerSpec
from evenflow.outbox import Outbox
from evenflow.position import Owned, Taking
from evenflow.registry import Binding
from evenflow.store import Store

EventMiddleware = Callable[[Delivery, Callable[[], Any]], Any]


@dataclass(slots=True)
class Counters:
    """What a group has done in this process since its start."""

    handled: int = 0
    failed: int = 0
    dead: int = 0
    behind: int = 0
    skipped: int = 0
    duplicates: int = 0
    late: int = 0
    chunks: int = 0
    in_flight: int = 0
    rebuilt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a group works with: the same for all its loops in one process."""

    spec: HandlerSpec
    call: Callable[[Any, Any, Any], Any]
    direct: Callable[[Any, Any], Any] | None
    bindings: dict[str, Binding]
    engine: Engine
    store: Store
    outbox: Outbox
    clock: Clock
    draw: Callable[[], float]
    """Random numbers from 0 to 1: the jitter of delays."""
    compacted: frozenset[str] = frozenset()
    prepare: Callable[[Sequence[Batch]], Awaitable[None]] | None = None
    """What has to be there before these are read (schemas), asked for; None where nothing is needed."""
    around_event: EventMiddleware | None = None
    around_chunk: Callable[[str, int, Callable[[], Any]], Any] | None = None

    def dense(self, owned: Owned) -> bool:
        """Whether no number of the partition's topic may be missing: nothing is removed from between others."""
        return owned.partition.topic not in self.compacted


@dataclass(slots=True)
class Progress:
    """How far one transaction gets in one partition, if it is committed."""

    owned: Owned
    next: int
    last_id: str | None
    taking: Taking
    lanes: set[str] = field(default_factory=set)
    """Lanes that it parks anew."""
    failed: set[str] = field(default_factory=set)
    """Those of them that were parked while a list was halved: what comes after in the same lane stands behind."""
    handled: int = 0
    strangers: list[tuple[int, Envelope]] = field(default_factory=list)
    """Records without a number of ours that it takes, with their offsets."""
    complete: bool = True
    """Whether the batch was worked through to its end."""
    blocked: str = ""
    """Why the partition has to wait at `next`, if it has to."""
    due_now: bool = False
    """Whether something that it parks may run at once."""
    failures: list[tuple[int, Envelope, Failure]] = field(default_factory=list)
    """What was parked because it failed, with its offset: told when it is committed."""

    def block(self, offset: int, reason: str) -> None:
        """The partition has to wait before this event."""
        self.next, self.complete, self.blocked = offset, False, reason

    def stop_at(self, batch: Batch, offset: int, *, dense: bool) -> None:
        """Nothing of the batch from this event on is taken."""
        self.next, self.complete = offset, False
        self.last_id = self.owned.last_id
        taking = self.taking = self.owned.marks.fork()
        for place, envelope in zip(batch.offsets, batch.envelopes, strict=True):
            if place < offset:
                self.last_id = envelope.id
                if envelope.producer:
                    taking.take(envelope.producer, envelope.slot, envelope.number, dense=dense)
