"""Events over the limit of their topic wait in the outbox: order per key, nothing lost, whoever relays, limits moving."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from random import Random
from typing import Any

import pytest

from evenflow import outbox as outbox_module, testing
from evenflow.engine import Outcome
from evenflow.envelope import Envelope
from evenflow.oversize import Aside
from .planted import fails_without
from .stage import Order, Wide, publishing

Patch = pytest.MonkeyPatch
KEYS = "abcdefgh"
LARGE = 400
"""Letters of the key of an event that is over the limit."""


def forgets_who_waits(patch: Patch) -> None:
    real = Aside.rows

    def rows(self: Aside, now: float) -> Collection[int]:
        self._slots = {}
        return real(self, now)

    patch.setattr(Aside, "rows", rows)


def forgets_the_rest_of_a_row(patch: Patch) -> None:
    real = outbox_module.Outbox._remove

    async def remove(self: Any, owned: Any, stored: Sequence[int], cut: Sequence[Any] = ()) -> None:
        await real(self, owned, [*stored, *(row for row, *_ in cut)])

    patch.setattr(outbox_module.Outbox, "_remove", remove)


@fails_without(forgets_who_waits, forgets_the_rest_of_a_row)
def test_order_is_kept_and_nothing_is_lost_while_limits_move_and_the_relay_does_too() -> None:
    async def test(seed: int) -> None:
        random, low, stored = Random(seed), {"now": True}, list[tuple[str, Envelope]]()
        async with testing.world(publishing()) as world:
            runtime, engine = world.running.runtimes["shop"], world.running.engine
            outbox, real, at = runtime.outbox, engine.append, 0

            async def append(topic: str, envelopes: Sequence[Envelope]) -> Sequence[Outcome]:
                outcomes, stuck = [], set[int]()
                for each in envelopes:
                    large = len(each.data) > LARGE and low["now"]
                    if large or each.slot in stuck:
                        outcomes.append(Outcome.OVERSIZE if large and each.slot not in stuck else Outcome.REFUSED)
                        stuck.add(each.slot)
                    else:
                        (outcome,) = await real(topic, [each])
                        stored.append((topic, each))
                        outcomes.append(outcome)
                return outcomes

            while outbox.owned is None:
                await world.advance(1.0)
            runtime._relay_stopping.set()
            outbox.nudge()
            engine.append = append  # type: ignore[method-assign]
            expected: dict[str, list[int]] = {}
            for _ in range(40):
                async with world.running.app.transaction("shop") as tx:
                    for _ in range(random.randint(1, 4)):
                        kind, letter = random.choice((Order, Wide)), random.choice(KEYS)
                        key = letter * LARGE if random.random() < 0.1 else letter
                        tx.publish(kind(key=key, number=at))
                        at += 1
                low["now"] = random.random() < 0.8
                if random.random() < 0.2:
                    outbox._aside = Aside("shop")  # as another process has it that takes over
                if random.random() < 0.5:
                    outbox._aside._again = 0.0
                await outbox.step()
            low["now"] = False
            outbox._aside._again = 0.0
            while await outbox.store.read(outbox.store.sql["outbox_next"], (1,)):
                await outbox.step()
            engine.append = real  # type: ignore[method-assign]
            assert not outbox.mine
        latest: dict[tuple[str, int], int] = {}
        for topic, each in stored:
            place = (topic, each.slot)
            assert each.number == latest.get(place, 0) + 1, f"seed {seed}: {place}"
            latest[place] = each.number
        assert len(stored) == at

    for seed in range(3):
        asyncio.run(test(seed))
