"""Redrive and discard as operations: what a person asks for, what the leading process does of it, and what others see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from evenflow import App, Event, Policy, Service, Topic, Transaction, operate, testing
from evenflow.errors import Refused
from evenflow.operate import Filter, NotFound, Pace
from evenflow.redrive.operation import Operation

ORDERS = Topic("orders", partitions=4)
GROUP = "shop.work"


class Placed(Event, type="placed", topic=ORDERS, key="key"):
    key: str
    number: int = 0


class Paid(Event, type="paid", topic=ORDERS, key="key"):
    key: str
    number: int = 0


class Shop:
    """An app whose keys fail as they are told to, and the world that it lives in."""

    def __init__(self, policy: Policy) -> None:
        self.bad: set[str] = set()
        self.error: Callable[[str], Exception] = ValueError
        self.done: list[tuple[str, int]] = []
        self.tried: list[str] = []
        service = Service("shop", policy=policy)

        @service.on(Placed, Paid, group="work")
        async def work(order: Placed | Paid, tx: Transaction) -> None:
            self.tried.append(order.key)
            if order.key in self.bad:
                raise self.error("no card")
            self.done.append((order.key, order.number))

        self.app = App(service)
        self.world: testing.World

    @property
    def running(self) -> Any:
        return self.world.running

    async def fill(self, *keys: str, each: int = 1) -> None:
        """These keys have a dead letter each, and others behind it; nothing is wrong with them any more."""
        self.bad = set(keys)
        await self.world.publish(*[Placed(key=key, number=n) for n in range(each) for key in keys])
        self.bad.clear()
        self.tried.clear()

    async def ask(self, wanted: Filter | None = None, who: str = "ann", **more: Any) -> str:
        (begun,) = await operate.ask(self.running, more.pop("kind", "redrive"), wanted or Filter(), who, **more)
        return begun.name

    async def operation(self, name: str) -> Operation:
        return (await operate.operation_named(self.running, name)).asked.operation

    async def figures(self, name: str) -> tuple[str, int, int, int, int]:
        """State, and how many have passed, failed, are gone, are under way."""
        it = await self.operation(name)
        return (it.state, it.passed, it.failed, it.gone, it.progress.open)

    async def audit(self) -> list[tuple[str, str, str]]:
        rows = await self.running.stores["shop"].read("select who, what, detail from evenflow_audit order by id")
        return [tuple(row) for row in rows]


@asynccontextmanager
async def opened(policy: Policy | None = None) -> AsyncGenerator[Shop]:
    shop = Shop(policy or Policy(attempts=1))
    async with testing.world(shop.app) as shop.world:
        yield shop


def keys(count: int) -> list[str]:
    return [f"k{n:03}" for n in range(count)]


# -- what is asked for ------------------------------------------------------------------------------------------------


def test_a_redrive_of_many_keeps_the_order_of_each_key_and_is_audited_with_its_outcome() -> None:
    async def main() -> None:
        async with opened() as shop:
            await shop.fill(*keys(30), each=3)
            name = await shop.ask(pace=Pace(batch=7), reason="the bank is back")
            assert await shop.figures(name) == ("running", 0, 0, 0, 7)
            await shop.world.advance(5.0)
            assert await shop.figures(name) == ("done", 30, 0, 0, 0)
            assert await shop.world.parked() == []
            for key in keys(30):
                assert [n for k, n in shop.done if k == key] == [0, 1, 2]
            assert await shop.audit() == [
                ("ann", "parked redrive", "operation 1: 30 dead letters; the bank is back"),
                ("ann", "operation done", "operation 1 (redrive): 30 passed"),
            ]
            store = shop.running.stores["shop"]
            assert await store.read("select * from evenflow_operation_item") == []

    asyncio.run(main())


def test_the_set_is_what_was_seen_when_it_was_asked() -> None:
    """What becomes a dead letter meanwhile is left alone, also one of the set that fails again."""

    async def main() -> None:
        async with opened() as shop:
            await shop.fill("a", "b", "c")
            shop.bad = {"c", "d"}
            name = await shop.ask(pace=Pace(rate=1.0))
            await shop.app.publish(Placed(key="d"))
            await shop.world.advance(10.0)
            assert await shop.figures(name) == ("done", 2, 1, 0, 0)
            assert sorted(shop.tried) == ["a", "b", "c", "d"]
            assert sorted(each.key or "" for each in await shop.world.parked()) == ["c", "d"]
            (failed,) = (await operate.operation_named(shop.running, name)).failures
            assert (failed.lane, failed.type) == ("kc", "placed") and "no card" in (failed.error or "")

    asyncio.run(main())


def test_a_discard_removes_the_dead_letters_and_lets_go_on_what_is_behind() -> None:
    async def main() -> None:
        async with opened() as shop:
            await shop.fill("a", "b", each=2)
            name = await shop.ask(Filter(key="a"), kind="discard", reason="a test order")
            await shop.world.advance(2.0)
            assert await shop.figures(name) == ("done", 1, 0, 0, 0)
            assert shop.done == [("a", 1)] and {each.key for each in await shop.world.parked()} == {"b"}
            assert (await shop.audit())[-1] == ("ann", "operation done", "operation 1 (discard): 1 given up")
            with pytest.raises(Refused, match="a discard cannot fail"):
                await shop.ask(kind="discard", pace=Pace(canary=3))

    asyncio.run(main())


def test_a_filter_means_what_fits_all_of_it() -> None:
    async def main() -> None:
        async with opened() as shop:
            await shop.fill("a", "b")
            shop.error = KeyError
            shop.bad = {"c", "a"}
            await shop.world.publish(Paid(key="c"), Paid(key="a"))
            prints = {each.value for each in await operate.count_by(shop.running, "fingerprint", Filter())}
            now = shop.world.clock.now()
            (print_of_c,) = [
                each.value for each in await operate.count_by(shop.running, "fingerprint", Filter(key="c"))
            ]
            assert len(prints) == 2 and print_of_c is not None
            for wanted, expected in (
                (Filter(), ["a", "a", "b", "c"]),
                (Filter(state="dead"), ["a", "b", "c"]),
                (Filter(state="behind"), ["a"]),
                (Filter(state="retrying"), []),
                (Filter(type="paid"), ["a", "c"]),
                (Filter(type="paid", state="dead"), ["c"]),
                (Filter(key="a"), ["a", "a"]),
                (Filter(lane="ka", state="dead"), ["a"]),
                (Filter(error_type="KeyError"), ["c"]),
                (Filter(fingerprint=print_of_c[:6]), ["c"]),
                (Filter(fingerprint=print_of_c, key="a"), []),
                (Filter(before=now - 60.0), []),
                (Filter(since=now - 60.0, group=GROUP), ["a", "a", "b", "c"]),
            ):
                page = await operate.find(shop.running, wanted)
                assert [each.key for each in page.events] == expected, wanted
            counts = await operate.count_by(shop.running, "type", Filter())
            assert [(c.value, c.dead, c.retrying, c.behind) for c in counts] == [("placed", 2, 0, 0), ("paid", 1, 0, 1)]
            (age,) = await operate.count_by(shop.running, "age", Filter())
            assert (age.value, age.dead, age.behind) == ("under 1 h", 3, 1)
            await shop.world.advance(2 * 86400.0)
            (age,) = await operate.count_by(shop.running, "age", Filter(state="dead"))
            assert (age.value, age.dead, age.oldest) == ("1 d to 7 d", 3, pytest.approx(now, abs=60))
            shop.bad.clear()
            name = await shop.ask(Filter(error_type="KeyError"))
            await shop.world.advance(2.0)
            assert shop.done == [("c", 0)] and (await shop.figures(name))[0] == "done"

    asyncio.run(main())


def test_pages_join_without_a_gap() -> None:
    async def main() -> None:
        async with opened() as shop:
            await shop.fill(*keys(7), each=2)
            found, after = [], None
            while True:
                page = await operate.find(shop.running, Filter(), 3, after)
                found += [(each.key, each.offset) for each in page.events]
                after = page.more
                if after is None:
                    break
                assert len(page.events) == 3
            assert (
                found == [(each.key, each.offset) for each in await operate.parked(shop.running)] and len(found) == 14
            )

    asyncio.run(main())


def test_what_is_asked_wrongly_is_refused_and_nothing_is_begun() -> None:
    async def main() -> None:
        async with opened() as shop:
            await shop.fill("a")
            with pytest.raises(Refused, match="only dead letters are redriven"):
                await shop.ask(Filter(state="behind"))
            with pytest.raises(NotFound, match=r"no group 'shop\.wrk'"):
                await shop.ask(Filter(group="shop.wrk"))
            assert await operate.ask(shop.running, "redrive", Filter(key="nix"), "ann") == []
            for name in ("7", "shop/7", "nix/1", "x"):
                with pytest.raises(NotFound, match="there is no operation"):
                    await operate.operation_named(shop.running, name)
            assert await operate.operations(shop.running) == [] and await shop.audit() == []

    asyncio.run(main())


# -- how it goes on ---------------------------------------------------------------------------------------------------


def test_a_canary_that_fails_stops_it_and_one_that_passes_lets_the_rest_follow() -> None:
    async def main() -> None:
        async with opened() as shop:
            await shop.fill(*keys(20))
            shop.bad = {"k001"}
            name = await shop.ask(pace=Pace(canary=3))
            await shop.world.advance(5.0)
            it = await shop.operation(name)
            assert (it.state, it.outcome) == ("stopped", "the canary failed: 1 of the first 3")
            assert sorted(shop.tried) == keys(3)
            shop.bad.clear()
            second = await shop.ask(pace=Pace(canary=3))
            await shop.world.advance(5.0)
            assert await shop.figures(second) == ("done", 18, 0, 0, 0)
            last = (await shop.audit())[1]
            assert last[1:] == (
                "operation stopped",
                "operation 1 (redrive): 2 passed, 1 failed again, 17 not asked for: the canary failed: 1 of the first 3",
            )

    asyncio.run(main())


@pytest.mark.parametrize("attempts", [1, 3])
def test_it_stops_within_one_batch_of_the_stop_rule(attempts: int) -> None:
    """With retries, too: what is tried again later takes its place in the batch until it is decided."""

    async def main() -> None:
        async with opened(Policy(attempts=attempts, first_delay=1.0, final=(KeyError,))) as shop:
            shop.error = KeyError  # a dead letter at its first attempt
            await shop.fill(*keys(100))
            shop.error, shop.bad = ValueError, set(keys(100)[30:])
            name = await shop.ask(pace=Pace(stop_above=20.0, batch=10, minimum=20))
            await shop.world.advance(120.0)
            it = await shop.operation(name)
            assert it.state == "stopped" and not it.progress.open
            assert 20 * it.passed < 80 * (it.failed + 1) and it.passed == 30
            needed = next(n for n in range(100) if n * 100 > 20 * (30 + n))  # failures that break the rule
            assert needed <= it.failed <= needed + 10
            assert len(set(shop.tried)) == it.asked == 30 + it.failed

    asyncio.run(main())


def test_a_failure_that_is_tried_again_counts_when_it_is_decided() -> None:
    async def main() -> None:
        async with opened(Policy(attempts=3, first_delay=60.0, factor=1.0, final=(KeyError,))) as shop:
            shop.error = KeyError
            await shop.fill("a", "b", "c")
            shop.error, shop.bad = ValueError, {"a", "b"}
            name = await shop.ask()
            await shop.world.advance(5.0)
            assert await shop.figures(name) == ("running", 1, 0, 0, 2)
            shop.bad = {"b"}
            await shop.world.advance(70.0)
            assert await shop.figures(name) == ("done", 2, 1, 0, 0)

    asyncio.run(main())


def test_a_dead_letter_whose_attempts_are_used_up_fails_at_once() -> None:
    async def main() -> None:
        async with opened(Policy(attempts=3, first_delay=1.0)) as shop:
            await shop.fill("a")
            shop.bad = {"a"}
            await shop.world.advance(60.0)
            shop.tried.clear()
            name = await shop.ask()
            await shop.world.advance(1.0)
            assert await shop.figures(name) == ("done", 0, 1, 0, 0) and shop.tried == ["a"]

    asyncio.run(main())


def test_a_rate_is_kept_to() -> None:
    async def main() -> None:
        async with opened() as shop:
            await shop.fill(*keys(60))
            name = await shop.ask(pace=Pace(rate=4.0))
            for second in range(1, 10):
                await shop.world.advance(1.0)
                assert 4 * second - 4 <= len(shop.tried) <= 4 * second + 4
            await shop.world.advance(10.0)
            assert (await shop.figures(name))[0] == "done"

    asyncio.run(main())


def test_it_is_paused_resumed_and_cancelled() -> None:
    async def main() -> None:
        async with opened() as shop:
            await shop.fill(*keys(50))
            name = await shop.ask(pace=Pace(batch=5, rate=5.0))
            await shop.world.advance(2.0)
            paused = await operate.pause_operation(shop.running, name, "bob")
            assert paused.operation.outcome == "paused by bob"
            await shop.world.advance(5.0)
            before = len(shop.tried)
            await shop.world.advance(3600.0)
            assert len(shop.tried) == before < 20
            with pytest.raises(Refused, match="is paused already"):
                await operate.pause_operation(shop.running, name, "bob")
            await operate.resume_operation(shop.running, name, "bob")
            await shop.world.advance(2.0)
            assert before < len(shop.tried) <= before + 5 + 10  # and not all that an hour would have allowed
            cancelled = await operate.cancel_operation(shop.running, name, "bob")
            await shop.world.advance(5.0)
            it = await shop.operation(name)
            assert (it.state, it.outcome, it.open) == ("cancelled", "cancelled by bob", 0)
            assert it.passed == len(shop.tried) == cancelled.operation.asked
            assert await shop.running.stores["shop"].read("select * from evenflow_operation_item") == []
            for change in (operate.pause_operation, operate.resume_operation, operate.cancel_operation):
                with pytest.raises(Refused, match="is cancelled"):
                    await change(shop.running, name, "bob")
            assert [what for _, what, _ in await shop.audit()] == [
                "parked redrive", "operation pause", "operation resume", "operation cancel", "operation cancelled",
            ]  # fmt: skip

    asyncio.run(main())


# -- with others ------------------------------------------------------------------------------------------------------


def test_the_second_to_ask_for_the_same_is_told_and_none_is_tried_twice() -> None:
    async def main() -> None:
        async with opened() as shop:
            await shop.fill(*keys(30))
            first = await shop.ask(pace=Pace(batch=5), who="ann")
            (seen,) = await operate.preview(shop.running, Filter())
            (overlap,) = seen.overlaps
            assert (seen.lanes, overlap.other.name, overlap.waiting, overlap.asked) == (25, first, 25, 5)
            second = await shop.ask(pace=Pace(batch=5), who="bob")
            await shop.world.advance(5.0)
            one, two = await shop.operation(first), await shop.operation(second)
            assert (one.state, two.state) == ("done", "done")
            assert one.passed + two.passed == 30 and (one.gone, two.gone) == (two.passed, 25 - two.passed)
            assert sorted(shop.tried) == keys(30)

    asyncio.run(main())


def test_what_somebody_else_has_decided_meanwhile_is_gone() -> None:
    """It failed again, or was edited, between the asking and its turn: it is not the same dead letter any more."""

    async def main() -> None:
        async with opened() as shop:
            await shop.fill("a", "b", "c", "d")
            name = await shop.ask(pace=Pace(rate=0.1))  # a at once
            store = shop.running.stores["shop"]
            shop.bad = {"b"}
            assert await operate.redrive(shop.running, GROUP, "b", "bob") == 1
            await shop.world.advance(2.0)
            edit = "update evenflow_parked set original = envelope where lane = 'kc'"
            await store.transact(lambda session: session.execute(edit))
            shop.bad, before = set(), list(shop.tried)
            for _ in range(20):
                await shop.world.advance(1.0)
            assert await shop.figures(name) == ("done", 2, 0, 2, 0)
            assert before == ["a", "b"] and shop.tried == ["a", "b", "d"]

    asyncio.run(main())


def test_one_that_fails_again_and_is_discarded_at_once_by_another_has_failed() -> None:
    """What became of it is learnt in the transaction of the next wish, before that hides it."""

    async def main() -> None:
        async with opened() as shop:
            await shop.fill("a", "b")
            shop.bad = {"a", "b"}
            name = await shop.ask(Filter(key="a"))
            shop.running.runtimes["shop"].leading.chores.clear()  # nobody looks meanwhile
            await shop.world.advance(1.0)
            assert await operate.discard(shop.running, GROUP, "a", "bob") == 1
            await shop.world.advance(1.0)
            assert await shop.figures(name) == ("running", 0, 1, 0, 0)

    asyncio.run(main())


def test_a_seek_takes_away_what_was_under_way() -> None:
    async def main() -> None:
        async with opened() as shop:
            await shop.fill("a", "b")
            await operate.pause(shop.running, GROUP, "bob")
            await shop.world.advance(2.0)
            name = await shop.ask(pace=Pace(batch=1))
            await operate.seek(shop.running, GROUP, "beginning", "bob")
            assert await shop.figures(name) == ("running", 0, 0, 1, 0)
            await shop.world.advance(2.0)
            assert await shop.figures(name) == ("done", 0, 0, 2, 0)
            await operate.resume(shop.running, GROUP, "bob")
            await shop.world.advance(2.0)
            assert sorted(shop.tried) == ["a", "b"]

    asyncio.run(main())


# -- large ------------------------------------------------------------------------------------------------------------


def test_a_large_set_is_gathered_in_parts_that_others_may_write_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evenflow.operate.redriving.GATHERED", 8)

    async def main() -> None:
        async with opened() as shop:
            await shop.fill(*keys(30), each=2)
            store = shop.running.stores["shop"]
            units = 0
            real = store.transact

            async def counting(*args: Any, **more: Any) -> Any:
                nonlocal units
                units += 1
                if units == 3:  # it fails again while others are gathered
                    await real(lambda session: session.execute(later))
                return await real(*args, **more)

            later = "update evenflow_parked set failed = failed + 1000 where lane = 'kk029'"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store, "transact", counting)
                name = await shop.ask(pace=Pace(batch=3))
            assert units == 4
            await shop.world.advance(5.0)
            assert await shop.figures(name) == ("done", 29, 0, 0, 0)
            assert {each.key for each in await shop.world.parked()} == {"k029"}

    asyncio.run(main())


def test_one_whose_asker_has_died_while_it_gathered_is_ended_and_has_done_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("evenflow.operate.redriving.GATHERED", 8)

    async def main() -> None:
        async with opened() as shop:
            await shop.fill(*keys(30))
            store = shop.running.stores["shop"]
            real, units = store.transact, 0

            async def dying(*args: Any, **more: Any) -> Any:
                nonlocal units
                units += 1
                if units == 3:
                    raise asyncio.CancelledError
                return await real(*args, **more)

            with pytest.MonkeyPatch.context() as patch, pytest.raises(asyncio.CancelledError):
                patch.setattr(store, "transact", dying)
                await shop.ask()
            await shop.world.advance(30.0)
            assert (await shop.operation("1")).state == "gathering" and shop.tried == []
            await shop.world.advance(60.0)
            await shop.world.advance(2.0)
            it = await shop.operation("1")
            assert (it.state, it.open) == ("cancelled", 0) and "nothing was done" in it.outcome and shop.tried == []
            assert await store.read("select * from evenflow_operation_item") == []

    asyncio.run(main())


def test_idle_it_is_one_read_a_second() -> None:
    async def main() -> None:
        async with opened() as shop:
            await shop.fill("a")
            store = shop.running.stores["shop"]
            real, reads = store.read, 0

            async def counting(sql: str, args: Any = ()) -> Any:
                nonlocal reads
                reads += "evenflow_operation" in sql
                return await real(sql, args)

            (chore,) = [c for c in shop.running.runtimes["shop"].leading.chores if type(c).__name__ == "Redriving"]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store, "read", counting)
                assert await chore.step(shop.running.outboxes["shop"].owned) == 1.0
            assert reads == 1

    asyncio.run(main())
