"""What is promised for each group, and why: told at every start."""

from __future__ import annotations

from dataclasses import dataclass

from evenflow.engine import Engine
from evenflow.handler import HandlerSpec, Kind
from evenflow.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What holds for one group. `effects` is "once" or "at least once"; `reasons` say why it is no more."""

    group: str
    kind: str
    events: tuple[str, ...]
    effects: str
    ordered: bool
    lasting: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        holds = [f"effects {self.effects}", "in order per key" if self.ordered else "in no order"]
        holds.append("nothing lost in a crash" if self.lasting else "gone with this process")
        why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"{self.group}: {', '.join(holds)}{why}"


def promise_of(spec: HandlerSpec, engine: Engine, store: Store) -> Promise:
    """What this engine and store give to a handler of this kind."""
    reasons = []
    lasting = engine.capabilities.durable and store.capabilities.durable
    if spec.transaction is None:
        reasons.append("it takes no tx, so an attempt may repeat; pass delivery.id on as an idempotency key")
    elif spec.kind is Kind.LANES:
        reasons.append("what it does outside of its tx may repeat")
    if not lasting:
        reasons.append("engine and store are in memory")
    return Promise(
        group=spec.group,
        kind=spec.kind.value,
        events=tuple(event.__name__ for event in spec.events),
        effects="at least once" if spec.transaction is None else "once",
        ordered=True,
        lasting=lasting,
        reasons=tuple(reasons),
    )
