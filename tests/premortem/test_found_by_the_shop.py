"""What the replay of the shop found: each case failed before its mend."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from evenflow import App, Event, Service
from evenflow.ownership import process_start
from .events import until
from .stage import ORDERS, PATIENCE, Order, case, opened

CPU_BOUND = """
import asyncio
import os
import sys
import threading
import time

from evenflow import App, Event, Policy, Service, Settings, Topic


class Order(Event, type="order", topic=Topic("orders", partitions=1), key="key"):
    key: str


service = Service("shop", policy=Policy(first_delay=0.0))
app = App(service)


@service.on(Order, group="draw", concurrency=2, cpu=True)
def draw(order: Order) -> None:
    print(os.getpid(), flush=True)
    time.sleep(0.2)


async def main() -> None:
    async with app.open(handle=True, settings=Settings.load({"folder": sys.argv[1]})):
        for number in range(1_000_000):
            await app.publish(Order(key=str(number)))
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
"""


class OrderDrawn(Event, type="order.drawn", topic=ORDERS, key="key"):
    key: str


def test_an_event_of_another_type_that_comes_during_a_commit_is_passed() -> None:
    """A waiting group that publishes into its own topic: without more events it stood before its own last one."""

    async def test(path: Path) -> None:
        service = Service("shop")

        @service.on(Order, group="draw", concurrency=2)
        async def draw(event: Order) -> None:
            pass

        app = App(service, events=[OrderDrawn])
        async with opened(app, path) as running:
            loop: Any = running.loops()[0]
            commit = loop.commit

            async def slowly(unit: Any) -> None:
                await commit(unit)
                loop.commit = commit
                (window,) = loop._windows.values()
                await app.publish(OrderDrawn(key="a"))
                await until(lambda: len(window.entries) == 2)

            loop.commit = slowly
            await app.publish(Order(key="a"))
            assert await app.wait_idle(10.0)

    case(test, 30.0)


def test_processes_for_cpu_bound_handlers_are_replaced_when_they_die_and_end_with_the_one_that_is_killed(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program.py"
    program.write_text(CPU_BOUND, "utf-8")
    command = [sys.executable, str(program), str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        late = threading.Timer(PATIENCE, process.kill)
        late.start()
        try:
            first = some(process)
            os.kill(first[0], signal.SIGKILL)
            while (again := some(process))[0] in first:
                pass
            born = {pid: process_start(pid) for pid in (*first, *again)}
        finally:
            late.cancel()
            process.kill()
    deadline = time.monotonic() + PATIENCE
    while any(since > 0 and process_start(pid) == since for pid, since in born.items()):
        assert time.monotonic() < deadline, "they live on"
        time.sleep(0.01)


def some(process: subprocess.Popen[str]) -> list[int]:
    """The pids of two that have worked, or of the one that there is on one core; of the next events."""
    assert process.stdout is not None
    wanted = min(2, os.cpu_count() or 1)
    found: list[int] = []
    while len(found) < wanted:
        pid = int(process.stdout.readline())
        found += [] if pid in found else [pid]
    return found
