"""What the replay of the shop found: each case failed before its mend."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from evenflow import App, Event, Service
from evenflow.ownership import process_start
from .events import until
from .stage import ORDERS, PATIENCE, Order, case, opened

KILLED = """
import os
import time

from evenflow.cpu_pool import cpu_pool


def pid(seconds):
    time.sleep(seconds)
    return os.getpid()


if __name__ == "__main__":
    pool = cpu_pool()
    found = set()
    while len(found) < min(2, os.cpu_count()):
        found |= set(pool.map(pid, [0.1] * 4))
    print(*found, flush=True)
    time.sleep(600)
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


def test_processes_for_cpu_bound_handlers_do_not_outlive_one_that_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(KILLED, "utf-8")
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            pids = [int(pid) for pid in process.stdout.readline().split()]
            before = [process_start(pid) for pid in pids]
            assert min(before) >= 0
        finally:
            process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while any(process_start(pid) == since for pid, since in zip(pids, before, strict=True)):
        assert time.monotonic() < deadline, "they live on"
        time.sleep(0.01)
