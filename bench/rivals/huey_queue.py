"""huey, a task queue: a task per event, kept in SQLite or in Redis, worked off by threads."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import msgspec
from huey import Huey, RedisHuey, SqliteHuey
from redis import Redis

from bench.measuring import cpu_of
from bench.processes import Record
from bench.rivals.effects import Effects
from bench.rivals.phases import Phases
from bench.workload import Shape, Shop

WORKERS = 1
"""One keeps the order. Two handle 1.1 to 1.5 times as many per second, in any order; four are no better than two."""


def sqlite(folder: str, events: int) -> Record:
    """Each enqueue is a commit, and so is each dequeue; SQLite's own `synchronous=FULL`."""
    return _measure(SqliteHuey("bench", filename=f"{folder}/huey.db", results=False, fsync=True), folder, events)


def redis(folder: str, port: int, pid: int, events: int) -> Record:
    """A list in Redis: LPUSH, BRPOP."""
    with Redis(port=port) as client:
        client.flushall()
    served = cpu_of(pid)
    found = _measure(RedisHuey("bench", port=port, results=False), folder, events)
    return {**found, "server_cpu_us": (cpu_of(pid) - served) / events * 1e6}


def _measure(huey: Huey, folder: str, events: int) -> Record:
    logging.getLogger("huey").setLevel(logging.ERROR)
    shop, own, phases = Shop(Shape(handler="none")), threading.local(), Phases(events)
    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(shop.OrderPlaced).decode
    Effects(folder)
    done, left, lock = threading.Event(), events, threading.Lock()

    @huey.task()
    def charge(data: bytes) -> None:
        nonlocal left
        if not hasattr(own, "effects"):
            own.effects = Effects(folder)
        own.effects.keep(decode(data))
        with lock:
            left -= 1
            if not left:
                done.set()

    orders = shop.orders(events)
    phases.begin()
    for order in orders:
        charge(encode(order))
    phases.end("published")
    consumer: Any = huey.create_consumer(
        workers=WORKERS, periodic=False, initial_delay=0.001, max_delay=0.01, check_worker_health=False
    )
    phases.begin()
    consumer.start()
    done.wait()
    phases.end("handled")
    consumer.stop(graceful=True)
    until = time.monotonic() + 10
    for _, worker in consumer.worker_threads:
        worker.join(max(0.0, until - time.monotonic()))
    assert Effects(folder).count() == events
    return phases.record()
