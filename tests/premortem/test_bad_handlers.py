"""Handlers as nobody should write them: what becomes of their events, and that neighbours and other groups go on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from evenflow import App, Event, Policy, Service, Topic, Transaction, testing
from evenflow.errors import TransactionError
from evenflow.testing import World
from .events import Placed, run

KINDS = ("chunk", "lanes", "list")
SOURCE = Topic("source", partitions=2)
RESULTS = Topic("results", partitions=2)
QUICKLY = Policy(attempts=2, first_delay=1.0, timeout=5.0)
Bad = Callable[[], Awaitable[None]]


class Began(Event, type="began", topic=SOURCE, key="key"):
    key: str
    number: int = 0


class Came(Event, type="came", topic=RESULTS, key="key"):
    key: str


class Done:
    """What was handled, by group; and how often the bad one was called."""

    def __init__(self) -> None:
        self.by_group: dict[str, list[str]] = {}
        self.calls = 0

    def add(self, group: str, key: str) -> None:
        self.by_group.setdefault(group, []).append(key)


def app_of(kind: str, bad: Bad, done: Done) -> App:
    """A group whose handler is bad for the key "bad", and one beside it that is not."""
    service = Service("shop", policy=QUICKLY)

    async def work(event: Began) -> None:
        if event.key == "bad":
            done.calls += 1
            await bad()
        done.add("bad", event.key)

    if kind == "chunk":

        @service.on(Began, group="bad")
        async def each(event: Began, tx: Transaction) -> None:
            await work(event)

    elif kind == "lanes":

        @service.on(Began, group="bad", concurrency=2)
        async def waiting(event: Began) -> None:
            await work(event)

    else:

        @service.on_batch(Began, group="bad", size=10)
        async def several(events: list[Began], tx: Transaction) -> None:
            for event in events:
                await work(event)

    @service.on(Began, group="good")
    async def good(event: Began, tx: Transaction) -> None:
        done.add("good", event.key)

    return App(service, events=[Began, Placed])


async def publish(world: World) -> None:
    keys = ["a", "b", "bad", "c", "d"]
    await world.app.publish(*[Began(key=key) for key in keys])
    for _ in range(12):
        await world.advance(5.0)


def parks_it_alone(kind: str, bad: Bad, error: str) -> Done:
    """The bad one is a dead letter with this error; everything else is handled, in both groups, also what comes later."""
    done = Done()

    async def test() -> None:
        async with testing.world(app_of(kind, bad, done), patience=0.02) as world:
            await publish(world)
            (dead,) = [each for each in await world.parked() if each.dead]
            assert error in str(dead.error), dead.error
            assert dead.attempts == QUICKLY.attempts
            await world.publish(Began(key="e"))
            assert set(done.by_group["bad"]) - {"bad"} == set("abcde")
            assert sorted(done.by_group["good"]) == ["a", "b", "bad", "c", "d", "e"]

    run(test, 30.0)
    return done


# -- it does not end ---------------------------------------------------------------------------------------------------


async def never_returns() -> None:
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_never_returns_is_ended_by_its_time(kind: str) -> None:
    parks_it_alone(kind, never_returns, "it did not return within 5 s")


async def swallows_cancellation() -> None:
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        return


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_swallows_its_cancellation_and_returns_has_failed_all_the_same(kind: str) -> None:
    parks_it_alone(kind, swallows_cancellation, "it did not return within 5 s")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python says it, too
@pytest.mark.parametrize("kind", KINDS)
def test_one_that_swallows_even_its_end_is_left_to_itself(kind: str) -> None:
    service, over, done = Service("shop", policy=QUICKLY), False, list[str]()

    async def swallows_all() -> None:
        while not over:
            try:
                await asyncio.sleep(1e6)
            except BaseException:  # noqa: S112  # that is what it does
                continue

    if kind == "chunk":

        @service.on(Began, group="bad")
        async def each(event: Began, tx: Transaction) -> None:
            while event.key == "bad" and not over:
                try:
                    await asyncio.sleep(1e6)
                except BaseException:  # noqa: S112
                    continue
            done.append(event.key)

    elif kind == "lanes":

        @service.on(Began, group="bad", concurrency=1)
        async def waiting(event: Began) -> None:
            while event.key == "bad" and not over:
                try:
                    await asyncio.sleep(1e6)
                except BaseException:  # noqa: S112
                    continue
            done.append(event.key)

    else:

        @service.on_batch(Began, group="bad", size=10)
        async def several(events: list[Began], tx: Transaction) -> None:
            if any(event.key == "bad" for event in events):
                await swallows_all()
            done.extend(event.key for event in events)

    async def test() -> None:
        nonlocal over
        try:
            async with testing.world(App(service, events=[Began]), patience=0.02) as world:
                await publish(world)
                (dead,) = [each for each in await world.parked() if each.dead]
                assert (dead.key, dead.attempts) == ("bad", QUICKLY.attempts)
                await world.publish(Began(key="e"))
                assert set(done) == set("abcde")
        finally:
            over = True

    run(test, 30.0)


# -- it raises what nobody should --------------------------------------------------------------------------------------


class Unheard(BaseException):
    """Of somebody's own."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), Unheard("oh"), StopIteration(1)])
def test_any_error_at_all_is_the_failure_of_its_event(kind: str, error: BaseException) -> None:
    async def raises() -> None:
        raise error

    name = "RuntimeError" if isinstance(error, StopIteration) else type(error).__name__
    parks_it_alone(kind, raises, name)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_that_a_handler_raises_is_its_failure_where_ctrl_c_is_taken_by_a_signal_handler(kind: str) -> None:
    async def raises() -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, lambda *_: None)  # as under `evenflow run`
    try:
        parks_it_alone(kind, raises, "KeyboardInterrupt")
    finally:
        signal.signal(signal.SIGINT, before)


# -- it does not let go ------------------------------------------------------------------------------------------------


def test_a_transaction_that_is_kept_is_of_no_use_later() -> None:
    service, kept, refused = Service("shop"), list[Transaction](), list[str]()

    @service.on(Began, group="keep")
    async def keep(event: Began, tx: Transaction) -> None:
        kept.append(tx)
        tx.write("insert into t values ($1)", event.key)
        if event.key == "task":
            tasks.append(asyncio.create_task(use(tx)))

    async def use(tx: Transaction) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await attempt(tx)

    async def attempt(tx: Transaction) -> None:
        for call in (
            lambda: tx.write("insert into t values ('late')"),
            lambda: tx.publish(Placed(key="late")),
            lambda: tx.execute("insert into t values ('late')"),
        ):
            try:
                result: Any = call()
                if result is not None:
                    await result
            except TransactionError as error:
                refused.append(str(error))

    tasks: list[asyncio.Task[None]] = []

    async def test() -> None:
        async with testing.world(App(service, events=[Began, Placed])) as world:
            async with world.transaction("shop") as tx:
                await tx.execute("create table t (id text)")
            await world.publish(*[Began(key=key) for key in ("a", "task", "b")])
            await asyncio.gather(*tasks)
            await world.settle()
            await attempt(kept[0])
            await world.publish(Began(key="c"))
            rows = await world.rows("shop", "select id from t order by id")
            assert ([row.id for row in rows], world.published(Placed)) == (["a", "b", "c", "task"], [])
            assert len(refused) == 6

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_outlives_its_handler_may_publish_and_keeps_nothing_from_ending(kind: str) -> None:
    done, tasks, told = Done(), list[asyncio.Task[None]](), list[str]()

    async def goes_on() -> None:
        await until.wait()
        await app.publish(Placed(key="after"))
        told.append("published")
        await asyncio.get_running_loop().create_future()

    async def spawns() -> None:
        tasks.append(asyncio.create_task(goes_on()))

    until = asyncio.Event()
    app = app_of(kind, spawns, done)

    async def test() -> None:
        async with testing.world(app) as world:
            await publish(world)
            assert sorted(done.by_group["bad"]) == sorted(done.by_group["good"])
            until.set()
            await world.settle()
            assert (told, [each.key for each in world.published(Placed)]) == (["published"], ["after"])
        for task in tasks:
            task.cancel()

    run(test)


# -- it does too much --------------------------------------------------------------------------------------------------

MANY = 100_000


def test_one_that_publishes_very_many_events_is_one_transaction_and_others_go_on() -> None:
    service, good = Service("shop"), list[str]()

    @service.on(Began, group="many")
    async def many(event: Began, tx: Transaction) -> list[Came] | None:
        return [Came(key=str(n)) for n in range(MANY)] if event.key == "many" else None

    @service.on(Began, group="good")
    async def other(event: Began, tx: Transaction) -> None:
        good.append(event.key)

    async def test() -> None:
        async with testing.world(App(service, events=[Began, Came])) as world:
            await world.publish(*[Began(key=key) for key in ("a", "many", "b")])
            assert sorted(good) == ["a", "b", "many"]
            assert sum(1 for each in world.envelopes() if each.type == "came") == MANY
            assert not await world.parked()

    run(test, 60.0)
