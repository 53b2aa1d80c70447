"""What cases on the embedded engine share: a folder, an app that is open on it, a process that dies in the middle."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from evenflow import App, Event, Service, Settings, Topic, Transaction
from evenflow.clock import SystemClock
from evenflow.engine import Partition
from evenflow.running import Running
from tests.on_postgres import SERIAL

ORDERS = Topic("orders", partitions=1)
SPREAD = Topic("spread", partitions=4)
BILLING = Topic("billing", partitions=1)


class Order(Event, type="order", topic=ORDERS, key="key"):
    key: str
    number: int = 0


class Wide(Event, type="wide", topic=SPREAD, key="key"):
    key: str
    number: int = 0


class Bill(Event, type="bill", topic=BILLING, key="key"):
    key: str
    number: int = 0


PATIENCE = 60.0
"""Seconds that anything is waited for at most: little for a case that is to fail."""

TABLE = f"create table if not exists effects (id {SERIAL}, key text, number bigint)"
EFFECT = "insert into effects (key, number) values ($1, $2)"


def case(test: Callable[[Path], Awaitable[None]], seconds: float = 20.0) -> None:
    """Run it in a folder of its own; what hangs ends after so many seconds."""
    with folder() as path:
        drive(lambda: test(path), seconds)


def drive(test: Callable[[], Awaitable[None]], seconds: float = 20.0) -> None:
    asyncio.run(asyncio.wait_for(test(), seconds))


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="evenflow-") as path:
        yield Path(path)


def settings(path: Path, **more: Any) -> Settings:
    return Settings.load({"folder": str(path), "lease": 1.0, "drain": 2.0, **more}, env={})


@asynccontextmanager
async def opened(
    app: App, path: Path, *, handle: tuple[str, ...] | None = None, join: bool = True, **more: Any
) -> AsyncGenerator[Running]:
    """The app as one process has it open; several in one test are several processes to each other."""
    async with app.running(handle=handle, settings=settings(path, **more), join=join) as running:
        for service in app.services:
            if service.name in running.stores:
                await running.stores[service.name].transact(lambda session: session.execute(TABLE))
        yield running


def in_child(work: Callable[[], Awaitable[None]]) -> int:
    """Begin this in a process of its own, forked while nothing is open here; its pid. It ends by itself, or is ended."""
    pid = os.fork()
    if pid == 0:
        gc.freeze()  # what the parent has left is not ours to free: clients of servers have threads, which are not here
        code = 1
        try:
            asyncio.run(work())
            code = 0
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    """Its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(work: Callable[[], Awaitable[None]]) -> None:
    """Run it in a process of its own, which must be killed on the way."""
    code = ended(in_child(work))
    assert code == -signal.SIGKILL, f"the process was to be killed, and ended with {code}"


def die(*_: object, **__: object) -> None:
    """As `kill -9` does: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


async def eventually(condition: Callable[[], Any], seconds: float = 5.0) -> Any:
    """Its first true answer; it may be async. Fails after so many seconds."""
    end = asyncio.get_running_loop().time() + min(seconds, PATIENCE)
    while True:
        answer = condition()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert asyncio.get_running_loop().time() < end, "it did not come true"
        await asyncio.sleep(0.01)


async def drained(*running: Running, seconds: float = 8.0) -> None:
    """Until nothing is left to do in any of them."""

    async def idle() -> bool:
        return all([await each.idle() for each in running])

    await eventually(idle, seconds)


async def effects(running: Running, service: str = "shop") -> list[tuple[str, int]]:
    rows = await running.stores[service].read("select key, number from effects order by id")
    return [tuple(row) for row in rows]


async def log_of(running: Running, topic: str) -> list[Any]:
    """Every envelope that the last generation of a topic holds, partition by partition."""
    engine = await running.ready(topic)
    log = await engine.log(topic)
    assert log is not None
    found = []
    for partition in log.partitions(log.generations[-1].number):
        found += await in_partition(engine, partition)
    return found


async def in_partition(engine: Any, partition: Partition) -> list[Any]:
    bounds = await engine.bounds(partition)
    consumer = engine.consumer("test-reader")
    consumer.assign(partition, bounds.low)
    found: list[Any] = []
    while len(found) < bounds.high - bounds.low:
        batches = await consumer.fetch(1000, 1 << 20, 0.1)
        if not batches:
            break
        for batch in batches:
            found += batch.envelopes
    await consumer.close()
    return found


def shop(*events: type, group: str = "keep", start: Any = "beginning", **options: Any) -> App:
    """An app of one service that keeps what it handles in its table, in a transaction."""
    service = Service("shop", **{k: v for k, v in options.items() if k == "policy"})

    @service.on(*events, group=group, start=start)
    async def keep(event: Any, tx: Transaction) -> None:
        tx.write(EFFECT, event.key, event.number)

    return App(service, events=[Order, Wide, Bill])


def publishing() -> App:
    """The same service as another process has it that handles nothing."""
    return App(Service("shop"), events=[Order, Wide, Bill])


CLOCK = SystemClock()


@asynccontextmanager
async def raises(kind: type[BaseException], *, naming: str = "") -> AsyncGenerator[None]:
    """As `pytest.raises`, with an AssertionError where nothing is raised, or its text does not name this."""
    try:
        yield
    except kind as error:
        assert naming in str(error), f"{naming!r} is not in {error}"
        return
    raise AssertionError(f"{kind.__name__} was to be raised")
