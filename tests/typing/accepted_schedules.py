"""Schedules as users write them."""

from __future__ import annotations

from datetime import date

from evenflow import App, Delivery, Due, Event, Policy, Service, Topic, Transaction

billing = Service("billing")


class Swept(Event, type="swept", topic=Topic("swept")):
    day: date


class Mailer:
    async def send(self, text: str, idempotency_key: str) -> None: ...


@billing.cron("dunning", "0 7 * * *", tz="Europe/Berlin")
async def dunning(due: Due, tx: Transaction) -> None:
    tx.write("insert into days values ($1, $2, $3)", due.due.date(), due.missed, due.manual)


@billing.every("sweep", 30, missed="none", policy=Policy(attempts=1))
async def sweep(due: Due, mailer: Mailer, delivery: Delivery) -> Swept:
    await mailer.send(due.name, idempotency_key=delivery.id)
    return Swept(day=due.due.date())


@billing.every("blocking", 0.5, missed="all")
def blocking(due: Due) -> None: ...


app = App(billing)


async def unchanged(due: Due, tx: Transaction, mailer: Mailer, delivery: Delivery) -> Swept:
    await dunning(due, tx)
    return await sweep(due, mailer, delivery)
