"""What processes of a group share: its limit, and its breaker with one permit among them all."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import defaultdict
from pathlib import Path

from evenflow import App, Breaker, Delivery, Event, Limit, Policy, Service, Topic
from evenflow.protection.breaker import CLOSED, BreakerState
from evenflow.protection.breaker_shared import state_of
from premortem.stage import case, ended, eventually, in_child, opened

TOPIC = Topic("calls", partitions=4)
KEYS = 24


class Called(Event, type="called", topic=TOPIC, key="key"):
    key: str
    number: int = 0


class Ledger:
    """What all processes write: a line for each call. And what they read: how the outside is, "up" at first."""

    def __init__(self, folder: Path) -> None:
        self._calls = folder / "calls"
        self._state = folder / "state"

    def call(self, event: Called, delivery: Delivery) -> None:
        words = (time.monotonic(), os.getpid(), event.key, event.number, delivery.attempt, self.state)
        with self._calls.open("ab", buffering=0) as file:
            file.write((" ".join(map(str, words)) + "\n").encode())

    @property
    def state(self) -> str:
        return self._state.read_text() if self._state.exists() else "up"

    def be(self, state: str) -> None:
        self._state.with_suffix(".new").write_text(state)
        self._state.with_suffix(".new").replace(self._state)

    def calls(self, state: str = "") -> list[tuple[float, int, str, int, int]]:
        if not self._calls.exists():
            return []
        found = [line.split() for line in self._calls.read_text().splitlines()]
        return [(float(at), int(pid), key, int(number), int(attempt))
                for at, pid, key, number, attempt, was in found if state in ("", was)]  # fmt: skip


def limited(ledger: Ledger, limit: Limit) -> App:
    service = Service("shop")

    @service.on(Called, group="call", start="beginning", limit=limit)
    async def call(event: Called, delivery: Delivery) -> None:
        ledger.call(event, delivery)

    return App(service)


def breaking(ledger: Ledger) -> App:
    service = Service("shop", policy=Policy(timeout=0.5, first_delay=0.1, jitter=0))

    @service.on(Called, group="call", start="beginning", concurrency=4, breaker=Breaker(failures=3, pause=0.3))
    async def call(event: Called, delivery: Delivery) -> None:
        ledger.call(event, delivery)
        if ledger.state == "down":
            raise ConnectionError("away")
        while ledger.state == "hangs":
            await asyncio.sleep(0.01)

    return App(service)


async def publish(path: Path, app: App, count: int) -> None:
    async with opened(app, path, handle=()) as running:
        await running.publisher.publish([Called(key=str(n % KEYS), number=n) for n in range(count)])


def runner(app: App, path: Path, after: Path | None = None) -> int:
    """A process that handles until it is ended; it begins when there is this file."""

    async def work() -> None:
        await eventually(lambda: after is None or after.exists(), 30)
        async with opened(app, path):
            await asyncio.Event().wait()

    return in_child(work)


def end(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        ended(pid)


def test_two_processes_share_a_limit() -> None:
    async def test(path: Path) -> None:
        rate, burst, count = 40.0, 8, 72
        ledger = Ledger(path)
        app = limited(ledger, Limit(per_second=rate, burst=burst))
        await publish(path, app, count)
        began = time.monotonic()
        pids = [runner(app, path) for _ in range(2)]
        try:
            await eventually(lambda: len(ledger.calls()) >= count, 15)
        finally:
            end(pids)
        calls = ledger.calls()
        for place, (at, *_) in enumerate(sorted(calls), 1):
            assert place <= rate * (at - began) + burst, "however slow the machine is: calls can only come later"
        assert {pid for _, pid, *_ in calls} == set(pids), "both have had a part of it"
        assert len(calls) == count

    case(test)


def test_a_prober_that_is_killed_holds_the_breaker_up_for_a_while_only() -> None:
    async def test(path: Path) -> None:
        ledger, count = Ledger(path), 5 * KEYS
        app = breaking(ledger)
        await publish(path, app, count)
        ledger.be("down")
        go = path / "go"
        pids = [runner(app, path), runner(app, path, go)]
        try:
            async with opened(app, path, handle=(), join=False) as looking:
                store = looking.stores["shop"]

                async def shared() -> bool:
                    rows = await store.read(store.sql["position_list"], ("shop.call",))
                    return len({row[7] for row in rows if row[7]}) == 2

                async def breaker() -> BreakerState:
                    rows = await store.read(store.sql["breaker_get"], ("shop.call",))
                    return state_of(rows[0]) if rows else CLOSED

                async def is_open() -> bool:
                    return not (await breaker()).closed

                async def is_closed() -> bool:
                    return (await breaker()).closed

                await eventually(is_open, 10)
                go.touch()  # the second sees that before it begins with anything
                await eventually(shared, 10)
                before = (await breaker()).permit
                ledger.be("hangs")
                await eventually(lambda: ledger.calls("hangs"), 10)
                *_, (_, pid, *_) = ledger.calls("hangs")
                os.kill(pid, signal.SIGKILL)
                permits = (await breaker()).permit - before
                assert len(ledger.calls("hangs")) <= permits + 1, "each of them had a permit of its own"
                ledger.be("up")
                await eventually(is_closed, 10)
                await eventually(lambda: {number for *_, number, _ in ledger.calls("up")} >= set(range(count)), 15)
        finally:
            end(pids)
        order = defaultdict(list)
        for _, _pid, key, number, _attempt in ledger.calls("up"):
            order[key].append(number)
        assert all(numbers == sorted(numbers) for numbers in order.values())

    case(test, 40.0)
