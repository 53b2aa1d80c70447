"""What all cases work on: an order of about 290 bytes as JSON, two writes per order, and the app that makes them."""
# No `from __future__ import annotations`: the annotations of the handlers below name local classes.

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from evenflow import App, Event, Service, Settings, Topic, Transaction

HERE = Path(__file__).parent
GROUP = "billing.charge"
INSERT = "insert into charges (order_id, customer, total) values ($1, $2, $3)"
UPSERT = (
    "insert into totals (customer, orders, total) values ($1, $2, $3) on conflict (customer) "
    "do update set orders = orders + excluded.orders, total = total + excluded.total"
)


class Item(msgspec.Struct, frozen=True):
    sku: str
    qty: int
    price: float


ITEMS = [Item("SKU-1001", 2, 19.95), Item("SKU-2040", 1, 249.0)]
NOTE = "leave at the door, ring twice please, thanks a lot"


@dataclass(frozen=True)
class Shape:
    """How a case is built: partitions of the topic, different keys, and what the handler does."""

    partitions: int = 4
    keys: int = 5000
    handler: str = "two-writes"
    """"two-writes", "empty", "batch", or "none"."""


class Shop:
    """An app of one service and one event class, whose handler is the shape's."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

        class OrderPlaced(
            Event, type="order.placed", topic=Topic("orders", partitions=shape.partitions), key="customer"
        ):
            order_id: str
            at: float
            customer: str
            currency: str
            items: list[Item]
            total: float
            note: str

        self.service = Service("billing", migrations=HERE / "sql")
        self.OrderPlaced: Any = OrderPlaced
        self.handled: list[float] = []
        self._handler(OrderPlaced)
        self.app = App(self.service, events=[OrderPlaced])
        self._run = os.urandom(4).hex()
        self._made = 0

    def _handler(self, OrderPlaced: Any) -> None:  # noqa: N803
        if self.shape.handler == "two-writes":

            @self.service.on(OrderPlaced, group="charge", start="beginning")
            async def charge(order: OrderPlaced, tx: Transaction) -> None:
                tx.write(INSERT, order.order_id, order.customer, order.total)
                tx.write(UPSERT, order.customer, 1, order.total)

        elif self.shape.handler == "empty":

            @self.service.on(OrderPlaced, group="charge", start="beginning")
            async def ignore(order: OrderPlaced, tx: Transaction) -> None:
                pass

        elif self.shape.handler == "timed":

            @self.service.on(OrderPlaced, group="charge", start="beginning")
            async def timed(order: OrderPlaced, tx: Transaction) -> None:
                tx.write(UPSERT, order.customer, 1, order.total)
                self.handled.append(order.at)

        elif self.shape.handler == "batch":

            @self.service.on_batch(OrderPlaced, group="charge", size=1000, start="beginning")
            async def project(orders: list[OrderPlaced], tx: Transaction) -> None:
                sums: dict[str, list[float]] = {}
                for order in orders:
                    found = sums.get(order.customer)
                    if found is None:
                        sums[order.customer] = [1, order.total]
                    else:
                        found[0] += 1
                        found[1] += order.total
                for customer, (count, total) in sums.items():
                    tx.write(UPSERT, customer, int(count), total)

    def orders(self, count: int) -> list[Any]:
        """New orders; the customers come in a fixed, scattered order."""
        new, keys, run, start, now = self.OrderPlaced, self.shape.keys, self._run, self._made, time.time()
        self._made += count
        return [
            new(
                order_id=f"{run}-{i:012d}-7c3a-9a51-3f6f2f0e9b11",
                at=now,
                customer=f"c{i * 7919 % keys:07d}",
                currency="EUR",
                items=ITEMS,
                total=288.9,
                note=NOTE,
            )
            for i in range(start, start + count)
        ]


def settings(folder: str) -> Settings:
    """Everything in one folder, whatever the environment says."""
    return Settings.load({"folder": folder}, env={}, cwd=folder)


def decoder(shop: Shop) -> Callable[[bytes], Any]:
    """For the twins: bytes into the very same class."""
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(shop.OrderPlaced).decode
    return decode
