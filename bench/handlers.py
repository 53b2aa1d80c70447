"""What the handlers of the cases do, by name. Each is registered for the event class of one app."""
# No `from __future__ import annotations`: the annotations of the handlers name local classes.

import asyncio
from collections.abc import Callable
from typing import Any

from evenflow import Event, Service, Topic, Transaction

INSERT = "insert into charges (order_id, customer, total) values ($1, $2, $3)"
UPSERT = (
    "insert into totals (customer, orders, total) values ($1, $2, $3) on conflict (customer) "
    "do update set orders = totals.orders + excluded.orders, total = totals.total + excluded.total"
)
WAIT = 0.001
CONCURRENCY = 100
LIST = 1000


def none(service: Service, OrderPlaced: Any, handled: list[float]) -> list[type]:  # noqa: ARG001, N803
    return []


def two_writes(service: Service, OrderPlaced: Any, handled: list[float]) -> list[type]:  # noqa: ARG001, N803
    @service.on(OrderPlaced, group="charge", start="beginning")
    async def charge(order: OrderPlaced, tx: Transaction) -> None:
        tx.write(INSERT, order.order_id, order.customer, order.total)
        tx.write(UPSERT, order.customer, 1, order.total)

    return []


def two_awaited(service: Service, OrderPlaced: Any, handled: list[float]) -> list[type]:  # noqa: ARG001, N803
    @service.on(OrderPlaced, group="charge", start="beginning")
    async def charge(order: OrderPlaced, tx: Transaction) -> None:
        await tx.execute(INSERT, order.order_id, order.customer, order.total)
        await tx.execute(UPSERT, order.customer, 1, order.total)

    return []


def one_write(service: Service, OrderPlaced: Any, handled: list[float]) -> list[type]:  # noqa: ARG001, N803
    @service.on(OrderPlaced, group="charge", start="beginning")
    async def charge(order: OrderPlaced, tx: Transaction) -> None:
        tx.write(INSERT, order.order_id, order.customer, order.total)

    return []


def empty(service: Service, OrderPlaced: Any, handled: list[float]) -> list[type]:  # noqa: ARG001, N803
    @service.on(OrderPlaced, group="charge", start="beginning")
    async def ignore(order: OrderPlaced, tx: Transaction) -> None:
        pass

    return []


def plain(service: Service, OrderPlaced: Any, handled: list[float]) -> list[type]:  # noqa: ARG001, N803
    @service.on(OrderPlaced, group="charge", start="beginning", concurrency=CONCURRENCY)
    async def ignore(order: OrderPlaced) -> None:
        pass

    return []


def timed(service: Service, OrderPlaced: Any, handled: list[float]) -> list[type]:  # noqa: N803
    @service.on(OrderPlaced, group="charge", start="beginning")
    async def charge(order: OrderPlaced, tx: Transaction) -> None:
        tx.write(INSERT, order.order_id, order.customer, order.total)
        handled.append(order.at)

    return []


def batch(service: Service, OrderPlaced: Any, handled: list[float]) -> list[type]:  # noqa: ARG001, N803
    @service.on_batch(OrderPlaced, group="charge", size=LIST, start="beginning")
    async def project(orders: list[OrderPlaced], tx: Transaction) -> None:
        for customer, (count, total) in sums(orders).items():
            tx.write(UPSERT, customer, count, total)

    return []


def waits(service: Service, OrderPlaced: Any, handled: list[float]) -> list[type]:  # noqa: N803
    @service.on(OrderPlaced, group="charge", start="beginning", concurrency=CONCURRENCY)
    async def ask(order: OrderPlaced) -> None:
        await asyncio.sleep(WAIT)
        handled.append(order.at)

    return []


def publishes_on(service: Service, OrderPlaced: Any, handled: list[float]) -> list[type]:  # noqa: ARG001, N803
    class OrderCharged(Event, type="order.charged", topic=Topic("charges", partitions=4), key="customer"):
        order_id: str
        customer: str
        total: float

    @service.on(OrderPlaced, group="charge", start="beginning")
    async def charge(order: OrderPlaced, tx: Transaction) -> OrderCharged:
        tx.write(INSERT, order.order_id, order.customer, order.total)
        return OrderCharged(order_id=order.order_id, customer=order.customer, total=order.total)

    return [OrderCharged]


def sums(orders: list[Any]) -> dict[str, tuple[int, float]]:
    """Orders and totals by customer: what a handler of lists does before it writes."""
    found: dict[str, tuple[int, float]] = {}
    for order in orders:
        count, total = found.get(order.customer, (0, 0.0))
        found[order.customer] = (count + 1, total + order.total)
    return found


KINDS: dict[str, Callable[[Service, Any, list[float]], list[type]]] = {
    "none": none,
    "two-writes": two_writes,
    "two-awaited": two_awaited,
    "one-write": one_write,
    "empty": empty,
    "plain": plain,
    "timed": timed,
    "batch": batch,
    "waits": waits,
    "publishes-on": publishes_on,
}
