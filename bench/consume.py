"""consume-transactional, and flatness: what handling a backlog costs, beside the same work by hand."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from bench.measuring import Watch, copied, folder, measured, memory, middle, run, spread
from bench.workload import GROUP, Shape, Shop, settings

ROUNDS = 5
EVENTS = 100_000
LIST = 1000


async def backlog(folder: str, events: int, shape: dict[str, Any]) -> dict[str, Any]:
    """Publish events in lists, with nobody handling them."""
    shop = Shop(Shape(**shape))
    async with shop.app.running(settings=settings(folder)):
        watch = Watch()
        for begun in range(0, events, LIST):
            await shop.app.publish(*shop.orders(min(LIST, events - begun)))
        return measured(events, watch)


async def ours(folder: str, events: int, shape: dict[str, Any], backlog: int | None = None) -> dict[str, Any]:
    """Handle a backlog, from the moment in which partitions are ours until so many are handled and committed."""
    shop = Shop(Shape(**shape))
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(shop.app.running(handle=None, settings=settings(folder)))
        (loop,) = running.loops()
        while True:
            watch = Watch()
            await asyncio.sleep(0)
            if loop.owned:
                break
        before = memory()[0]
        while loop.counters.handled < events:
            await asyncio.sleep(0.002)
        record = measured(loop.counters.handled, watch, chunks=loop.counters.chunks, memory=[before, *memory()])
        assert loop.name == GROUP
        if shop.shape.handler == "two-writes":
            sql = "select (select count(*) from charges), (select sum(orders) from totals)"
            ((kept, summed),) = await running.stores["billing"].read(sql)
            assert kept == summed, (kept, summed)
            assert backlog is not None or kept == events == loop.counters.handled, (kept, loop.counters)
    return record


def transactional(*, full: bool) -> dict[str, Any]:
    """Ours and its twin, in turns, in fresh files and processes."""
    events = EVENTS * (3 if full else 1)
    case: dict[str, Any] = {"events": events, "rounds": ROUNDS, "shape": vars(Shape())}
    with folder() as base:
        case["bytes"] = run("by_hand:backlog", folder=base, events=events, shape=vars(Shape()))
        run("consume:backlog", folder=base, events=events, shape=vars(Shape()))
        for handler in ("two-writes", "empty"):
            shape = vars(Shape(handler=handler))
            pairs: dict[str, list[dict[str, Any]]] = {"ours": [], "twin": []}
            for _ in range(ROUNDS):
                with copied(base, "log.db") as fresh:
                    pairs["ours"].append(run("consume:ours", folder=fresh, events=events, shape=shape))
                with copied(base, "by_hand_log.db") as fresh:
                    pairs["twin"].append(run("by_hand:consume", folder=fresh, events=events, shape=shape))
            case[handler] = _compared(**pairs)
    case["ratio"] = case["two-writes"]["ratio"]
    case["share_us"] = case["two-writes"]["share_us"]
    return case


def _compared(ours: list[dict[str, Any]], twin: list[dict[str, Any]]) -> dict[str, Any]:
    ratios = [a["rate"] / b["rate"] for a, b in zip(ours, twin, strict=True)]
    return {
        "ours": {"rate": middle(ours, "rate"), "rates": spread(ours, "rate"), "cpu_us": middle(ours, "cpu_us")},
        "twin": {"rate": middle(twin, "rate"), "rates": spread(twin, "rate"), "cpu_us": middle(twin, "cpu_us")},
        "ratio": middle(ours, "rate") / middle(twin, "rate"),
        "ratios": [min(ratios), max(ratios)],
        "cpu_ratio": middle(twin, "cpu_us") / middle(ours, "cpu_us"),
        "share_us": middle(ours, "cpu_us") - middle(twin, "cpu_us"),
        "best": {"ours": spread(ours, "cpu_us")[0], "twin": spread(twin, "cpu_us")[0]},
        "memory": max(record["memory"][2] for record in ours),
    }


def flatness(*, full: bool) -> dict[str, Any]:
    """CPU per event with an empty handler (so no tables of the effects), when one thing is varied."""
    backlogs = [10_000, 100_000, *([5_000_000] if full else [])]
    found: dict[str, Any] = {"backlog": {}, "keys": {}, "partitions": {}}
    for waiting in backlogs:
        found["backlog"][waiting] = _cost(waiting, Shape(handler="empty"))
    for keys in (10, 100_000):
        found["keys"][keys] = _cost(100_000, Shape(keys=keys, handler="empty"))
    for partitions in (1, 8, 64):
        found["partitions"][partitions] = _cost(100_000, Shape(partitions=partitions, handler="empty"))
    return found


def _cost(waiting: int, shape: Shape) -> dict[str, float]:
    """The least of three, over the first 100,000 events at most: what others do on the machine only adds."""
    events = min(waiting, 100_000)
    with folder() as base:
        run("consume:backlog", folder=base, events=waiting, shape=vars(shape))
        records = []
        for _ in range(3):
            with copied(base, "log.db") as fresh:
                given = {"folder": fresh, "events": events, "shape": vars(shape), "backlog": waiting}
                records.append(run("consume:ours", **given))
    least, best = spread(records, "cpu_us")[0], spread(records, "rate")[1]
    return {"cpu_us": least, "rate": best, "memory": records[0]["memory"][2]}
