"""Who orders for the first time is welcomed, and who gets a PDF gets it by mail."""

from __future__ import annotations

from evenflow import Breaker, Policy, Service, Transaction

from shop.events import InvoiceDrawn, OrderPlaced, WelcomeDue
from shop.notifications.mailer import Mail, Mailer

notifications = Service("notifications", migrations="sql")

PATIENT = Policy(attempts=1000, first_delay=0.5, factor=2.0, max_delay=30.0)
"""A mail server that is away for a night is nothing unusual."""

AWAY = Breaker(failures=10, pause=5.0, max_pause=30.0)
"""It is not to be knocked at by every mail that waits."""


@notifications.on(OrderPlaced, group="welcome")
async def welcome(order: OrderPlaced, tx: Transaction) -> WelcomeDue | None:
    new = await tx.execute(
        "insert into customers values ($1, $2) on conflict do nothing", order.customer, order.order_id
    )
    return WelcomeDue(order_id=order.order_id, customer=order.customer) if new else None


@notifications.on(WelcomeDue, InvoiceDrawn, group="send", concurrency=16, policy=PATIENT, breaker=AWAY)
async def send(due: WelcomeDue | InvoiceDrawn, tx: Transaction, mailer: Mailer) -> None:
    """SMTP knows no transaction: who is killed between the server's "250 OK" and the commit sends the mail again. It
    then has the same Message-ID, by which mail servers and readers know a repeat.
    """
    mail = mail_of(due)
    await mailer.send(mail)
    tx.write(
        "insert into mails (mail_id, order_id, customer) values ($1, $2, $3)", mail.mail_id, due.order_id, due.customer
    )


def mail_of(due: WelcomeDue | InvoiceDrawn) -> Mail:
    recipient = f"customer-{due.customer}@example.com"
    if isinstance(due, WelcomeDue):
        return Mail(
            mail_id=f"welcome-{due.customer}@shop.example",
            recipient=recipient,
            subject="Welcome",
            text=f"Thank you for your first order. Its number is {due.order_id}.\n",
        )
    return Mail(
        mail_id=f"invoice-{due.number}@shop.example",
        recipient=recipient,
        subject=f"Your invoice {due.number}",
        text=f"Thank you for your order {due.order_id}. You find the invoice attached.\n",
        pdf=due.pdf,
        pdf_name=f"{due.number}.pdf",
    )
