"""Charges go to a provider over HTTP, and invoices into the database. A provider that is slow or away delays both."""

from __future__ import annotations

from datetime import date

from evenflow import Breaker, Policy, Service, Transaction

from shop.events import (
    InvoiceDrawn,
    InvoiceDue,
    PaymentDeclined,
    PaymentExpired,
    PaymentOverdue,
    PaymentTaken,
    StockRefused,
    StockReserved,
)
from shop.payments.pdf import invoice_pdf
from shop.payments.provider import FREE, Provider

payments = Service("payments", migrations="sql")

PATIENT = Policy(attempts=1000, first_delay=0.5, factor=2.0, max_delay=30.0)
"""The provider will be back some day, and no customer is to lose an order because it was away: hours of retries."""

AWAY = Breaker(failures=20, pause=5.0, max_pause=30.0)
"""When half of the calls fail, and 20 have in ten seconds, nobody calls for a while; then one order tries again."""

PDF_FROM = 100_00
"""Invoices of this many cents and more are drawn as a PDF."""

_CHARGED = "insert into charges (order_id, customer, cents, state, charge) values ($1, $2, $3, $4, $5)"
_INVOICED = "insert into invoices (number, order_id, customer, day, cents) values ($1, $2, $3, $4, $5)"


def invoice_number(day: date, order_id: int) -> str:
    return f"{day.year}-{order_id:06}"


@payments.on(StockReserved, group="charge", concurrency=64, policy=PATIENT, breaker=AWAY)
async def charge(order: StockReserved, tx: Transaction, provider: Provider) -> PaymentTaken | PaymentDeclined | None:
    """Ask the provider for the money. A time-out says nothing about whether it was taken, so it is asked again, with
    the same key: it charges once. The answer, the invoice and the events are one transaction.
    """
    answer = await provider.charge(order.order_id, order.cents) if order.cents else FREE
    tx.write(_CHARGED, order.order_id, order.customer, order.cents, answer.state, answer.charge)
    if answer.state == "declined":
        return PaymentDeclined(order_id=order.order_id, customer=order.customer)
    if answer.state == "pending":  # the customer has to confirm it; the timer ends the wait
        return None
    number = invoice_number(order.day, order.order_id)
    tx.write(_INVOICED, number, order.order_id, order.customer, order.day, order.cents)
    if order.cents >= PDF_FROM:
        tx.publish(
            InvoiceDue(
                number=number,
                order_id=order.order_id,
                customer=order.customer,
                day=order.day,
                cds=order.cds,
                title=order.title,
                cents=order.cents,
            )
        )
    return PaymentTaken(
        order_id=order.order_id,
        customer=order.customer,
        day=order.day,
        cents=order.cents,
        charge=answer.charge,
    )


@payments.on(StockRefused, group="waive")
async def waive(order: StockRefused, tx: Transaction) -> None:
    """Nothing will be charged for this order, and its timer need not wait for that."""
    tx.write(_CHARGED, order.order_id, order.customer, 0, "waived", "")


@payments.on(PaymentOverdue, group="overdue")
async def overdue(order: PaymentOverdue, tx: Transaction) -> PaymentExpired | None:
    """The time to pay is over. Only who was asked and has not confirmed loses the order: while the charge was not even
    tried (the provider is away, or we are far behind) it is too early, and the customer gets as long again.
    """
    state = await tx.fetch_value("select state from charges where order_id = $1", order.order_id)
    if state == "pending":
        tx.write("update charges set state = 'expired' where order_id = $1", order.order_id)
        return PaymentExpired(order_id=order.order_id, customer=order.customer)
    if state is None:
        tx.publish(order, after=order.window)
    return None


@payments.on(PaymentExpired, group="void", policy=PATIENT)
async def void(payment: PaymentExpired, provider: Provider) -> None:
    """Tell the provider, or the customer could still confirm. Telling it twice does no harm, so no tx is needed."""
    await provider.void(payment.order_id)


@payments.on(InvoiceDue, group="draw", concurrency=2, cpu=True)
def draw(invoice: InvoiceDue) -> InvoiceDrawn:
    """Draws in a process of its own, so that the event loop never waits for it."""
    return InvoiceDrawn(
        number=invoice.number,
        order_id=invoice.order_id,
        customer=invoice.customer,
        cents=invoice.cents,
        pdf=invoice_pdf(invoice),
    )


@payments.on(InvoiceDrawn, group="keep")
async def keep(invoice: InvoiceDrawn, tx: Transaction) -> None:
    tx.write("update invoices set pdf = $2 where order_id = $1", invoice.order_id, invoice.pdf)
