"""What all cases work on: an order of about 290 bytes as JSON, and the app of one service that handles it."""
# No `from __future__ import annotations`: the annotations of the handlers name local classes.

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench import handlers
from evenflow import App, Event, Service, Settings, Topic

HERE = Path(__file__).parent
GROUP = "billing.charge"
INSERT = handlers.INSERT
UPSERT = handlers.UPSERT


class Item(msgspec.Struct, frozen=True):
    sku: str
    qty: int
    price: float


ITEMS = [Item("SKU-1001", 2, 19.95), Item("SKU-2040", 1, 249.0)]
NOTE = "leave at the door, ring twice please, thanks a lot"


@dataclass(frozen=True)
class Shape:
    """How a case is built: partitions of the topic, different keys, and what the handler does (`handlers.KINDS`)."""

    partitions: int = 4
    keys: int = 5000
    handler: str = "two-writes"


class Shop:
    """An app of one service and one event class, whose handler is the shape's. `handled`: where it notes events."""

    def __init__(self, shape: Shape, handled: list[float] | None = None) -> None:
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
        self.handled: list[float] = [] if handled is None else handled
        published = handlers.KINDS[shape.handler](self.service, OrderPlaced, self.handled)
        self.app = App(self.service, events=[OrderPlaced, *published])
        self._run = os.urandom(4).hex()
        self._made = 0

    def orders(self, count: int, at: float | None = None) -> list[Any]:
        """New orders; the customers come in a fixed, scattered order."""
        new, keys, run, start = self.OrderPlaced, self.shape.keys, self._run, self._made
        moment = time.time() if at is None else at
        self._made += count
        return [
            new(
                order_id=f"{run}-{i:012d}-7c3a-9a51-3f6f2f0e9b11",
                at=moment,
                customer=f"c{i * 7919 % keys:07d}",
                currency="EUR",
                items=ITEMS,
                total=288.9,
                note=NOTE,
            )
            for i in range(start, start + count)
        ]


def settings(folder: str, places: dict[str, str] | None = None) -> Settings:
    """Everything in one folder, or where `places` says (`engine`, `store`, `topic_prefix`); never the environment."""
    return Settings.load({"folder": folder, **(places or {})}, env={}, cwd=folder)
