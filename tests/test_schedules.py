"""Schedules in virtual time: runs at their times, what becomes of missed ones, clocks that jump, wrong definitions."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from evenflow import DAY, HOUR, MINUTE, App, Delivery, Due, Event, Policy, Service, Topic, Transaction, operate, testing
from evenflow.errors import DefinitionError, MissingExtra, Refused, TransactionError
from evenflow.ids import derived_id
from evenflow.operate import NotFound
from evenflow.operate.doctor_running import _schedule
from evenflow.registry import Registry
from evenflow.schedules.schedule import due_event, topic_of, type_of
from evenflow.schedules.scheduling import Entry, Plan, plan

NOON = datetime(2026, 3, 28, 11, tzinfo=UTC)
REMINDERS = Topic("reminders", partitions=1)


class Reminder(Event, type="reminder", topic=REMINDERS, key="key"):
    key: str


class Bank:
    pass


class Runs(list[Due]):
    """An app with one schedule, and the runs that its handler has had."""

    def __init__(self, declare: Callable[[Service], Any], fails: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.service = Service("billing", policy=Policy(attempts=1))

        @declare(self.service)
        async def dunning(due: Due, tx: Transaction) -> None:
            self.append(due)
            if len(self) in fails:
                raise ValueError("not now")

        self.app = App(self.service)

    @property
    def times(self) -> list[str]:
        return [each.due.isoformat(" ", "minutes") for each in self]

    @property
    def missed(self) -> list[int]:
        return [each.missed for each in self]


def hourly(missed: Any = "one", **more: Any) -> Runs:
    return Runs(lambda service: service.cron("dunning", "0 * * * *", missed=missed), **more)


def drive(test: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20.0))


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_cron_runs_at_seven_in_berlin_in_summer_and_in_winter() -> None:
    async def test() -> None:
        runs = Runs(lambda service: service.cron("dunning", "0 7 * * *", tz="Europe/Berlin"))
        async with testing.world(runs.app, start=NOON) as world:
            await world.advance(18 * HOUR - 1)
            assert runs == []
            await world.advance(1)
            assert runs == [Due(name="dunning", due=datetime(2026, 3, 29, 5, tzinfo=UTC))]
            await world.advance(DAY)
            assert runs.times == ["2026-03-29 07:00+02:00", "2026-03-30 07:00+02:00"]
            assert world.clock.now() == NOON.timestamp() + 42 * HOUR

    drive(test)


def test_handlers_take_what_other_handlers_take() -> None:
    service, seen = Service("billing"), []

    @service.every("sweep", HOUR)
    async def sweep(due: Due, bank: Bank, delivery: Delivery) -> Reminder:
        seen.append((due.due, type(bank), delivery.group, delivery.id))
        return Reminder(key="k")

    app = App(service)

    @app.provide
    def bank() -> Bank:
        return Bank()

    async def test() -> None:
        async with testing.world(app, start=NOON) as world:
            await world.advance(2 * HOUR)
            assert [each[0] for each in seen] == [NOON + timedelta(hours=1), NOON + timedelta(hours=2)]
            assert {each[1:3] for each in seen} == {(Bank, "billing.sweep")}
            ids = [derived_id("schedule", "billing", "sweep", f"{each[0].timestamp() * 1000:.0f}") for each in seen]
            assert [each[3] for each in seen] == ids
            published = [each for each in world.envelopes() if each.type == "reminder"]
            assert [each.causation for each in published] == ids

    drive(test)


def test_a_run_that_fails_holds_up_no_later_one_and_can_be_redriven() -> None:
    async def test() -> None:
        runs = hourly(fails=(1,))
        async with testing.world(runs.app, start=NOON) as world:
            await world.advance(3 * HOUR)
            assert runs.times == ["2026-03-28 12:00+00:00", "2026-03-28 13:00+00:00", "2026-03-28 14:00+00:00"]
            (letter,) = await world.parked()
            assert letter.dead
            assert await world.redrive() == 1
            assert runs.times[-1] == "2026-03-28 12:00+00:00"

    drive(test)


def test_two_schedules_of_a_service_do_not_mix_and_one_that_hangs_holds_up_no_other() -> None:
    service, seen = Service("billing"), []

    @service.every("slow", 10.0)
    async def slow(due: Due) -> None:
        await asyncio.sleep(0)
        seen.append(due.name)

    @service.every("quick", 10.0)
    async def quick(due: Due, tx: Transaction) -> None:
        seen.append(due.name)

    async def test() -> None:
        async with testing.world(App(service)) as world:
            await world.advance(20.0)
            assert sorted(seen) == ["quick", "quick", "slow", "slow"]

    drive(test)


def test_what_lasts_of_a_run_is_frozen() -> None:
    assert type_of("billing", "dunning") == "evenflow.due.billing.dunning"
    assert topic_of("billing").name == "evenflow.schedules.billing"
    assert derived_id("schedule", "billing", "dunning", "1774674000000") == "ed4961d0-2686-8bd2-bb24-65216e54825f"
    event = due_event("billing", "dunning", "shop.py:1")(name="dunning", due=NOON)
    data = b'{"name":"dunning","due":"2026-03-28T11:00:00Z","missed":0,"manual":false}'
    assert Registry([type(event)]).encode(event)[3] == data


def test_a_cron_line_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(MissingExtra, match="pip install 'evenflow\\[cron\\]'"):
        Runs(lambda service: service.cron("dunning", "59 23 28 2 *"))
    Runs(lambda service: service.every("dunning", 60))


# -- missed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "times", "counts"),
    [
        ("one", ["14:00", "15:00"], [2, 0]),
        ("all", ["12:00", "13:00", "14:00", "15:00"], [0, 0, 0, 0]),
        ("none", ["15:00"], [0]),
    ],
)
@pytest.mark.parametrize("how", ["paused", "clock"])
def test_what_was_missed_is_treated_as_the_code_says(
    missed: str, times: list[str], counts: list[int], how: str
) -> None:
    async def test() -> None:
        runs = hourly(missed)
        async with testing.world(runs.app, start=NOON) as world:
            if how == "paused":
                await operate.pause_schedule(world.running, "dunning", "ann", "the bank is down")
                await world.advance(3 * HOUR + 30 * MINUTE)
                assert runs == []
                await operate.resume_schedule(world.running, "billing.dunning", "ann")
            else:
                world.clock.skip(3 * HOUR + 30 * MINUTE)  # the wall clock jumps forth, or the machine slept
            await world.advance(2.0)
            assert len(runs) == len(times) - 1
            await world.advance(30 * MINUTE)
            assert [each[11:16] for each in runs.times] == times
            assert runs.missed == counts

    drive(test)


def entry(**changes: Any) -> Entry:
    found = Entry(
        "dunning", "billing.dunning", "t", "e", "", "UTC", 60.0, "one", 0.0, 60.0, "p", None, None, None, None, None, 0
    )
    return found._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "now", "expected"),
    [
        ({}, 59.9, None),
        ({}, 60.0, Plan(((60.0, 0),), 120.0, 60.0)),
        ({}, 119.9, Plan(((60.0, 0),), 120.0, 60.0)),
        ({}, 120.0, Plan(((120.0, 1),), 180.0, 120.0)),
        ({"missed": "all"}, 180.0, Plan(((60.0, 0), (120.0, 0), (180.0, 0)), 240.0, 180.0)),
        ({"missed": "none"}, 119.0, Plan(((60.0, 0),), 120.0, 60.0)),
        ({"missed": "none", "seconds": 600.0, "next_due": 600.0}, 660.0, Plan(((600.0, 0),), 1200.0, 600.0)),
        ({"missed": "none", "seconds": 600.0, "next_due": 600.0}, 661.0, Plan((), 1200.0, 600.0)),
        ({"next_due": None}, 1e9, None),
        # the clock was set back: a line waits for its next time for a day, an interval counts from now
        ({"line": "* * * * *", "last_due": 5040.0, "next_due": 5100.0}, 100.0, None),
        ({"line": "* * * * *", "last_due": 1e6, "next_due": 1e6 + 20}, 100.0, Plan((), 120.0, 100.0, 100.0)),
        ({"line": "* * * * *", "anchor": 1e6, "next_due": 1e6 + 20}, 100.0, Plan((), 120.0, 100.0, 100.0)),
        ({"last_due": 160.0, "next_due": 220.0}, 100.0, None),
        ({"last_due": 161.0, "next_due": 221.0}, 100.0, Plan((), 160.0, 100.0, 100.0)),
        ({"anchor": 1e6, "next_due": 1e6 + 60}, 100.0, Plan((), 160.0, 100.0, 100.0)),
    ],
)
def test_what_is_to_be_done_now(changes: dict[str, Any], now: float, expected: Plan | None) -> None:
    assert plan(entry(**changes), now) == expected


def test_a_year_of_missed_runs_is_bounded_and_counted() -> None:
    now = 365 * DAY
    found = plan(entry(missed="all"), now)
    assert found is not None
    assert len(found.runs) == 1000
    assert found.runs[0] == (now - 999 * 60, 1000)
    one = plan(entry(), now)
    assert one is not None
    assert one.runs == ((now, 1000),)


# -- clocks -----------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_doubles_nothing_and_loses_nothing() -> None:
    async def test() -> None:
        runs = hourly("all")
        async with testing.world(runs.app, start=NOON) as world:
            await world.advance(HOUR)
            world.clock._now -= 2 * HOUR
            await world.advance(2 * HOUR)
            assert runs.times == ["2026-03-28 12:00+00:00"]
            await world.advance(HOUR)
            assert runs.times == ["2026-03-28 12:00+00:00", "2026-03-28 13:00+00:00"]

    drive(test)


def test_a_clock_that_was_years_ahead_does_not_stop_a_schedule_for_years() -> None:
    async def test() -> None:
        runs = hourly()
        async with testing.world(runs.app, start=NOON + timedelta(days=3650)) as world:
            await world.advance(HOUR)
            world.clock._now -= 3650 * DAY
            await world.advance(2.0)  # whoever leads looks once a second
            await world.advance(HOUR - 2.0)
            assert runs.times[1:] == ["2026-03-28 13:00+00:00"]
            await world.advance(HOUR)
            assert runs.times[2:] == ["2026-03-28 14:00+00:00"]

    drive(test)


def test_an_interval_goes_on_when_the_clock_is_set_back_by_hours() -> None:
    async def test() -> None:
        runs = Runs(lambda service: service.every("dunning", 10.0, missed="all"))
        async with testing.world(runs.app, start=NOON) as world:
            await world.advance(20.0)
            assert len(runs) == 2
            world.clock._now -= 5 * HOUR
            await world.advance(2.0)  # whoever leads looks once a second
            await world.advance(30.0)
            assert len(runs) == 5
            assert len({each.due for each in runs}) == 5

    drive(test)


def test_due_events_go_by_the_clock_whatever_it_does() -> None:
    service, seen = Service("billing"), []

    @service.on(Reminder, group="remind")
    async def remind(event: Reminder, tx: Transaction) -> None:
        seen.append(event.key)

    app = App(service)

    async def test() -> None:
        async with testing.world(app, start=NOON) as world:
            for number in range(3):
                await world.publish(Reminder(key=str(number)), after=HOUR + number, name=f"n{number}")
            await world.publish(Reminder(key="later"), after=2 * HOUR)
            world.clock._now -= HOUR
            await world.advance(2 * HOUR - 0.001)
            assert seen == []
            await world.advance(0.001)
            assert seen == ["0"]
            world.clock.skip(1800.0)  # forth, past the due times of two more
            assert seen == ["0"]
            await world.advance(0.5)
            assert seen == ["0", "1", "2"]
            await world.advance(HOUR)
            assert seen == ["0", "1", "2", "later"]

    drive(test)


@pytest.mark.parametrize(
    "when", [{"after": float("nan")}, {"after": float("inf")}, {"at": float("inf")}, {"at": 1e15}, {"after": -1e15}]
)
def test_a_due_time_that_is_none_is_refused(when: dict[str, float]) -> None:
    async def test() -> None:
        app = App(Service("billing"), events=[Reminder])
        async with testing.world(app) as world:
            with pytest.raises(TransactionError, match="no time"):
                await world.publish(Reminder(key="k"), **when)

    drive(test)


def test_a_name_moves_and_takes_back_what_waits_under_it() -> None:
    async def test() -> None:
        app = App(Service("billing"), events=[Reminder])
        async with testing.world(app, start=NOON) as world:
            await world.publish(Reminder(key="first"), after=HOUR, name="bill:1")
            await world.publish(Reminder(key="moved"), after=2 * HOUR, name="bill:1")
            await world.publish(Reminder(key="gone"), after=HOUR, name="bill:2")
            (gone,) = [each for each in await operate.scheduled(world.running) if each.name == "bill:2"]
            assert await operate.cancel(world.running, "bill:2", "ann") == gone
            with pytest.raises(NotFound, match="did you mean bill:1"):
                await operate.cancel(world.running, "bill:2", "ann")
            await world.advance(2 * HOUR - 0.001)
            assert world.published(Reminder) == []
            await world.advance(0.001)
            assert world.published(Reminder) == [Reminder(key="moved")]

    drive(test)


def test_while_the_outbox_is_full_runs_wait_and_are_missed_not_lost() -> None:
    async def test() -> None:
        runs = Runs(lambda service: service.every("dunning", 10.0, missed="all"))
        async with testing.world(runs.app, start=NOON) as world:
            outbox = world.running.outboxes["billing"]
            measure = outbox.measure_from

            async def full(_first: int | None) -> None:
                outbox.full = True

            outbox.measure_from = full  # type: ignore[method-assign]
            outbox.full = True
            await world.advance(25.0)
            assert runs == []
            outbox.measure_from = measure  # type: ignore[method-assign]
            await world.advance(2.0)
            assert [each.due for each in runs] == [NOON + timedelta(seconds=10), NOON + timedelta(seconds=20)]

    drive(test)


# -- a person ---------------------------------------------------------------------------------------------------------


def test_a_run_by_hand_is_one_more_and_everything_is_audited() -> None:
    async def test() -> None:
        runs = hourly()
        async with testing.world(runs.app, start=NOON) as world:
            (found,) = await operate.recurring(world.running)
            assert (found.state, found.times, found.runs) == ("running", "0 * * * * UTC", 0)
            assert found.next == NOON.timestamp() + HOUR
            await operate.run_schedule(world.running, "dunning", "ann")
            await operate.run_schedule(world.running, "billing.dunning", "ann")
            await world.settle()
            assert runs == [Due(name="dunning", due=NOON, manual=True)] * 2
            await operate.pause_schedule(world.running, "dunning", "bob", "too loud")
            with pytest.raises(Refused, match="already paused by bob: too loud"):
                await operate.pause_schedule(world.running, "dunning", "bob")
            (found,) = await operate.recurring(world.running)
            assert (found.state, found.paused, found.runs) == ("paused", "paused by bob: too loud", 2)
            await operate.run_schedule(world.running, "dunning", "ann")
            await operate.resume_schedule(world.running, "dunning", "bob")
            with pytest.raises(Refused, match="is not paused"):
                await operate.resume_schedule(world.running, "dunning", "bob")
            with pytest.raises(NotFound, match="there is no schedule 'duning'\n  → did you mean dunning"):
                await operate.run_schedule(world.running, "duning", "bob")
            await world.advance(HOUR)
            assert [each.manual for each in runs] == [True, True, True, False]
            rows = await world.rows("billing", "select who, what, subject from evenflow_audit order by id")
            assert [tuple(each) for each in rows] == [
                *[("ann", "schedule run", "dunning")] * 2,
                ("bob", "schedule pause", "dunning"),
                ("ann", "schedule run", "dunning"),
                ("bob", "schedule resume", "dunning"),
            ]

    drive(test)


def test_a_group_that_is_dropped_or_renamed_takes_its_schedule_along() -> None:
    async def test() -> None:
        async with testing.world(hourly().app, start=NOON) as world:
            store = world.running.stores["billing"]
            rename, drop = store.sql["rename_schedule"], store.sql["drop_schedule"]
            args = ("billing.dunning", "billing.remind", "remind", "evenflow.due.billing.remind")
            await store.transact(lambda session: session.execute(rename, args))
            rows = await store.read("select name, group_name, type from evenflow_schedule")
            assert [tuple(each) for each in rows] == [(args[2], args[1], args[3])]
            await store.transact(lambda session: session.execute(drop, ("billing.remind",)))
            assert await store.read("select name from evenflow_schedule") == []
            await world.advance(2.0)  # the process that leads writes down again what its code says
            rows = await store.read("select name, next_due from evenflow_schedule")
            assert [tuple(each) for each in rows] == [("dunning", NOON.timestamp() + HOUR)]

    drive(test)


def test_the_doctor_says_what_is_wrong_with_a_schedule() -> None:
    now = NOON.timestamp()
    found = operate.Recurring(
        service="billing", name="dunning", group="billing.dunning", state="running", times="0 * * * * UTC", pending="",
        missed="one", next=now + 60, last_due=now - 3540, last_run=now - 3540, runs=1, paused="", paused_at=None,
        where="shop.py:1",
    )  # fmt: skip

    def said(**changes: Any) -> tuple[str, str]:
        finding = _schedule(type(found)(**{**{name: getattr(found, name) for name in found.__slots__}, **changes}), now)
        return finding.level, finding.message

    assert said() == ("ok", "0 * * * * UTC, next in 60 s")
    assert said(state="orphaned")[0] == "warn"
    assert said(state="paused", paused="paused by ann: loud") == ("warn", "is paused by ann: loud")
    assert said(next=now - 60) == ("warn", "was due 60 s ago, and no process has run it")
    assert said(last_due=now + 3600)[1].endswith("the clock was set back, and it waits")
    assert said(state="new", next=None) == ("ok", "has not run yet")


# -- wrong definitions ------------------------------------------------------------------------------------------------


def cron(name: Any = "dunning", line: Any = "0 7 * * *", **more: Any) -> Callable[[Service], Any]:
    return lambda service: service.cron(name, line, **more)


def every(seconds: Any) -> Callable[[Service], Any]:
    return lambda service: service.every("sweep", seconds)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (cron(line="0 0 30 2 *"), "schedule 'dunning' has the line '0 0 30 2 *', which never fires"),
        (cron(line="0 25 * * *"), "has the line '0 25 * * *', which has a wrong hour"),
        (cron(line="7"), "has the line '7', which is not five fields"),
        (cron(line=7), "has the line 7"),
        (cron(tz="Europe/Berlinn"), "has tz='Europe/Berlinn', which is no time zone\n  → did you mean Europe/Berlin?"),
        (cron(missed="some"), "has missed='some'"),
        (cron(name="Dunning"), "schedule 'Dunning' has a name that cannot be used"),
        (cron(name="d" * 90), "has too long a name\n  → use at most 79 characters"),
        (every(0), "runs every 0 seconds"),
        (every(-1), "runs every -1 seconds"),
        (every(0.01), "runs every 0.01 seconds\n  → use a number of seconds, at least 0.1"),
        (every(float("nan")), "runs every nan seconds"),
        (every(float("inf")), "runs every inf seconds"),
        (every(True), "runs every True seconds"),
        (every("60"), "runs every '60' seconds"),
        (every(timedelta(hours=1)), "runs every datetime.timedelta"),
    ],
)
def test_a_wrong_schedule_is_told_with_its_line(declare: Callable[[Service], Any], message: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        Runs(declare)
    assert message in str(raised.value)
    assert f"{__file__}:" in raised.value.where


def test_a_handler_of_a_schedule_takes_a_due() -> None:
    service = Service("billing")

    @service.every("sweep", 60)
    async def sweep(event: Reminder) -> None: ...

    @service.every("empty", 60)
    async def empty() -> None: ...

    with pytest.raises(DefinitionError, match="is given Due but takes Reminder") as raised:
        App(service)
    assert "takes no event" in str(raised.value.also[0])


def test_names_are_unique_among_schedules_and_groups() -> None:
    service = Service("billing")

    @service.on(Reminder, group="dunning")
    async def first(event: Reminder, tx: Transaction) -> None: ...

    @service.every("dunning", 60)
    async def second(due: Due, tx: Transaction) -> None: ...

    with pytest.raises(DefinitionError, match="the group 'billing.dunning' has two handlers"):
        App(service)


def test_a_handler_of_a_schedule_stays_a_plain_function_and_runs_are_told_apart_by_what_they_say() -> None:
    service = Service("billing")

    @service.cron("dunning", "0 7 * * *", tz="Europe/Berlin")
    def dunning(due: Due) -> str:
        return due.name

    due = Due(name="dunning", due=NOON)
    assert dunning(due) == "dunning"
    assert due == Due(name="dunning", due=NOON)
    assert due != Due(name="dunning", due=NOON, manual=True)
    assert len({due, Due(name="dunning", due=NOON)}) == 1
    assert App(service).check() == []
