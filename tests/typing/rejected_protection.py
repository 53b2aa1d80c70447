"""What users may write by mistake about limits and breakers: both checkers must complain about each marked line."""

from __future__ import annotations

from evenflow import Breaker, Event, Limit, Service, Topic

ORDERS = Topic("orders", partitions=16, backlog="many")  # expect-error


class Placed(Event, type="placed", topic=ORDERS, key="order_id"):
    order_id: str


service = Service("orders")

Limit(50)  # expect-error
Limit(per_minute=50)  # expect-error
Breaker(errors=ConnectionError)  # expect-error
Breaker(failures="5")  # expect-error


@service.on(Placed, group="number", limit=50)  # expect-error
async def number(event: Placed) -> None: ...


@service.on(Placed, group="swapped", limit=Breaker())  # expect-error
async def swapped(event: Placed) -> None: ...


@service.on_batch(Placed, group="batch", limit=Limit(per_second=50))  # expect-error
async def batch(events: list[Placed]) -> None: ...
