"""What a checker tells of schedules before they run."""

from __future__ import annotations

from datetime import timedelta

from evenflow import Due, Event, Service, Topic, Transaction

service = Service("orders")


class Placed(Event, type="placed", topic=Topic("orders")):
    order_id: str


@service.cron("wrong-event", "0 7 * * *")  # expect-error
async def wrong_event(event: Placed, tx: Transaction) -> None: ...


@service.every("nothing", 60)  # expect-error
async def nothing() -> None: ...


@service.every("right", 60)
async def right(due: Due, tx: Transaction) -> None:
    due.manual = True  # expect-error


async def calls(due: Due) -> None:
    await right(due)  # expect-error


service.cron("no-line")  # expect-error
service.cron("dunning", "0 7 * * *", missed="some")  # expect-error
service.every("sweep", timedelta(minutes=1))  # expect-error
service.every("sweep", "60")  # expect-error
