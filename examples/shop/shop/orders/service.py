"""The web side places an order; what the other services say about it makes it paid or cancelled."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from evenflow import DAY, Service, Transaction

from shop.events import (
    OrderCancelled,
    OrderPlaced,
    PaymentDeclined,
    PaymentExpired,
    PaymentOverdue,
    PaymentTaken,
    StockRefused,
)

orders = Service("orders", migrations="sql")

REASONS = {PaymentDeclined: "declined", PaymentExpired: "expired", StockRefused: "refused"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOrder:
    """What a customer sends from the basket."""

    order_id: int
    customer: int
    day: date
    title: int
    cds: int
    cents: int


def place(tx: Transaction, order: NewOrder, window: float = 14 * DAY) -> None:
    """What a web request does in its transaction; the customer then has `window` seconds to pay.

    The order, its event and its timer become real together, or none of them does.
    """
    tx.write(
        "insert into orders (order_id, customer, day, title, cds, cents) values ($1, $2, $3, $4, $5, $6)",
        order.order_id, order.customer, order.day, order.title, order.cds, order.cents,
    )  # fmt: skip
    tx.publish(
        OrderPlaced(
            order_id=order.order_id,
            customer=order.customer,
            day=order.day,
            title=order.title,
            cds=order.cds,
            cents=order.cents,
        )
    )
    overdue = PaymentOverdue(order_id=order.order_id, customer=order.customer, window=window)
    tx.publish(overdue, after=window, name=timer(order.order_id))


def timer(order_id: int) -> str:
    """The name under which an order's timer waits, so that it can be taken back."""
    return f"overdue:{order_id}"


@orders.on(PaymentTaken, PaymentDeclined, PaymentExpired, StockRefused, group="outcome")
async def outcome(
    news: PaymentTaken | PaymentDeclined | PaymentExpired | StockRefused, tx: Transaction
) -> OrderCancelled | None:
    """Settle the order. Whoever holds something for a cancelled one gives it back when OrderCancelled arrives."""
    tx.cancel(timer(news.order_id))
    if isinstance(news, PaymentTaken):
        tx.write("update orders set state = 'paid' where order_id = $1", news.order_id)
        return None
    reason = REASONS[type(news)]
    tx.write("update orders set state = 'cancelled', reason = $2 where order_id = $1", news.order_id, reason)
    return OrderCancelled(order_id=news.order_id, customer=news.customer, reason=reason)
