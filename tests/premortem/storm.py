"""A storm over keys: handlers that fail by a seeded plan, and people and processes that interfere, in virtual time.

One app with a group of every kind is open in one or two processes, which share a store and a log. Afterwards every
event was applied once and every key in order, but for what somebody has discarded.

    python -m tests.premortem.storm 0 1000        # these seeds; the first that breaks the promise is told
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from evenflow import (
    App,
    Breaker,
    Event,
    Limit,
    Policy,
    Reject,
    RetryLater,
    Service,
    Settings,
    Topic,
    Transaction,
    operate,
)
from evenflow.clock import VirtualClock
from evenflow.engines.memory import MemoryEngine
from evenflow.errors import EvenflowError
from evenflow.group import GroupLoop
from evenflow.handler import Delivery
from evenflow.parking import Parked, parked
from evenflow.running import Running
from evenflow.places import make_store
from evenflow.drivers.sqlite.pace import CommitPace
from evenflow.testing.attended import Waits, attended
from tests import on_postgres

STEPS = Topic("steps", partitions=2)
TOLD = Topic("told", partitions=1)


class Step(Event, type="step", topic=STEPS, key="key"):
    key: str
    number: int


class Told(Event, type="told", topic=TOLD, key="key"):
    key: str
    number: int


TABLE = f"create table if not exists effects (id {on_postgres.SERIAL}, kind text, key text, number integer)"
EFFECT = "insert into effects (kind, key, number) values ($1, $2, $3)"
WRONG = "insert into effects (id, kind) values ($1, 'wrong')"
OUTSIDE, WITH_TX = ("call", "guarded"), ("keep", "ship")
STEAL = "update evenflow_position set fence = fence + 1 where group_name = $1"
SERVER = 5.0
"""Seconds that a server may take for an answer, before what is asked waits for somebody here."""
PATIENCE = 600.0
"""Virtual seconds in which everything has to be through once the storm is over."""


@dataclass
class Plan:
    """What a seed decides, and what its handlers have seen."""

    seed: int
    clock: VirtualClock
    calm: bool = False
    calls: dict[tuple[str, str, int], int] = field(default_factory=lambda: defaultdict(int))
    done: list[tuple[str, str, int]] = field(default_factory=list)
    discarded: set[tuple[str, str, int]] = field(default_factory=set)
    published: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    story: list[str] = field(default_factory=list)

    def draw(self, *what: object) -> Random:
        return Random("/".join(map(str, (self.seed, *what))))

    def say(self, what: str) -> None:
        self.story.append(f"{self.clock.now() - 1_800_000_000:9.3f} {what}")

    def fate(self, kind: str, event: Step) -> tuple[str, float]:
        """How this call ends, and how long it takes."""
        place = (kind, event.key, event.number)
        self.calls[place] += 1
        draw = self.draw(*place, self.calls[place])
        bad = 0.45 if self.draw("bad", kind, event.key).random() < 0.4 else 0.04
        seconds = draw.choice([0.0, 0.0, 0.0, 0.01, 0.2, 0.9])
        if self.calm or draw.random() >= bad:
            return "", seconds
        return draw.choice(["raise", "raise", "reject", "later", "hang", "wrong", "now"]), seconds

    def policy(self, kind: str) -> Policy:
        draw = self.draw("policy", kind)
        return Policy(
            attempts=draw.choice([1, 2, 3, 6]) + 2,
            first_delay=draw.choice([0.0, 0.1, 1.0, 3.0]),
            max_delay=5.0,
            factor=draw.choice([1.0, 2.0]),
            in_place=draw.choice([0, 0, 1, 2]),
            timeout=2.0,
            deadline=draw.choice([None, None, 10.0]),
            parking=draw.choice([3, 8, 1000, 1000]),
        )


def fail(how: str) -> None:
    """Raise what this fate says, but for what is done by a write or by waiting."""
    match how:
        case "raise":
            raise ValueError("a bad day")
        case "reject":
            raise Reject("not this one")
        case "later":
            raise RetryLater(0.7)
        case "now":
            raise RetryLater(0.0)


def build(plan: Plan) -> App:
    service = Service("shop")
    draw = plan.draw("app")

    @service.on(Step, group="keep", start="beginning", policy=plan.policy("keep"))
    async def keep(event: Step, tx: Transaction) -> Told:
        how, _ = plan.fate("keep", event)
        tx.write(EFFECT, "keep", event.key, event.number)
        if event.number % 3 == 0:
            await tx.fetch_value("select count(*) from effects")
        if how in ("wrong", "hang"):
            tx.write(WRONG, None if how == "hang" else 1)
            tx.write("insert into effects (id, kind) values (1, 'wrong')")
        fail(how)
        return Told(key=f"keep:{event.key}", number=event.number)

    @service.on(Step, group="ship", start="beginning", concurrency=draw.choice([1, 2, 4]), policy=plan.policy("ship"))
    async def ship(event: Step, tx: Transaction) -> Told:
        how, seconds = plan.fate("ship", event)
        tx.write(EFFECT, "ship", event.key, event.number)
        await wait(how, seconds)
        if how == "wrong":
            tx.write("insert into effects (id, kind) values (1, 'wrong')")
        fail(how)
        return Told(key=f"ship:{event.key}", number=event.number)

    @service.on(Step, group="call", start="beginning", concurrency=draw.choice([1, 2, 5]), policy=plan.policy("call"))
    async def call(event: Step) -> None:
        await outside("call", event)

    @service.on(
        Step, group="guarded", start="beginning", concurrency=draw.choice([1, 3]), policy=plan.policy("guarded"),
        limit=draw.choice([None, Limit(per_second=20.0), Limit(per_key=5.0)]),
        breaker=Breaker(failures=draw.choice([2, 4]), within=5.0, share=0.3, pause=draw.choice([0.5, 3.0]), max_pause=4.0),
    )  # fmt: skip
    async def guarded(event: Step) -> None:
        await outside("guarded", event)

    @service.on(Told, group="told", start="beginning")
    async def told(event: Told, tx: Transaction) -> None:
        tx.write(EFFECT, "told", event.key, event.number)

    async def outside(kind: str, event: Step) -> None:
        how, seconds = plan.fate(kind, event)
        await wait(how, seconds)
        fail("raise" if how == "wrong" else how)
        plan.done.append((kind, event.key, event.number))

    async def wait(how: str, seconds: float) -> None:
        if how == "hang":
            await plan.clock.sleep(60.0)
        if seconds:
            await plan.clock.sleep(seconds)

    return App(service, events=[Step, Told])


class Log(MemoryEngine):
    """Outlives the processes that use it."""

    capabilities = replace(MemoryEngine.capabilities, durable=True, shared=True)

    async def close(self) -> None:
        """Another process reads on."""


class Storm:
    """One seed: its processes, and what happens to them."""

    def __init__(self, seed: int, path: Path) -> None:
        self.plan = Plan(seed, VirtualClock())
        self.clock = self.plan.clock
        self.draw = self.plan.draw("storm")
        self.log = Log(self.clock)
        self.path = path
        self.open: list[Running] = []
        self.apps: list[App] = []
        self.waits = Waits()

    async def start(self) -> None:
        """Another process."""
        app = build(self.plan)
        settings = Settings.load({"folder": str(self.path), "lease": 3.0, "drain": 5.0}, env={}, cwd=str(self.path))
        running = Running(app, settings, self.clock, handle=["shop"])
        running.draw = lambda: 0.0
        if on_postgres.ON:
            running.make_store = lambda url, service, clock: attended(make_store(url, service, clock), self.waits)
        running.engines[settings.engine] = self.log
        app._running = running
        await self.meanwhile(running.open())
        if not self.open:
            await self.meanwhile(running.stores["shop"].transact(lambda session: session.execute(TABLE)))
            await self.meanwhile(running.stores["shop"].transact(lambda s: s.execute(EFFECT, ("first", "", 0))))
        self.open.append(running)
        self.apps.append(app)

    async def stop(self, place: int, seconds: float | None = None) -> None:
        running = self.open.pop(place)
        self.apps.pop(place)
        await self.meanwhile(running.close(seconds))

    # -- time -------------------------------------------------------------------------------------------------------

    async def turns(self) -> None:
        """Until nobody can go on without time; who waits for another's transaction, or a server, does so in real time."""
        loop: Any = asyncio.get_running_loop()
        until = loop.time() + SERVER
        for _ in range(20_000):
            await asyncio.sleep(0)
            if not loop._ready:
                if loop.time() >= until:
                    self.waits.give_up()
                if not self.waits.count and (on_postgres.ON or not any(map(_sleeps, loop._scheduled))):
                    return
                await asyncio.sleep(0.001)
        raise AssertionError("somebody runs round and round")

    async def pass_(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        target = self.clock.monotonic() + seconds
        await self.turns()
        while self.clock.monotonic() < target:
            self.tick(target)
            await self.turns()

    def tick(self, target: float) -> None:
        timer = self.clock.next_timer()
        left = target - self.clock.monotonic()
        step = left if timer is None else min(left, timer - self.clock.now())
        self.clock.advance_to(self.clock.now() + max(step, 1e-6))

    async def meanwhile(self, work: Any) -> Any:
        """The answer of what needs time to pass."""
        task = asyncio.ensure_future(work)
        end = self.clock.monotonic() + 300.0
        while not task.done():
            await self.turns()
            if not task.done():
                assert self.clock.monotonic() < end, f"it does not end: {task}"
                self.tick(self.clock.monotonic() + 0.5)
        return task.result()

    # -- what happens -----------------------------------------------------------------------------------------------

    def loops(self) -> list[GroupLoop]:
        return [loop for running in self.open for loop in running.loops()]

    async def publish(self, count: int, keys: Sequence[str]) -> None:
        events = []
        for _ in range(count):
            key = self.draw.choice(keys)
            self.plan.published[key] += 1
            events.append(Step(key=key, number=self.plan.published[key]))
        self.plan.say(f"publish {[(e.key, e.number) for e in events]}")
        await self.meanwhile(self.apps[0].publish(*events))

    async def parked(self, running: Running) -> list[Parked]:
        store, found = running.stores["shop"], []
        for group in ("keep", "ship", "call", "guarded"):
            name = f"shop.{group}"
            rows = await self.meanwhile(store.read(store.sql["parked_list"], (name, 100_000)))
            found += [parked(name, row) for row in rows]
        return found

    async def ask(self, running: Running) -> None:
        """A person brings dead letters back, or throws some away."""
        dead = [each for each in await self.parked(running) if each.dead]
        self.draw.shuffle(dead)
        for each in dead[:5]:
            wish = self.draw.choice(["redrive", "redrive", "redrive", "discard"])
            self.plan.say(f"{wish} {each.group} {each.lane} {each.offset}")
            if wish == "discard":
                event = running.registry.by_type["step"].read(each.envelope, "steps")
                self.plan.discarded.add((each.group.removeprefix("shop."), event.key, event.number))
                await self.person(operate.discard(running, each.group, each.lane, "me", "it is wrong"))
            else:
                await self.person(operate.redrive(running, each.group, each.lane, "me"))

    async def person(self, work: Any) -> None:
        try:
            await self.meanwhile(work)
        except EvenflowError as error:
            self.plan.say(f"refused: {error}")

    async def something(self, two: bool) -> None:
        draw, running = self.draw, self.draw.choice(self.open)
        keys = [f"k{number}" for number in range(draw.choice([1, 3, 6]))]
        what = draw.choice(
            ["publish"] * 6 + ["ask"] * 3 + ["pause", "lost", "steal", "renew", "give", "process", "edit", "back"]
        )
        match what:
            case "publish":
                await self.publish(draw.choice([1, 3, 10, 30]), keys)
                return
            case "ask":
                await self.ask(running)
                return
            case "process" if two:
                if len(self.open) == 1:
                    self.plan.say("a second process")
                    await self.start()
                else:
                    self.plan.say("one process ends")
                    await self.stop(draw.randrange(2), draw.choice([None, 0.0]))
                return
            case "back":
                if draw.random() < 0.5:
                    self.plan.say("clock set back")
                    self.clock._now -= draw.choice([5.0, 100.0])
                return
        loop = draw.choice(running.loops())
        self.plan.say(f"{what} {loop.name}")
        match what:
            case "lost":
                for partition in list(loop.owned):
                    loop.forget(partition)
            case "give":
                for partition in list(loop.owned):
                    loop.take_back(partition)
            case "steal":
                store = running.stores["shop"]
                await self.meanwhile(store.transact(lambda session: session.execute(STEAL, (loop.name,))))
            case "renew":
                running.runtimes["shop"].stalls._renew(loop)
            case "pause":
                await self.person(operate.pause(running, loop.name, "me", "why not"))
                await self.pass_(draw.random())
                await self.person(operate.resume(running, loop.name, "me"))

    async def blow(self, steps: int | None = None) -> None:
        draw = self.draw
        two = draw.random() < 0.5
        await self.start()
        if two and draw.random() < 0.5:
            await self.start()
        for _ in range(steps or draw.choice([10, 30, 60])):
            await self.something(two)
            await self.pass_(draw.choice([0.0, 0.001, 0.05, 0.3, 1.0, 4.0]))
        self.plan.calm = True
        self.plan.say("calm")
        await self.drain()
        await self.check()

    async def drain(self) -> None:
        end = self.clock.monotonic() + PATIENCE
        while True:
            await self.pass_(2.0)
            running = self.open[0]
            for group in sorted({each.group for each in await self.parked(running) if each.dead}):
                await self.person(operate.redrive(running, group, None, "me"))
            idle = any([await self.meanwhile(each.idle()) for each in self.open])  # whoever leads
            if idle and not await self.parked(running) and not self.unread():
                return
            if self.clock.monotonic() >= end:
                left = [(p.group, p.lane, p.offset, p.due, p.wish) for p in await self.parked(running) if not p.behind]
                trouble = [(loop.name, loop.trouble, loop.holding, loop.owned.keys()) for loop in self.loops()]
                raise AssertionError(f"it does not come to its end: {left} {trouble} {self.unread()}")

    def unread(self) -> list[str]:
        """Groups whose partitions nobody has at the moment."""
        held: dict[str, int] = defaultdict(int)
        for loop in self.loops():
            held[loop.name] += len(loop.owned)
        return [name for name, count in held.items() if count < (1 if name == "shop.told" else 2)]

    async def check(self) -> None:
        store = self.open[0].stores["shop"]
        rows = await self.meanwhile(store.read("select kind, key, number from effects where id > 1 order by id"))
        for kind in WITH_TX:
            self.exactly(kind, [tuple(row) for row in rows if row[0] == kind])
            about = [
                (kind, key.removeprefix(f"{kind}:"), n) for k, key, n in rows if k == "told" and key.startswith(kind)
            ]
            self.exactly(kind, about)
        for kind in OUTSIDE:
            self.exactly(kind, list(dict.fromkeys(each for each in self.plan.done if each[0] == kind)))

    def exactly(self, kind: str, got: list[tuple[str, str, int]]) -> None:
        by_key: dict[str, list[int]] = defaultdict(list)
        for _, key, number in got:
            by_key[key].append(number)
        for key, last in self.plan.published.items():
            numbers = by_key.pop(key, [])
            assert numbers == sorted(set(numbers)), f"{kind}: {key} is out of order or doubled: {numbers}"
            lost = set(range(1, last + 1)) - set(numbers)
            lost -= {number for each, of, number in self.plan.discarded if (each, of) == (kind, key)}
            assert not lost, f"{kind}: {key} has lost {sorted(lost)}"
        assert not by_key, f"{kind}: nobody has published {by_key}"

    async def close(self) -> None:
        while self.open:
            await self.stop(0, 0.0)


def _sleeps(timer: Any) -> bool:
    """Whether it is that of an `asyncio.sleep`."""
    return not timer.cancelled() and "set_result" in getattr(timer._callback, "__name__", "")


@asynccontextmanager
async def storm(seed: int) -> AsyncGenerator[Storm]:
    shared = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="storm-", dir=shared if shared.is_dir() else None))
    made = Storm(seed, path)
    learn, CommitPace.learn = CommitPace.learn, lambda *_: None  # type: ignore[method-assign]  # no threads
    try:
        yield made
    finally:
        try:
            await made.close()
        finally:
            CommitPace.learn = learn  # type: ignore[method-assign]
            shutil.rmtree(path, ignore_errors=True)


async def one(seed: int, steps: int | None = None) -> Plan:
    """So many things happen. Raises AssertionError where the promise is broken."""
    async with storm(seed) as made:
        try:
            await made.blow(steps)
        except Exception as error:
            error.add_note("\n".join(made.plan.story[-60:]))
            raise
        return made.plan


def main() -> None:
    first, last = int(sys.argv[1]), int(sys.argv[2])
    logging.disable(logging.CRITICAL if last - first > 1 else logging.NOTSET)
    broken = []
    if on_postgres.ON:
        on_postgres.begin()
    for seed in range(first, last):
        try:
            asyncio.run(one(seed))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            broken.append(seed)
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:600]}", flush=True)
            if last - first == 1:
                raise
    if on_postgres.ON:
        on_postgres.end()
    print(f"{last - first} seeds, broken: {broken}")


if __name__ == "__main__":
    main()
