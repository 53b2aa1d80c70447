"""Publishing by hand: encode and append durably; with a transaction, the business row and the event's in one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from bench.measuring import Watch, measured
from bench.processes import Record
from bench.twins.commits import appends, units
from bench.twins.files import APPEND, ENQUEUE, INSERT_ROW, ORDER, encode, logged, open_log, open_store
from bench.twins.relay import Relay
from bench.workload import Shape, Shop


async def publishes(folder: str, events: int, at_once: int, way: str) -> Record:
    """One after another, many tasks at once, or lists."""
    commit = appends(open_log(folder), APPEND)
    orders = Shop(Shape(handler="none")).orders(events)

    async def client(mine: Sequence[Any]) -> None:
        for order in mine:
            await commit.run((ORDER, encode(order)))

    watch = Watch()
    if way == "lists":
        for begun in range(0, events, at_once):
            commit.run_all([(ORDER, encode(order)) for order in orders[begun : begun + at_once]])
            await asyncio.sleep(0)
    else:
        await asyncio.gather(*(client(orders[number::at_once]) for number in range(at_once)))
    record = measured(events, watch)
    assert logged(open_log(folder)) == events
    return record


async def transacts(folder: str, events: int, at_once: int) -> Record:
    """A row and an event in one transaction each, until the relay has moved all to the log."""
    store, log = open_store(folder), open_log(folder)
    commit, relay = units(store), Relay(store, log)
    orders = Shop(Shape(handler="none")).orders(events)
    relaying = asyncio.create_task(relay.run())

    async def client(mine: Sequence[Any]) -> None:
        for order in mine:
            await commit.run(
                [
                    (INSERT_ROW, (order.order_id, order.customer, order.total)),
                    (ENQUEUE, (ORDER, encode(order))),
                ]
            )
            relay.wake.set()

    watch = Watch()
    await asyncio.gather(*(client(orders[number::at_once]) for number in range(at_once)))
    committed = measured(events, watch)
    while relay.moved < events:
        await asyncio.sleep(0.001)
    record = measured(events, watch, committed_rate=committed["rate"])
    relaying.cancel()
    assert logged(log) == events
    return record
