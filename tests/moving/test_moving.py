"""Moving topics from engine to engine: nothing lost, nothing twice, each key in order; and what is said on the way."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Event, Service, Topic, Transaction
from evenflow.engines.sqlite.engine import SqliteEngine
from evenflow.errors import EngineUnavailable, PublishRefused, Refused
from evenflow.operate import NotFound, audit, carry_out_move, placed, plan_move
from evenflow.running import Running
from evenflow.settings import Settings
from tests.moving.running import Run
from tests.servers import KafkaAt

STEPS = Topic("steps", partitions=2)
STATES = Topic("states", partitions=1, compacted=True)
OTHERS = Topic("others", partitions=1)


class Step(Event, type="step", topic=STEPS, key="key"):
    key: str
    number: int


class State(Event, type="state", topic=STATES, key="key"):
    key: str
    number: int


class Other(Event, type="other", topic=OTHERS, key="key"):
    key: str
    number: int


def an_app(*, late: bool = False, several: bool = False) -> tuple[App, list[tuple[str, str, int]]]:
    """An app, and what its groups have done: group, key, number."""
    done: list[tuple[str, str, int]] = []
    shop = Service("shop")

    @shop.on(Step, group="steps", start="beginning")
    async def steps(step: Step, tx: Transaction) -> None:
        done.append(("steps", step.key, step.number))

    if late:

        @shop.on(State, group="late", start="beginning")
        async def states(state: State, tx: Transaction) -> None:
            done.append(("late", state.key, state.number))

    if several:

        @shop.on(Step, Other, group="several", start="beginning")
        async def both(event: Step | Other, tx: Transaction) -> None:
            done.append((type(event).__name__, event.key, event.number))

    return App(shop, events=[Step, State, Other]), done


class Place:
    """Settings of two engines in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.old, self.new = f"sqlite:///{folder}/old.db", f"sqlite:///{folder}/new.db"

    def settings(self, **given: object) -> Settings:
        chosen = {"engine": self.old, "engines": {"new": self.new}, "lease": 1.0, **given}
        return Settings.load(chosen, env={}, cwd=self.folder)

    @asynccontextmanager
    async def running(self, app: App, *, handle: bool = True, **given: object) -> AsyncGenerator[Running]:
        async with app.running(handle=None if handle else (), settings=self.settings(**given)) as running:
            yield running


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr("evenflow.running.MAINTAIN", inf)  # a run that takes longer would compact what is counted here
    return Place(tmp_path)


async def move(running: Running, source: str, target: str, *topics: str) -> list[str]:
    plan = await plan_move(running, source, target, topics)
    return [topic async for topic, _ in carry_out_move(running, plan, "me")]


async def idle(running: Running) -> None:
    deadline = time.monotonic() + 20.0
    while not await running.idle():
        assert time.monotonic() < deadline, "the groups do not come to an end"
        await asyncio.sleep(0.02)


async def publish(app: App, cls: type[Step | State | Other], numbers: range, keys: str = "abc") -> None:
    for number in numbers:
        await app.publish(*(cls(key=key, number=number) for key in keys))


def in_order(done: list[tuple[str, str, int]], group: str, keys: str = "abc") -> dict[str, list[int]]:
    return {key: [number for g, k, number in done if (g, k) == (group, key)] for key in keys}


# -- several engines at once ------------------------------------------------------------------------------------------


def test_a_group_reads_topics_of_two_engines_and_one_publish_goes_to_both(place: Place) -> None:
    async def main() -> None:
        app, done = an_app(several=True)
        async with place.running(app, topics={"others": {"engine": "new"}}) as running:
            for number in range(1, 6):
                await app.publish(Step(key="a", number=number), Other(key="a", number=number))
                async with app.transaction("shop") as tx:
                    tx.publish(Step(key="b", number=number))
                    tx.publish(Other(key="b", number=number))
            await idle(running)
            assert [in_order(done, each, "ab") for each in ("Step", "Other")] == [
                {"a": [*range(1, 6)], "b": [*range(1, 6)]}
            ] * 2
            where = {each.topic: each.parts[-1].engine for each in await placed(running)}
            assert where == {"steps": place.old, "others": place.new}

    asyncio.run(main())


def test_a_group_goes_on_while_the_engine_of_another_is_away(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        shop, done = Service("shop"), list[int]()

        @shop.on(Other, group="a", start="beginning")
        async def others(other: Other, tx: Transaction) -> None: ...

        @shop.on(Step, group="b", start="beginning")
        async def steps(step: Step, tx: Transaction) -> None:
            done.append(step.number)

        app = App(shop)
        async with place.running(app, topics={"others": {"engine": "new"}}) as running:
            await idle(running)

            async def away(*_: object) -> object:
                raise EngineUnavailable("it is away")

            monkeypatch.setattr(await running.engine_of(place.new), "log", away)
            loop = running.runtimes["shop"].loops["shop.b"]
            for partition in list(loop.owned):
                loop.take_back(partition)
            await app.publish(*(Step(key=f"{number}", number=number) for number in range(20)))
            deadline = time.monotonic() + 20.0
            while len(done) < 20 and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            monkeypatch.undo()
        assert sorted(done) == list(range(20))

    asyncio.run(main())


# -- a move -----------------------------------------------------------------------------------------------------------


def test_a_move_under_way_and_back_then_the_old_engine_is_gone(place: Place) -> None:
    async def main() -> None:
        app, done = an_app()
        async with place.running(app) as running:
            await publish(app, Step, range(1, 4))
            assert await move(running, place.old, "new") == ["steps"]
            await publish(app, Step, range(4, 7))
            assert await move(running, "new", place.old, "steps") == ["steps"]
            await publish(app, Step, range(7, 10))
            assert await move(running, place.old, "new", "steps") == ["steps"]
            await publish(app, Step, range(10, 13))
            await idle(running)
            (steps,) = [each for each in await placed(running) if each.topic == "steps"]
            assert [(each.engine, each.generations) for each in steps.parts] == [
                (place.old, (1,)), (place.new, (2,)), (place.old, (3,)), (place.new, (4,)),
            ]  # fmt: skip
            assert not any(left for each in steps.parts for left in each.behind.values())
            assert [each.what for each in await audit(running)].count("topic move") == 3
        assert in_order(done, "steps") == {key: list(range(1, 13)) for key in "abc"}
        for file in place.folder.glob("old.db*"):
            file.unlink()
        app, done = an_app()
        async with place.running(app, engine=place.new, engines=None) as running:
            await publish(app, Step, range(13, 15))
            await idle(running)
        assert in_order(done, "steps") == {key: [13, 14] for key in "abc"}

    asyncio.run(main())


def test_a_group_finishes_the_old_engine_before_it_goes_on(place: Place) -> None:
    async def main() -> None:
        app, _ = an_app()
        async with place.running(app):
            pass
        async with place.running(app, handle=False) as running:
            await publish(app, Step, range(1, 200))
            await move(running, place.old, "new")
            await publish(app, Step, range(200, 300))
            (part, last) = next(each for each in await placed(running) if each.topic == "steps").parts
            assert (part.sealed, part.behind, last.behind) == (True, {"shop.steps": 597}, {"shop.steps": 300})
        app, done = an_app()
        async with place.running(app) as running:
            await idle(running)
        assert in_order(done, "steps") == {key: list(range(1, 300)) for key in "abc"}

    asyncio.run(main())


def move_and_back(place: Place, prefix: str) -> None:
    """Publish, move, publish, move back, publish, with a group that handles all the while."""

    async def main() -> None:
        app, done = an_app(late=True)
        names = {name: {"name": f"{prefix}{name}"} for name in ("steps", "states", "others")}
        async with place.running(app, topics=names, group_prefix=prefix) as running:
            for number, (source, target) in enumerate([("", ""), (place.old, "new"), ("new", place.old)]):
                if source:
                    assert sorted(await move(running, source, target, "steps", "states")) == [
                        f"{prefix}states", f"{prefix}steps",
                    ]  # fmt: skip
                for cls in (Step, State):
                    await publish(app, cls, range(number * 10 + 1, number * 10 + 11))
                    async with app.transaction("shop") as tx:
                        tx.publish(cls(key="t", number=number + 1))
            await idle(running)
        assert in_order(done, "steps") == {key: list(range(1, 31)) for key in "abc"}
        assert in_order(done, "late") == {key: list(range(1, 31)) for key in "abc"}
        assert in_order(done, "steps", "t") == in_order(done, "late", "t") == {"t": [1, 2, 3]}

    asyncio.run(main())


def test_from_a_file_to_postgresql_and_back(place: Place, postgres_url: str) -> None:
    place.new = postgres_url
    move_and_back(place, "")


def test_from_a_file_to_kafka_and_back(place: Place, kafka_at: KafkaAt) -> None:
    place.new = kafka_at.url
    move_and_back(place, kafka_at.prefix)


@pytest.mark.parametrize("point", ["declare", "copy", "seal", "open"])
def test_a_move_that_was_broken_off_goes_on_when_it_is_given_again(
    place: Place, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    async def main() -> None:
        app, done = an_app(late=True)
        async with place.running(app) as running:
            await publish(app, State, range(1, 4))
            old, new = await running.engine_of(place.old), await running.engine_of(place.new)
            killed_at = {
                "declare": (new, "declare", 0), "copy": (new, "append", 0), "seal": (old, "seal", 0),
                "open": (old, "seal", 1),
            }[point]  # fmt: skip
            engine, method, after = killed_at
            calls = []
            original = getattr(engine, method)

            async def dies(*args: object, **named: object) -> object:
                answer = await original(*args, **named)
                calls.append(args)
                if len(calls) == after + 1:
                    raise Killed
                return answer

            monkeypatch.setattr(engine, method, dies)
            with pytest.raises(Killed):
                await move(running, place.old, "new", "states")
            monkeypatch.undo()
            (states,) = [each for each in await placed(running) if each.topic == "states"]
            assert states.parts[0].sealed is (point in ("seal", "open"))
            if point != "seal":  # then publishers wait until the move is given again
                await publish(app, State, range(4, 6))
            assert await move(running, place.old, "new", "states") == ([] if point == "open" else ["states"])
            assert await move(running, place.old, "new", "states") == []
            await publish(app, State, range(6, 8))
            await idle(running)
        wanted = [1, 2, 3, 6, 7] if point == "seal" else list(range(1, 8))
        assert in_order(done, "late") == {key: wanted for key in "abc"}

    asyncio.run(main())


def test_the_latest_of_each_key_of_a_compacted_topic_moves_too(place: Place) -> None:
    async def main() -> None:
        app, _ = an_app()
        async with place.running(app) as running:
            await publish(app, State, range(1, 4))
            await move(running, place.old, "new")
            await publish(app, State, range(4, 6), "a")
            await idle(running)
        app, done = an_app(late=True)
        async with place.running(app, engine=place.new, engines=None) as running:
            await idle(running)
        assert in_order(done, "late") == {"a": [1, 2, 3, 4, 5], "b": [1, 2, 3], "c": [1, 2, 3]}

    asyncio.run(main())


@pytest.mark.parametrize("answers_within", [5.0, inf])
def test_a_compacted_topic_moves_whole_or_not_at_all_when_its_engine_answers_late(
    answers_within: float, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late:
        """A consumer that has nothing for who waits a shorter time."""

        def __init__(self, consumer: Any) -> None:
            self._consumer = consumer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._consumer, name)

        async def fetch(self, limit: int, size: int, wait: float) -> Any:
            return await self._consumer.fetch(limit, size, wait) if wait >= answers_within else ()

    async def main() -> None:
        app, _ = an_app()
        async with place.running(app) as running:
            await publish(app, State, range(1, 4))
            consumer = SqliteEngine.consumer

            def made(engine: SqliteEngine, group: str) -> Any:
                return Late(consumer(engine, group)) if group == "evenflow.move" else consumer(engine, group)

            monkeypatch.setattr(SqliteEngine, "consumer", made)
            if answers_within == inf:
                with pytest.raises(EngineUnavailable, match="does not give"):
                    await move(running, place.old, "new")
            else:
                await move(running, place.old, "new")
            await idle(running)
        app, done = an_app(late=True)
        alone = {} if answers_within == inf else {"engine": place.new, "engines": None}
        async with place.running(app, **alone) as running:
            await idle(running)
        assert in_order(done, "late") == {key: [1, 2, 3] for key in "abc"}

    asyncio.run(main())


# -- who knows one engine alone ---------------------------------------------------------------------------------------


def test_a_process_with_old_settings_is_refused_and_leaves_its_partitions_to_others(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        old, old_done = an_app()
        new, new_done = an_app()
        async with place.running(old, engines=None), place.running(new) as running:
            await publish(old, Step, range(1, 4))
            await move(running, place.old, "new")
            with pytest.raises(PublishRefused, match="moved to sqlite:.*new.db.*EVENFLOW_ENGINES__"):
                await publish(old, Step, range(4, 5))
            async with old.transaction("shop") as tx:  # what is in the outbox is not lost
                tx.publish(Step(key="a", number=4))
            await publish(new, Step, range(4, 6), "bc")
            deadline = time.monotonic() + 20.0
            while len(old_done) + len(new_done) < 14 and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
        both = in_order([*old_done, *new_done], "steps")
        assert {key: sorted(numbers) for key, numbers in both.items()} == {
            "a": [1, 2, 3, 4],
            "b": [*range(1, 6)],
            "c": [*range(1, 6)],
        }
        assert all(number >= 4 for _, _, number in new_done[-5:])
        assert any("left to other processes" in each.message for each in caplog.records)

    asyncio.run(main())


def test_a_group_that_has_not_finished_waits_where_the_old_engine_is_unknown(place: Place) -> None:
    async def main() -> None:
        app, _ = an_app()
        async with place.running(app):
            pass
        async with place.running(app, handle=False) as running:
            await publish(app, Step, range(1, 4))
            await move(running, place.old, "new")
            await publish(app, Step, range(4, 6))
        app, done = an_app()
        async with place.running(app, engine=place.new, engines=None):
            await asyncio.sleep(0.3)
            assert done == []
        app, done = an_app()
        async with place.running(app, engine=place.new, engines={"old": place.old}) as running:
            await idle(running)
        assert in_order(done, "steps") == {key: [1, 2, 3, 4, 5] for key in "abc"}

    asyncio.run(main())


def test_what_cannot_move_is_refused(place: Place) -> None:
    async def main() -> None:
        app, _ = an_app()
        async with place.running(app) as running:
            await publish(app, Step, range(1, 3))
            for source, target, topics, said in (
                (place.old, place.old, (), "one engine, not two"),
                (place.old, f"sqlite:///{place.folder}/third.db", (), "the settings do not name the engine"),
                (place.old, "memory:", (), "the settings do not name the engine memory:"),
            ):
                with pytest.raises(Refused, match=said):
                    await plan_move(running, source, target, topics)
            with pytest.raises(NotFound, match="no topic 'step'"):
                await plan_move(running, place.old, "new", ["step"])
            with pytest.raises(NotFound, match="is not in the sqlite engine"):
                await plan_move(running, "new", place.old, ["steps"])
            await (await running.engine_of(place.new)).declare(STEPS)
            with pytest.raises(Refused, match="which is another log"):
                await plan_move(running, place.old, "new")

    asyncio.run(main())


# -- many processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    old, new = f"sqlite:///{tmp_path}/old.db", f"sqlite:///{tmp_path}/new.db"
    made = Run(tmp_path, {"EVENFLOW_ENGINE": old, "EVENFLOW_ENGINES__NEW": new})
    yield made
    made.end()


def test_topics_move_while_processes_are_killed(run: Run) -> None:
    old = run.env["EVENFLOW_ENGINE"]
    random.seed(4)
    run.start("handle counting", "handle noting", "publish")
    run.until_published(30)
    move = run.move(old, "new", "--topic", "steps")
    run.kill(("handle",))
    assert move.wait(60) == 0
    run.kill(("publish",))
    move = run.move(old, "new")
    time.sleep(0.4)
    move.kill()
    move.wait()
    run.kill(("handle",))
    assert run.move(old, "new").wait(60) == 0
    run.until_published(30)
    run.stop("publish")
    assert run.wait(60.0) == []
    assert all(each.parts[-1].engine.endswith("new.db") for each in run.placed())
    said = subprocess.run(
        [sys.executable, "-m", "evenflow", "move", "status", "tests.moving.program:app"], env=run.env, cwd=Path.cwd(),
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "all groups have finished it" in said
    assert "old.db is read to its end" in said
