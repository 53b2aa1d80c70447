"""Handling by hand, in chunks: read, decode, write, move the position by compare-and-set, commit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import apsw
import msgspec

from bench.handlers import sums
from bench.measuring import Watch, measured, memory
from bench.processes import Record
from bench.twins.files import (
    APPEND,
    CHARGE,
    CHUNK,
    ENQUEUE,
    INSERT_ROW,
    MOVE,
    ORDER,
    READ,
    UPSERT_ROW,
    encode,
    kept,
    logged,
    open_log,
    open_store,
)
from bench.twins.relay import Relay
from bench.workload import Shape, Shop

Execute = Callable[..., Any]
Decoders = dict[str, Callable[[bytes], Any]]


def backlog(folder: str, events: int, shape: dict[str, Any]) -> Record:
    """A log with a row per event."""
    shop, log = Shop(Shape(**{**shape, "handler": "none"})), open_log(folder)
    watch = Watch()
    for begun in range(0, events, 1000):
        rows = [(ORDER, encode(order)) for order in shop.orders(min(1000, events - begun))]
        log.execute("begin immediate")
        log.executemany(APPEND, rows)
        log.execute("commit")
    record = measured(events, watch, bytes=len(rows[0][1]))
    log.close()
    return record


class Charged(msgspec.Struct, frozen=True):
    order_id: str
    customer: str
    total: float


def two_writes(rows: list[Any], decoders: Decoders, write: Execute) -> None:
    for _, kind, payload in rows:
        order = decoders[kind](payload)
        write(INSERT_ROW, (order.order_id, order.customer, order.total))
        write(UPSERT_ROW, (order.customer, 1, order.total))


def one_write(rows: list[Any], decoders: Decoders, write: Execute) -> None:
    for _, kind, payload in rows:
        order = decoders[kind](payload)
        write(INSERT_ROW, (order.order_id, order.customer, order.total))


def empty(rows: list[Any], decoders: Decoders, write: Execute) -> None:  # noqa: ARG001
    for _, kind, payload in rows:
        decoders[kind](payload)


def batch(rows: list[Any], decoders: Decoders, write: Execute) -> None:
    for customer, (count, total) in sums([decoders[kind](payload) for _, kind, payload in rows]).items():
        write(UPSERT_ROW, (customer, count, total))


def publishes_on(rows: list[Any], decoders: Decoders, write: Execute) -> None:
    for _, kind, payload in rows:
        order = decoders[kind](payload)
        write(INSERT_ROW, (order.order_id, order.customer, order.total))
        charged = Charged(order_id=order.order_id, customer=order.customer, total=order.total)
        write(ENQUEUE, (CHARGE, encode(charged)))


HANDLERS = {
    "two-writes": two_writes,
    "one-write": one_write,
    "empty": empty,
    "batch": batch,
    "publishes-on": publishes_on,
}


def chunk(store: apsw.Connection, write: Execute, rows: list[Any], position: int, handle: Callable[[], None]) -> int:
    """One transaction: the effects of these rows, and the position. The new position."""
    write("begin immediate")
    try:
        handle()
        last: int = rows[-1][0]
        write(MOVE, (last, position))
        if store.changes() != 1:
            raise RuntimeError("somebody else has moved the position")
        write("commit")
    except BaseException:
        write("rollback")
        raise
    return last


def handles(folder: str, events: int, shape: dict[str, Any]) -> Record:
    """All that is there, and (published on) moved from the outbox to the log. `noted`: memory on the way."""
    shop = Shop(Shape(**{**shape, "handler": "none"}))
    handler, log, store = shape["handler"], open_log(folder), open_store(folder)
    relay = Relay(store, log) if handler == "publishes-on" else None
    decoders: Decoders = {ORDER: msgspec.json.Decoder(shop.OrderPlaced).decode}
    handle, size = HANDLERS[handler], 1000 if handler == "batch" else CHUNK
    read, write = log.cursor().execute, store.cursor().execute
    position, noted = 0, list[float]()
    watch = Watch()
    while position < events:
        rows = read(READ, (position, min(size, events - position))).fetchall()
        position = chunk(store, write, rows, position, partial(handle, rows, decoders, write))
        while relay is not None and relay.move():
            pass
        if position >= events * len(noted) // 20:
            noted.append(round(memory()[0], 1))
    record = measured(events, watch, noted=noted)
    expected = {"two-writes": (events, events), "empty": (0, 0), "batch": (0, events)}.get(handler, (events, 0))
    assert kept(store) == expected, kept(store)
    assert relay is None or logged(log) == 2 * events
    return record
