"""What users write about services, handlers and apps: both checkers accept all of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from decimal import Decimal
from typing import Any

from evenflow import DAY, App, Delivery, Event, Policy, Service, Topic, Transaction, testing

ORDERS = Topic("orders", partitions=16, retention=90 * DAY)
BILLING = Topic("billing", partitions=4)


class OrderPlaced(Event, type="order.placed", topic=ORDERS, key="order_id", version=2):
    order_id: str
    customer: str
    total: Decimal


class PaymentTaken(Event, type="payment.taken", topic=BILLING, key="order_id"):
    order_id: str


class PaymentOverdue(Event, type="payment.overdue", topic=BILLING, key="order_id"):
    order_id: str


class Mailer:
    async def send(self, to: str, *, idempotency_key: str) -> None: ...


orders = Service("orders", migrations="sql")
billing = Service("billing", policy=Policy(attempts=8, timeout=10.0, final=(ValueError,)))


@billing.on(OrderPlaced, group="charge", start="beginning")
async def charge(order: OrderPlaced, tx: Transaction) -> PaymentTaken | None:
    card: str | None = await tx.fetch_value("select card from cards where customer = $1", order.customer)
    if card is None:
        tx.publish(PaymentOverdue(order_id=order.order_id), after=3 * DAY, name=f"overdue:{order.order_id}")
        return None
    tx.write("insert into charges values ($1, $2, $3)", order.order_id, card, order.total)
    async with tx.savepoint():
        changed: int = await tx.execute("delete from carts where customer = $1", order.customer)
    tx.cancel(f"overdue:{order.order_id}")
    return PaymentTaken(order_id=order.order_id) if changed else None


@billing.on(PaymentTaken, PaymentOverdue, group="notify", concurrency=50)
async def notify(payment: PaymentTaken | PaymentOverdue, mailer: Mailer, delivery: Delivery) -> None:
    await mailer.send(payment.order_id, idempotency_key=delivery.id)


@billing.on_batch(PaymentTaken, group="ledger", size=1000)
async def ledger(payments: list[PaymentTaken], tx: Transaction) -> list[PaymentOverdue]:
    return [PaymentOverdue(order_id=payment.order_id) for payment in payments]


@billing.on(OrderPlaced, group="report")
def report(order: OrderPlaced, tx: Transaction) -> None:
    tx.write("insert into reports values ($1)", order.order_id)


app = App(orders, billing, name="shop")


@app.provide
async def mailer() -> AsyncGenerator[Mailer]:
    yield Mailer()


@app.middleware(per="event")
async def traced(delivery: Delivery, call_next: Callable[[], Awaitable[Any]]) -> Any:
    return await call_next()


async def unchanged(order: OrderPlaced, tx: Transaction) -> PaymentTaken | None:
    """A handler stays the plain function that it was."""
    report(order, tx)
    await ledger([PaymentTaken(order_id="1")], tx)
    return await charge(order, tx)


async def place() -> None:
    async with app.open(), app.transaction(orders) as tx:
        tx.write("insert into orders values ($1)", "1")
        tx.publish(OrderPlaced(order_id="1", customer="c", total=Decimal(5)))
    await app.publish(PaymentTaken(order_id="1"))


def place_without_loop() -> None:
    with app.sync.open(), app.sync.transaction(orders) as tx:
        tx.write("insert into orders values ($1)", "1")
    app.sync.publish(PaymentTaken(order_id="1"))


async def test_charge() -> None:
    async with testing.world(app, overrides={Mailer: Mailer()}) as world:
        await world.publish(OrderPlaced(order_id="1", customer="c", total=Decimal(5)))
        await world.advance(3 * DAY)
        assert world.published(PaymentOverdue) == [PaymentOverdue(order_id="1")]
