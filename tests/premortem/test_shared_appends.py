"""Calls of `app.publish` that share an append: order, numbers, and whose error it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from evenflow import Event
from evenflow.engine import Outcome
from evenflow.errors import EngineUnavailable, EventInvalid, PublishRefused, PublishUnknown
from evenflow.ids import slot_of
from evenflow.running import Running
from evenflow import publish
from evenflow.unit_of_work import cause
from tests.on_postgres import ON

from .stage import (
    EFFECT,
    SPREAD,
    Bill,
    Order,
    Wide,
    case,
    drained,
    effects,
    eventually,
    log_of,
    opened,
    publishing,
    shop,
)

Answer = Any


class Answers:
    """An engine's `append` that answers as told: a function of the envelopes, an error, or (None) the truth."""

    def __init__(self, engine: Any, *answers: Answer) -> None:
        self.real = engine.append
        self.left = list(answers)
        self.asked: list[list[int]] = []
        self.numbers: list[list[int]] = []
        self.gate: asyncio.Event | None = None
        engine.append = self

    async def __call__(self, topic: str, envelopes: Any) -> Any:
        self.asked.append([int(each.key) if each.key.isdigit() else 0 for each in envelopes])
        self.numbers.append([each.number for each in envelopes])
        if self.gate is not None:
            await self.gate.wait()
        answer = self.left.pop(0) if self.left else None
        if answer is None:
            return await self.real(topic, envelopes)
        if isinstance(answer, Exception):
            raise answer
        outcomes = answer(envelopes)
        stored = [each for each, outcome in zip(envelopes, outcomes, strict=True) if outcome is Outcome.STORED]
        if stored:
            await self.real(topic, stored)
        return outcomes


def but(key: str, outcome: Outcome) -> Any:
    return lambda envelopes: [outcome if each.key == key else Outcome.STORED for each in envelopes]


async def answering(running: Running, *answers: Answer) -> Answers:
    return Answers(await running.ready("orders"), *answers)


async def gathered(*calls: Any) -> list[Any]:
    return list(await asyncio.gather(*calls, return_exceptions=True))


def gapless(envelopes: list[Any]) -> bool:
    slots: dict[tuple[str, int], list[int]] = {}
    for each in envelopes:
        slots.setdefault((each.producer, each.slot), []).append(each.number)
    return all(numbers == list(range(1, len(numbers) + 1)) for numbers in slots.values())


def test_the_order_of_a_key_is_the_order_of_the_calls_and_numbers_have_no_gaps() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            answers = await answering(running)

            async def client(client: int) -> None:
                for n in range(10):
                    await app.publish(Wide(key=f"k{client % 7}", number=n * 100 + client))

            await asyncio.gather(*(client(n) for n in range(100)))
            assert len(answers.asked) < 50, "a thousand calls of a hundred tasks share their appends"
            found = await log_of(running, "spread")
            assert len(found) == 1000
            assert gapless(found)
            by_key: dict[str, list[int]] = {}
            for each in found:
                by_key.setdefault(each.key, []).append(running.registry.by_type["wide"].read(each, "spread").number)
            assert all(numbers == sorted(numbers) for numbers in by_key.values())

    case(test)


def test_a_long_line_is_appended_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "SHARE_EVENTS", 10)

    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            answers = await answering(running)
            lists = [[Order(key=str(10 * n + m)) for m in range(3)] for n in range(9)]
            await asyncio.gather(*(app.publish(*events) for events in lists))
            assert [len(each) for each in answers.asked] == [12, 12, 3]
            assert [each.key for each in await log_of(running, "orders")] == [e.key for each in lists for e in each]

    case(test)


def test_an_invalid_event_is_its_own_publishers_error() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            calls = [app.publish(Order(key=str(n) if n != 3 else "")) for n in range(6)]
            found = await gathered(*calls)
            assert [type(each) for each in found] == [type(None)] * 3 + [EventInvalid] + [type(None)] * 2
            assert [each.key for each in await log_of(running, "orders")] == ["0", "1", "2", "4", "5"]

    case(test)


def test_what_is_refused_is_its_own_publishers_error_and_its_number_is_free_again() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            answers = await answering(running, but("3", Outcome.REFUSED))
            found = await gathered(*(app.publish(Order(key=str(n))) for n in range(6)))
            assert [type(each) for each in found] == [type(None)] * 3 + [PublishRefused] + [type(None)] * 2
            await app.publish(Order(key="3"))
            assert len(answers.asked) == 2
            assert gapless(await log_of(running, "orders"))

    case(test)


def test_what_is_unknown_is_asked_again_with_its_number_and_delays_only_what_comes_later() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            answers = await answering(running, but("3", Outcome.UNKNOWN))
            doubtful = asyncio.ensure_future(app.publish(Order(key="3")))
            others = [asyncio.ensure_future(app.publish(Order(key=str(n)))) for n in (0, 1)]
            await asyncio.gather(*others)
            assert not doubtful.done()
            later = asyncio.ensure_future(app.publish(Order(key="3", number=2)))
            await asyncio.gather(doubtful, later)
            assert answers.asked == [[3, 0, 1], [3], [3]]
            assert [each[0] for each in answers.numbers] == [1, 1, 2]
            assert [each.key for each in await log_of(running, "orders")] == ["0", "1", "3", "3"]

    case(test)


def test_what_stays_unknown_is_said_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "DEADLINE", 0.1)

    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            await answering(running, *[but("3", Outcome.UNKNOWN)] * 20)
            found = await gathered(*(app.publish(Order(key=str(n))) for n in (2, 3)))
            assert [type(each) for each in found] == [type(None), PublishUnknown]

    case(test)


def test_an_engine_that_raises_tells_all_that_shared_the_append_and_none_after() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            await answering(running, EngineUnavailable("it is away"))
            found = await gathered(*(app.publish(Order(key=str(n))) for n in range(3)))
            assert [type(each) for each in found] == [EngineUnavailable] * 3
            await app.publish(Order(key="4"))
            assert [each.key for each in await log_of(running, "orders")] == ["4"]

    case(test)


def test_a_cancelled_call_takes_nothing_of_its_neighbours_with_it() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            answers = await answering(running)
            answers.gate = asyncio.Event()
            first = [asyncio.ensure_future(app.publish(Order(key=str(n)))) for n in range(3)]
            await eventually(lambda: answers.asked)
            second = [asyncio.ensure_future(app.publish(Order(key=str(n)), Order(key=str(n)))) for n in range(3, 6)]
            await asyncio.sleep(0)
            first[1].cancel()  # it is on its way
            second[1].cancel()  # it has not begun
            await asyncio.sleep(0)
            answers.gate.set()
            found = await gathered(*first, *second)
            assert [n for n, each in enumerate(found) if each is not None] == [1, 4]
            assert [each.key for each in await log_of(running, "orders")] == ["0", "1", "2", "3", "3", "5", "5"]
            assert gapless(await log_of(running, "orders"))

    case(test)


def test_events_of_several_topics_are_answered_together() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            await running.ready("billing")
            await answering(running, but("1", Outcome.REFUSED))
            call = asyncio.ensure_future(app.publish(Order(key="1"), Bill(key="1"), Order(key="2")))
            (found,) = await gathered(call)
            assert isinstance(found, PublishRefused)
            assert "1 of 2 events" in str(found)
            assert [each.key for each in await log_of(running, "orders")] == ["2"]
            assert [each.key for each in await log_of(running, "billing")] == ["1"]
            await app.publish()

    case(test)


def test_what_was_called_before_the_end_is_answered() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            answers = await answering(running)
            answers.gate = asyncio.Event()
            calls = [asyncio.ensure_future(app.publish(Order(key="0")))]
            await eventually(lambda: answers.asked)
            calls += [asyncio.ensure_future(app.publish(Order(key=str(n)))) for n in range(1, 5)]
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.3, answers.gate.set)
        assert await asyncio.gather(*calls) == [None] * 5
        async with opened(app, path) as running:
            assert len(await log_of(running, "orders")) == 5

    case(test)


def test_an_engine_that_never_answers_does_not_hold_up_the_end() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            answers = await answering(running, *[but("3", Outcome.UNKNOWN)] * 1000)
            call = asyncio.ensure_future(app.publish(Order(key="3")))
            await eventually(lambda: answers.asked)
        assert isinstance((await gathered(call))[0], PublishUnknown)

    case(test)


def test_calls_that_wait_for_the_outbox_stay_in_order_and_hold_up_no_other_key() -> None:
    async def test(path: Path) -> None:
        app = shop(Order)
        async with opened(app, path) as running:
            outbox = running.outboxes["shop"]
            await eventually(lambda: outbox.owned)
            gate, real = asyncio.Event(), outbox._append

            async def held_up(topic: str, envelopes: list[Any]) -> None:
                await gate.wait()
                await real(topic, envelopes)

            remove = outbox._remove

            async def called_just_then(owned: Any, to: int) -> None:
                await remove(owned, to)
                calls.append(asyncio.ensure_future(running.publisher.publish((Order(key="k", number=4),))))

            outbox._append = held_up  # type: ignore[method-assign]
            outbox._remove = called_just_then  # type: ignore[method-assign]
            async with app.transaction("shop") as tx:
                tx.publish(Order(key="k", number=0))
            calls = [asyncio.ensure_future(app.publish(Order(key="k", number=n))) for n in range(1, 4)]
            await asyncio.sleep(0)
            calls[1].cancel()
            await app.publish(Order(key="other"))
            gate.set()
            await eventually(lambda: len(calls) == 4)
            found = await gathered(*calls)
            assert [n for n, each in enumerate(found) if each is not None] == [1]
            await drained(running)
            assert [number for key, number in await effects(running) if key == "k"] == [0, 1, 3, 4]

    case(test)


def test_a_call_that_waits_for_an_outbox_that_nobody_empties_is_refused_at_the_end() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:

            async def away(*_: Any) -> None:
                raise EngineUnavailable("it is away")

            running.outboxes["shop"]._append = away  # type: ignore[method-assign]
            async with app.transaction("shop") as tx:
                tx.publish(Order(key="k"))
            call = asyncio.ensure_future(app.publish(Order(key="k")))
            await asyncio.sleep(0)
        assert isinstance((await gathered(call))[0], PublishRefused)

    case(test)


def test_each_call_keeps_its_own_cause() -> None:
    async def test(path: Path) -> None:
        app = publishing()
        async with opened(app, path) as running:
            await app.publish(Order(key="origin"))
            (origin,) = await log_of(running, "orders")

            async def caused() -> None:
                cause.set(origin)
                await app.publish(Order(key="caused"), Order(key="caused"))

            await asyncio.gather(app.publish(Order(key="free")), caused(), app.publish(Order(key="free")))
            found = [(each.key, each.causation) for each in await log_of(running, "orders")][1:]
            assert found == [("free", ""), ("caused", origin.id), ("caused", origin.id), ("free", "")]

    case(test)


def test_transactions_of_one_moment_share_a_row_of_the_outbox_and_number_without_gaps() -> None:
    async def test(path: Path) -> None:
        app = shop(Wide)
        async with opened(app, path) as running:
            outbox = running.outboxes["shop"]
            sizes: list[int] = []
            real = outbox._append

            async def append(topic: str, envelopes: list[Any]) -> None:
                sizes.append(len(envelopes))
                await real(topic, envelopes)

            outbox._append = append  # type: ignore[method-assign]

            async def client(n: int) -> None:
                async with app.transaction("shop") as tx:
                    tx.write(EFFECT, "made", n)
                    if n % 10 == 3:
                        tx.write("insert into nowhere values (1)")
                    tx.publish(Wide(key=f"k{n % 7}", number=n))

            found = await gathered(*(client(n) for n in range(100)))
            assert [n for n, each in enumerate(found) if each is not None] == list(range(3, 100, 10))
            await drained(running)
            assert max(sizes) > 10, "they share rows"
            assert gapless(await log_of(running, "spread"))
            expected = [n for n in range(100) if n % 10 != 3]
            kept = await effects(running)
            assert sorted(number for key, number in kept if key == "made") == expected
            for key in range(7):
                of_key = [number for name, number in kept if name == f"k{key}"]
                assert (sorted(of_key) if ON else of_key) == [n for n in expected if n % 7 == key]

    case(test)


class Loose(Event, type="loose", topic=SPREAD):
    number: int = 0


def test_transactions_of_one_moment_give_every_event_an_id_of_its_own() -> None:
    async def test(path: Path) -> None:
        app = shop(Order)
        async with opened(app, path) as running:

            async def client(n: int) -> None:
                async with app.transaction("shop") as tx:
                    tx.publish(Wide(key=f"k{n}", number=n))
                    tx.publish(Loose(number=n))

            await asyncio.gather(*(client(n) for n in range(20)))
            await drained(running)
            stored = await log_of(running, "spread")
            assert len({UUID(each.id) for each in stored}) == len(stored) == 40
            assert all(each.slot == slot_of(each.key or each.id) for each in stored)

    case(test)
