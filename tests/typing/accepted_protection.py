"""What users write to protect others: limits, breakers, and topics with a limit on their backlog."""

from __future__ import annotations

from evenflow import App, Breaker, Delivery, Event, Limit, Service, Topic
from evenflow.errors import BacklogFull

ORDERS = Topic("orders", partitions=16, backlog=1_000_000, backlog_wait=5.0)
BILLING = Topic("billing", partitions=4, backlog=1000, backlog_wait=0)


class OrderPlaced(Event, type="order.placed", topic=ORDERS, key="order_id"):
    order_id: str


class PaymentTaken(Event, type="payment.taken", topic=BILLING, key="order_id"):
    order_id: str


billing = Service("billing")


@billing.on(OrderPlaced, group="notify", concurrency=50, limit=Limit(per_second=50, burst=20, per_key=2.0))
async def notify(order: OrderPlaced, delivery: Delivery) -> None: ...


@billing.on(
    OrderPlaced,
    PaymentTaken,
    group="ship",
    limit=Limit(per_key=0.5),
    breaker=Breaker(failures=5, within=10.0, share=0.5, pause=30, errors=(ConnectionError, TimeoutError)),
)
async def ship(event: OrderPlaced | PaymentTaken) -> None: ...


app = App(billing)


async def place() -> None:
    try:
        await app.publish(OrderPlaced(order_id="1"))
    except BacklogFull as full:
        print(full.topic, full.group, full.waiting + 1, full.limit + 1)
