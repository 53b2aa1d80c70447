"""What the services tell each other: all that they share.

A service may import this module and nothing of another service. Every event but one has the customer for its key, so
whatever happens to one customer is handled in the order in which it happened, in each group. Money is in cents.
"""

from __future__ import annotations

from datetime import date

from evenflow import Event, Topic

ORDERS = Topic("orders", partitions=2)
STOCK = Topic("stock", partitions=2)
PAYMENTS = Topic("payments", partitions=2)
INVOICES = Topic("invoices", partitions=2)
MAILS = Topic("mails", partitions=2)
RESTOCKS = Topic("restocks", partitions=2)


class OrderPlaced(Event, type="order.placed", topic=ORDERS, key="customer"):
    order_id: int
    customer: int
    day: date
    title: int
    cds: int
    cents: int


class PaymentOverdue(Event, type="order.payment-overdue", topic=ORDERS, key="customer"):
    """Published with the order, due when its time to pay is over; taken back when the order is settled before.

    `window` is the time that the customer has, in seconds.
    """

    order_id: int
    customer: int
    window: float


class OrderCancelled(Event, type="order.cancelled", topic=ORDERS, key="customer"):
    order_id: int
    customer: int
    reason: str


class StockReserved(Event, type="stock.reserved", topic=STOCK, key="customer"):
    order_id: int
    customer: int
    day: date
    title: int
    cds: int
    cents: int


class StockRefused(Event, type="stock.refused", topic=STOCK, key="customer"):
    order_id: int
    customer: int


class RestockDue(Event, type="stock.restock-due", topic=RESTOCKS, key="title"):
    """CDs that an order took, and that are to be ordered again from their supplier: in order for each title."""

    order_id: int
    title: int
    cds: int


class PaymentTaken(Event, type="payment.taken", topic=PAYMENTS, key="customer"):
    """`charge` is the provider's name for it; empty where nothing was to be paid."""

    order_id: int
    customer: int
    day: date
    cents: int
    charge: str


class PaymentDeclined(Event, type="payment.declined", topic=PAYMENTS, key="customer"):
    order_id: int
    customer: int


class PaymentExpired(Event, type="payment.expired", topic=PAYMENTS, key="customer"):
    order_id: int
    customer: int


class InvoiceDue(Event, type="invoice.due", topic=INVOICES, key="customer"):
    """An invoice that is to be drawn as a PDF."""

    number: str
    order_id: int
    customer: int
    day: date
    cds: int
    title: int
    cents: int


class InvoiceDrawn(Event, type="invoice.drawn", topic=INVOICES, key="customer"):
    number: str
    order_id: int
    customer: int
    cents: int
    pdf: bytes


class WelcomeDue(Event, type="mail.welcome-due", topic=MAILS, key="customer"):
    """A customer has ordered for the first time."""

    order_id: int
    customer: int
