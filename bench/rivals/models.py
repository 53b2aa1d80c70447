"""The order as users of FastStream write it: a pydantic model."""

from __future__ import annotations

from pydantic import BaseModel

from bench.workload import ITEMS, NOTE


class Item(BaseModel):
    sku: str
    qty: int
    price: float


class OrderPlaced(BaseModel):
    order_id: str
    at: float
    customer: str
    currency: str
    items: list[Item]
    total: float
    note: str


class OrderCharged(BaseModel):
    order_id: str
    customer: str
    total: float


_ITEMS = [Item(sku=item.sku, qty=item.qty, price=item.price) for item in ITEMS]


def order(number: int) -> OrderPlaced:
    return OrderPlaced(
        order_id=f"0b5e1f6a-{number:012d}-7c3a-9a51-3f6f2f0e9b11",
        at=1.0,
        customer=f"c{number * 7919 % 5000:07d}",
        currency="EUR",
        items=_ITEMS,
        total=288.9,
        note=NOTE,
    )
