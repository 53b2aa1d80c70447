"""Dead letters under a person's hands: shown, edited, carried out and back, and what the audit says of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evenflow import App, Event, Policy, Service, Settings, Topic, Transaction, operate
from evenflow.clock import Signal
from evenflow.envelope import Envelope, pack, unpack
from evenflow.errors import Refused
from evenflow.operate import EditInvalid, Filter, NotFound, importing, with_fields
from evenflow.operate.carried import FileInvalid, Line, envelope_of, line_of, read, written
from evenflow.running import Running
from tests.on_postgres import SERIAL

ORDERS = Topic("orders", partitions=2)
GROUP = "billing.charge"


class Item(Event):
    article: str
    count: int = 1


class Order(Event, type="order.placed", topic=ORDERS, key="order_id"):
    order_id: str
    amount: int = 1
    note: str | None = None
    items: list[Item] = []


class Bill(Event, type="bill", topic=Topic("bills", partitions=1), key="order_id"):
    order_id: str


class Shop:
    """An app that records what it is given. An amount below 0 fails, and so does every order in `failing`."""

    def __init__(self, folder: Path, policy: Policy = Policy(attempts=1)) -> None:  # noqa: B008
        self.settings = Settings.load({"folder": folder, "lease": 2.0}, env={}, cwd=folder)
        self.failing: set[str] = set()
        self.service = Service("billing", policy=policy)

        async def charge(order: Order, tx: Transaction) -> Bill:
            if order.amount < 0:
                raise ValueError(f"an amount of {order.amount}")
            if order.order_id in self.failing:
                raise KeyError(order.order_id)
            tx.write("insert into done (order_id, amount) values ($1, $2)", order.order_id, order.amount)
            return Bill(order_id=order.order_id)

        self.service.on(Order, group="charge")(charge)
        self.app = App(self.service)

    def running(self, *, join: bool = True) -> AbstractAsyncContextManager[Running]:
        return self.app.running(handle=None if join else (), settings=self.settings, join=join)

    async def begin(self, *orders: Order, failing: Sequence[str] = ()) -> None:
        """Publish these, and handle all that can be."""
        self.failing = set(failing)
        async with self.running(join=False), self.app.transaction(self.service) as tx:
            await tx.execute(f"create table if not exists done (id {SERIAL}, order_id text, amount integer)")
        await self.go(*orders)

    async def go(self, *orders: Order) -> None:
        async with self.running() as running:
            await self.app.publish(*orders)
            await idle(running)


def order(key: str, amount: int = 1, **more: Any) -> Order:
    return Order(order_id=key, amount=amount, **more)


async def until(running: Running, holds: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = running.clock.monotonic() + seconds
    while not await holds():
        assert running.clock.monotonic() < deadline, await operate.groups(running)
        await running.clock.wait(Signal(), 0.01)


async def idle(running: Running) -> None:
    await until(running, running.idle)


async def done(running: Running) -> list[tuple[str, int]]:
    return [tuple(row) for row in await running.stores["billing"].read("select order_id, amount from done order by id")]


async def lot(running: Running) -> list[tuple[Any, ...]]:
    sql = 'select lane, "offset", head, due, envelope, size, original from evenflow_parked order by lane, "offset"'
    return [tuple(row) for row in await running.stores["billing"].read(sql)]


async def lot_size(running: Running) -> tuple[int, int]:
    ((events, size),) = await running.stores["billing"].read(
        "select cast(sum(events) as bigint), cast(sum(bytes) as bigint) from evenflow_lot"
    )
    return events, size


async def edited(running: Running, key: str, *fields: str, who: str = "ada", why: str = "") -> operate.Edit:
    plan = await operate.plan_edit(running, GROUP, key, with_fields(fields))
    await operate.carry_out_edit(running, plan, who, why)
    return plan


def run(work: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60.0))


# -- show -------------------------------------------------------------------------------------------------------------


def test_a_story_tells_attempts_and_what_people_asked(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path, Policy(attempts=3, first_delay=0.0))
        await shop.begin(order("a", -5), order("a", 7))
        async with shop.running(join=False) as looking:
            found = await operate.lane(looking, GROUP, "a")
            story = await operate.story(looking, found.events[0])
            assert [each.attempt for each in story.attempts] == [1, 2, 3]
            assert len({each.fingerprint for each in story.attempts}) == 1
            assert all(each.error.startswith("ValueError: an amount of -5") for each in story.attempts)
            assert all(":" in each.process for each in story.attempts) and story.touches == []
            await edited(looking, "a", "amount=5", why="typed wrong")
            story = await operate.story(looking, found.events[0])
            assert [(each.who, each.what) for each in story.touches] == [("ada", "parked edit")]
            assert story.letter.original is not None and json.loads(story.letter.original.data)["amount"] == -5
            await operate.redrive(looking, GROUP, "a", "bob")
            story = await operate.story(looking, found.events[0])
            assert story.letter.wish == "redrive" and any("redrive" in each.what for each in story.touches)
            assert (await operate.story(looking, found.events[1])).attempts == []
        await shop.go()
        async with shop.running(join=False) as looking:
            assert await done(looking) == [("a", 5), ("a", 7)]
            with pytest.raises(NotFound):
                await operate.story(looking, found.events[0])

    run(main)


# -- edit -------------------------------------------------------------------------------------------------------------


def test_an_edit_keeps_id_and_first_payload_and_passes_when_redriven(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.begin(order("a", -5, note="gift", items=[Item(article="x"), Item(article="y")]), order("a", 7))
        async with shop.running(join=False) as looking:
            before = (await operate.lane(looking, GROUP, "a")).events[0]
            plan = await edited(looking, "a", "amount=5", "items.1.article=z", "note:=null", why="typed wrong")
            assert plan.changes == [
                ("amount", "-5", "5"), ("note", '"gift"', "null"), ("items.1.article", '"y"', '"z"'),
            ]  # fmt: skip
            after = (await operate.lane(looking, GROUP, "a")).events[0]
            assert msgspec.structs.replace(after.envelope, data=before.envelope.data) == before.envelope
            (entry,) = await operate.audit(looking, subject="ka")
            assert (entry.who, entry.what, entry.subject) == ("ada", "parked edit", f"{GROUP} ka")
            detail = json.loads(entry.detail)
            assert detail["id"] == before.envelope.id and detail["reason"] == "typed wrong"
            assert detail["changes"]["amount"] == ["-5", "5"]
            await edited(looking, "a", "amount=6")
            head, behind = await lot(looking)
            assert unpack(head[6]) == [before.envelope] and head[5] == len(head[4])  # the first one, and its size
            assert await lot_size(looking) == (2, head[5] + behind[5])
            await operate.redrive(looking, GROUP, "a", "ada")
        await shop.go()
        async with shop.running(join=False) as looking:
            assert await done(looking) == [("a", 6), ("a", 7)]

    run(main)


def test_the_first_payload_can_be_put_back(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.begin(order("a", -5))
        async with shop.running(join=False) as looking:
            first = await lot(looking)
            with pytest.raises(Refused, match="was not edited"):
                await operate.plan_restore(looking, GROUP, "a")
            await edited(looking, "a", "amount=5")
            plan = await operate.plan_restore(looking, GROUP, "a")
            assert plan.changes == [("amount", "5", "-5")]
            await operate.carry_out_edit(looking, plan, "ada")
            assert await lot(looking) == first
            assert [each.what for each in await operate.audit(looking)][:2] == ["parked restore", "parked edit"]

    run(main)


MISFITS = [
    (("amount=much",), EditInvalid, r"\$\.amount"),
    (("items.0.count:=\"many\"",), EditInvalid, r"\$\.items\[0\]\.count"),
    (("amout=5",), EditInvalid, "has no field 'amout'"),
    (("items.0.articel=z",), EditInvalid, r"has no field 'items\.0\.articel'"),
    (("items.4.article=z",), EditInvalid, "no place 'items.4.article'"),
    (("amount.x=z",), EditInvalid, "no place 'amount.x'"),
    (("note:=}",), EditInvalid, "is no JSON"),
    (("amount",), EditInvalid, "sets no field"),
    (("order_id=b",), Refused, "its key order_id would change from 'a' to 'b'"),
    (("amount=-5",), Refused, "as it was"),
    (("amount:=99999999999999999999",), EditInvalid, "amount"),
    ((f"note={'x' * 2_000_000}",), EditInvalid, "bytes"),
]  # fmt: skip


def test_what_does_not_fit_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.begin(order("a", -5, items=[Item(article="x")]))
        async with shop.running(join=False) as looking:
            before = await lot(looking)
            for fields, error, says in MISFITS:
                with pytest.raises(error, match=says):
                    await edited(looking, "a", *fields)
                assert await lot(looking) == before and await operate.audit(looking) == []

    run(main)


def test_an_edit_loses_the_race_against_a_redrive_and_against_another_edit(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.begin(order("a", -5), order("a", 7), order("b", -5))
        async with shop.running(join=False) as looking:
            mine = await operate.plan_edit(looking, GROUP, "a", with_fields(["amount=5"]))
            await edited(looking, "a", "amount=6", who="bob")
            with pytest.raises(Refused, match="not as it was"):
                await operate.carry_out_edit(looking, mine, "ada")
            mine = await operate.plan_edit(looking, GROUP, "a", with_fields(["amount=5"]))
            await operate.redrive(looking, GROUP, "a", "bob")
            before = await lot(looking)
            with pytest.raises(Refused, match="not as it was"):
                await operate.carry_out_edit(looking, mine, "ada")
            with pytest.raises(Refused, match="redrive of it was asked"):
                await operate.plan_edit(looking, GROUP, "a", with_fields(["amount=5"]))
            assert await lot(looking) == before
            other = await operate.plan_edit(looking, GROUP, "b", with_fields(["amount=5"]))
        await shop.go()  # a is redriven, and its lane is gone
        async with shop.running(join=False) as looking:
            with pytest.raises(NotFound):
                await operate.carry_out_edit(looking, mine, "ada")
            await operate.carry_out_edit(looking, other, "ada")
            assert await done(looking) == [("a", 6), ("a", 7)]

    run(main)


def test_fields_that_this_code_does_not_know_survive_an_edit(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.begin(order("a", -5))
        async with shop.running(join=False) as looking:
            store = looking.stores["billing"]
            ((packed,),) = await store.read("select envelope from evenflow_parked")
            (envelope,) = unpack(packed)
            data = b'{"order_id": "a", "amount": -5, "of_a_newer_producer": {"deep": [1, 2]}}'
            newer = pack([msgspec.structs.replace(envelope, data=data)])
            await store.transact(lambda s: s.execute("update evenflow_parked set envelope = $1", (newer,)))
            await edited(looking, "a", "amount=5", "of_a_newer_producer.deep.1=3")
            ((packed,),) = await store.read("select envelope from evenflow_parked")
            assert json.loads(unpack(packed)[0].data) == {
                "order_id": "a", "amount": 5, "of_a_newer_producer": {"deep": [1, 3]},
            }  # fmt: skip
            garbage = pack([msgspec.structs.replace(envelope, data=b"\xff{")])
            await store.transact(lambda s: s.execute("update evenflow_parked set envelope = $1", (garbage,)))
            with pytest.raises(Refused, match="cannot be read as fields"):
                await edited(looking, "a", "amount=5")
            plan = await operate.plan_edit(looking, GROUP, "a", operate.whole(b'{"order_id": "a", "amount": 8}'))
            await operate.carry_out_edit(looking, plan, "ada")
            newest = pack([msgspec.structs.replace(envelope, version=9)])
            await store.transact(lambda s: s.execute("update evenflow_parked set envelope = $1", (newest,)))
            with pytest.raises(Refused, match="version 9"):
                await edited(looking, "a", "amount=5")

    run(main)


# -- out and back -----------------------------------------------------------------------------------------------------


class Papers:
    """What was written, as a file would have it."""

    def __init__(self) -> None:
        self.data = b""

    async def __call__(self, lines: Sequence[Line]) -> None:
        self.data += written(lines)

    def lines(self) -> list[Line]:
        return list(read(self.data.splitlines()))


async def carried_back(running: Running, papers: Papers, **how: Any) -> operate.Import:
    plan = await operate.plan_import(running, papers.lines(), **how)
    await operate.carry_out_import(running, plan, "ada")
    return plan


async def whole_lot(running: Running) -> list[Any]:
    store = running.stores["billing"]
    return [
        await store.read('select * from evenflow_parked order by lane, generation, "offset"'),
        await store.read('select * from evenflow_attempt order by lane, "offset", attempt'),
    ]


def test_what_is_moved_out_comes_back_as_it_was_once(tmp_path: Path) -> None:
    async def main() -> None:
        shop, papers, copy = Shop(tmp_path), Papers(), Papers()
        await shop.begin(order("a", -5), order("b", -5), order("a", 7), order("c", 1))
        async with shop.running(join=False) as looking:
            await edited(looking, "b", "amount=9")
            before = await whole_lot(looking)
            assert await operate.export(looking, GROUP, None, copy) == operate.Exported(3, 2)
            assert await whole_lot(looking) == before
            assert await operate.export(looking, GROUP, Filter(lane="a"), Papers()) == operate.Exported(2, 1)
            with_copy = await operate.plan_import(looking, copy.lines())
            assert {each.reason for each in with_copy.unfit} == {"it is there already"} and not with_copy.lanes

            assert await operate.move_out(looking, GROUP, None, papers, "ada") == operate.Exported(3, 2)
            assert papers.data == copy.data and await lot(looking) == [] and await lot_size(looking) == (0, 0)
            await carried_back(looking, papers)
            assert await whole_lot(looking) == before
            again = await operate.plan_import(looking, papers.lines())
            assert [each.reason for each in again.unfit] == ["it is there already"] * 2
            await operate.redrive(looking, GROUP, "b", "ada")
        await shop.go()
        async with shop.running(join=False) as looking:
            assert await done(looking) == [("c", 1), ("b", 9)]
            handled = await operate.plan_import(looking, papers.lines())
            assert ["may have been handled" in each.reason for each in handled.unfit] == [False, True]
            audit = [each.what for each in await operate.audit(looking, subject="kb")]
            assert {"parked export --remove", "parked import"} <= set(audit)

    run(main)


def test_a_lane_whose_key_has_gone_on_comes_back_only_when_it_may_be_late(tmp_path: Path) -> None:
    async def main() -> None:
        shop, papers = Shop(tmp_path), Papers()
        await shop.begin(order("a", -5), order("a", 7), order("b", -5))
        async with shop.running(join=False) as looking:
            await operate.move_out(looking, GROUP, None, papers, "ada")
        await shop.go(order("a", 8), order("c", 1))
        async with shop.running(join=False) as looking:
            assert ("a", 8) in await done(looking)
            plan = await operate.plan_import(looking, papers.lines())
            ((lane, events, reason),) = plan.unfit
            assert (lane, events) == ("a", 2) and "1 later event was handled" in reason
            assert [lane[0].lane for lane in plan.lanes] == ["kb"]
            late = await carried_back(looking, papers, late=True)
            assert late.events == 3 and not late.unfit
            await operate.redrive(looking, GROUP, None, "ada")
        await shop.go()
        async with shop.running(join=False) as looking:
            assert [row for row in await lot(looking) if row[2]] != []  # amounts below 0 fail again

    run(main)


def test_what_failed_meanwhile_waits_behind_what_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        shop, papers = Shop(tmp_path), Papers()
        await shop.begin(order("a", 1), order("a", 2), failing=["a"])
        async with shop.running(join=False) as looking:
            await operate.move_out(looking, GROUP, None, papers, "ada")
        await shop.go(order("a", 3), order("a", 4))  # fails again: parked, so nothing of the key was handled
        async with shop.running(join=False) as looking:
            plan = await carried_back(looking, papers)
            assert not plan.unfit
            assert [(row[2], row[3]) for row in await lot(looking)] == [(1, None), (0, None), (0, None), (0, None)]
            shop.failing = set()
            await operate.redrive(looking, GROUP, "a", "ada")
        await shop.go()
        async with shop.running(join=False) as looking:
            assert await done(looking) == [("a", 1), ("a", 2), ("a", 3), ("a", 4)] and await lot(looking) == []

    run(main)


def test_a_file_that_was_changed_or_is_none_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        shop, papers = Shop(tmp_path), Papers()
        await shop.begin(order("a", -5), order("a", 7))
        async with shop.running(join=False) as looking:
            await operate.move_out(looking, GROUP, None, papers, "ada")
            first, second = papers.data.splitlines(keepends=True)
            papers.data = first.replace(b"-5", b"-6") + second
            changed = await operate.plan_import(looking, papers.lines())
            assert "changed in the file" in changed.unfit[0].reason
            papers.data = second
            part = await operate.plan_import(looking, papers.lines())
            assert "1 more went out with it" in part.unfit[0].reason
            papers.data = first + b'{"format": 1}\n'
            with pytest.raises(FileInvalid, match="line 2"):
                papers.lines()
            papers.data = first + first.replace(b'"billing.charge"', b'"billing.other"')
            with pytest.raises(Refused, match="2 groups"):
                await operate.plan_import(looking, papers.lines())
            papers.data = first + first + second
            twice = await operate.plan_import(looking, papers.lines())
            assert "twice" in twice.unfit[0].reason
            assert await lot(looking) == []

    run(main)


def test_what_the_log_brings_again_does_not_come_back_from_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        shop, papers = Shop(tmp_path), Papers()
        await shop.begin(order("a", 1), failing=["a"])
        async with shop.running(join=False) as looking:
            await operate.move_out(looking, GROUP, None, papers, "ada")
            await operate.seek(looking, GROUP, "beginning", "ada")
        shop.failing = set()
        await shop.go()
        async with shop.running(join=False) as looking:
            assert await done(looking) == [("a", 1)]
            plan = await operate.plan_import(looking, papers.lines())
            assert "may have been handled" in plan.unfit[0].reason

    run(main)


def test_two_imports_of_one_file_bring_it_back_once(tmp_path: Path) -> None:
    async def main() -> None:
        shop, papers = Shop(tmp_path), Papers()
        await shop.begin(order("a", -5))
        async with shop.running(join=False) as looking:
            await operate.move_out(looking, GROUP, None, papers, "ada")
            plans = [await operate.plan_import(looking, papers.lines()) for _ in range(2)]
            await operate.carry_out_import(looking, plans[0], "ada")
            with pytest.raises(Refused, match="taken back by somebody else"):
                await operate.carry_out_import(looking, plans[1], "bob")
            assert len(await lot(looking)) == 1

    run(main)


def test_an_owner_at_work_reads_its_lanes_anew(tmp_path: Path) -> None:
    """The owner keeps in memory which keys are parked; both ways have to reach it while it runs."""

    async def main() -> None:
        shop, papers = Shop(tmp_path), Papers()
        await shop.begin(order("a", 1), failing=["a"])
        other = Shop(tmp_path)
        other.failing = {"a"}
        async with shop.running(), other.running(join=False) as looking:
            await operate.move_out(looking, GROUP, None, papers, "ada")
            shop.failing = set()
            await other.app.publish(order("b", 2))
            await until(looking, lambda: _has(looking, ("b", 2)))
            shop.failing = {"b"}
            plan = await carried_back(looking, papers)
            assert plan.events == 1
            await other.app.publish(order("a", 3))

            async def waits_behind() -> bool:
                return len(await lot(looking)) == 2

            await until(looking, waits_behind)
            assert [(row[0], row[2], row[3]) for row in await lot(looking)] == [("ka", 1, None), ("ka", 0, None)]
            shop.failing = set()
            await operate.redrive(looking, GROUP, "a", "ada")
            await until(looking, lambda: _has(looking, ("a", 3)))
            assert [each for each in await done(looking) if each[0] == "a"] == [("a", 1), ("a", 3)]
            # and out again: what comes of the key later is not held up by a lane that is no more
            shop.failing = {"a"}
            await other.app.publish(order("a", 4))

            async def is_parked() -> bool:
                return len(await lot(looking)) == 1

            await until(looking, is_parked)
            await operate.move_out(looking, GROUP, None, Papers(), "ada")
            shop.failing = set()
            await other.app.publish(order("a", 5))
            await until(looking, lambda: _has(looking, ("a", 5)))

    run(main)


async def _has(running: Running, row: tuple[str, int]) -> bool:
    return row in await done(running)


def test_a_waiting_group_at_work_has_to_be_paused_first(tmp_path: Path) -> None:
    async def main() -> None:
        service = Service("billing", policy=Policy(attempts=1))

        @service.on(Order, group="tell", concurrency=2)
        async def tell(order: Order) -> None:
            raise ValueError(order.order_id)

        def at_work() -> App:
            return App(service)

        settings, app, papers = Settings.load({"folder": tmp_path}, env={}, cwd=tmp_path), at_work(), Papers()
        looking_app = at_work()
        async with app.running(handle=None, settings=settings) as running:
            await app.publish(order("a"))
            await until(running, running.idle)
            async with looking_app.running(settings=settings, join=False) as looking:
                with pytest.raises(Refused, match="at work"):
                    await operate.move_out(looking, "billing.tell", None, papers, "ada")
                await operate.pause(looking, "billing.tell", "ada")

                async def is_free() -> bool:
                    found = await operate.group(looking, "billing.tell")
                    return all(each.owner is None for each in found.partitions)

                await until(running, is_free)
                assert (await operate.move_out(looking, "billing.tell", None, papers, "ada")).events == 1
                assert (await operate.plan_import(looking, papers.lines())).events == 1

    run(main)


def test_the_audit_is_filtered_by_service_time_and_subject(tmp_path: Path) -> None:
    async def main() -> None:
        shop = Shop(tmp_path)
        await shop.begin(order("a", -5), order("b", -5))
        async with shop.running(join=False) as looking:
            await edited(looking, "a", "amount=5")
            between = looking.clock.now()
            await looking.clock.sleep(0.002)
            await edited(looking, "b", "amount=5")
            assert [each.subject for each in await operate.audit(looking)] == [f"{GROUP} kb", f"{GROUP} ka"]
            assert [each.subject for each in await operate.audit(looking, since=between)] == [f"{GROUP} kb"]
            assert [each.subject for each in await operate.audit(looking, subject="ka")] == [f"{GROUP} ka"]
            assert [each.subject for each in await operate.audit(looking, limit=1)] == [f"{GROUP} kb"]
            assert len(await operate.audit(looking, service="billing")) == 2
            with pytest.raises(NotFound, match="no service 'biling'"):
                await operate.audit(looking, service="biling")

    run(main)


def test_a_key_that_goes_on_between_plan_and_import_is_noticed(tmp_path: Path) -> None:
    async def main() -> None:
        shop, other, papers = Shop(tmp_path), Shop(tmp_path), Papers()
        await shop.begin(order("a", -5), order("b", -5))
        async with shop.running(join=False) as looking:
            await operate.move_out(looking, GROUP, None, papers, "ada")
            plan = await operate.plan_import(looking, papers.lines())
            assert len(plan.lanes) == 2
            await other.go(order("a", 8))
            with pytest.raises(Refused, match="1 later event was handled since"):
                await operate.carry_out_import(looking, plan, "ada")
            assert await lot(looking) == []
            again = await operate.plan_import(looking, papers.lines())
            assert [each.lane for each in again.unfit] == ["a"]
            assert await operate.carry_out_import(looking, again, "ada") == 1

    run(main)


def test_a_key_that_goes_on_in_the_middle_of_an_import_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look into the log and the transaction that puts the events back."""

    async def main() -> None:
        shop, other, papers = Shop(tmp_path), Shop(tmp_path), Papers()
        await shop.begin(order("a", -5))
        looked, looks = importing._gone_on, 0

        async def look(*given: Any) -> Any:
            nonlocal looks
            found, looks = await looked(*given), looks + 1
            if looks == 2:  # the first was for the plan
                await other.go(order("a", 8))
            return found

        monkeypatch.setattr(importing, "_gone_on", look)
        async with shop.running(join=False) as looking:
            await operate.move_out(looking, GROUP, None, papers, "ada")
            plan = await operate.plan_import(looking, papers.lines())
            with pytest.raises(Refused, match="1 later event was handled since"):
                await operate.carry_out_import(looking, plan, "ada")
            assert looks == 3 and await lot(looking) == []

    run(main)


def test_a_line_holds_an_envelope_byte_for_byte() -> None:
    for data in (b"\x82\xffnot text", '{"a": "\u20ac\\n"}'.encode(), b""):
        envelope = Envelope("1", "orders", "order.placed", 2, None, 7, 1.5, data, "p", 9, "c", "d", "x/y", {"h": "1"})
        letter = operate.Letter(
            group="g", topic="t", lane="#1/0/3", generation=1, offset=3, slot=7, partition=0, packed=b"", head=True,
            envelope=envelope, due=None, attempts=1, error="E: x", error_type="E", wish=None, first_failed=1.0,
            failed=2.0, parked=1.0, fingerprint="ab", original=envelope,
        )  # fmt: skip
        attempt = operate.Attempt(1, 2.0, "host:1", "E", "E: x", "ab")
        (line,) = read(written([line_of(letter, "log", [attempt])]).splitlines())
        assert envelope_of(line.envelope) == envelope and line.history == [attempt]
        assert line.original is not None and envelope_of(line.original) == envelope
    with pytest.raises(FileInvalid, match="newer code"):
        list(read([written([line]).replace(b'"format":1', b'"format":2')]))
