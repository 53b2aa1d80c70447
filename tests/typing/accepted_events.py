"""What users write about events, accepted by both checkers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, assert_type
from uuid import UUID

from msgspec import field
from pydantic import BaseModel

from evenflow.clock import DAY
from evenflow.event import Event, event, replace, spec_of
from evenflow.topic import Topic

ORDERS = Topic("orders", partitions=16, retention=90 * DAY)
PAYMENTS = Topic("payments")
LATEST = Topic("latest", partitions=4, compacted=True, codec="msgpack")


def v1_to_v2(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "customer": old.pop("client")}


class OrderPlaced(Event, type="order.placed", topic=ORDERS, key="order_id", version=2, upcasters={1: v1_to_v2}):
    order_id: str
    customer: str
    total: Decimal
    tags: list[str] = field(default_factory=list[str])
    parts: list[int] = []
    note: str | None = None


class OrderEvent(Event):
    order_id: UUID
    at: datetime


class OrderShipped(OrderEvent, type="order.shipped", topic=ORDERS, key=("order_id", "parcel")):
    parcel: int


class Ticked(Event, type="ticked", topic=LATEST, rename="camel"):
    pass


@event(type="payment.taken", topic=PAYMENTS, key="order_id")
@dataclass(frozen=True, kw_only=True, slots=True)
class PaymentTaken:
    order_id: str
    amount: Decimal


@event(type="payment.refused", topic=PAYMENTS, key="order_id", version=3)
class PaymentRefused(BaseModel):
    order_id: str
    reason: str


placed = OrderPlaced(order_id="1", customer="c", total=Decimal(5))
assert_type(placed.total, Decimal)
assert_type(placed.note, str | None)
assert_type(replace(placed, note="x"), OrderPlaced)
shipped = OrderShipped(order_id=UUID(int=1), at=datetime.now(), parcel=1)
assert_type(shipped.parcel, int)
assert_type(PaymentTaken(order_id="1", amount=Decimal(5)).amount, Decimal)
assert_type(PaymentRefused(order_id="1", reason="r").reason, str)
assert_type(spec_of(OrderPlaced).type, str)
assert_type(ORDERS.owned, bool)
Ticked()
