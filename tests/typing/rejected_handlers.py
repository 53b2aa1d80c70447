"""What users may write by mistake about handlers: both checkers must complain about each marked line, and no other."""

from __future__ import annotations

from evenflow import App, Event, Policy, Service, Topic, Transaction

ORDERS = Topic("orders", partitions=16)


class Placed(Event, type="placed", topic=ORDERS, key="order_id"):
    order_id: str


class Paid(Event, type="paid", topic=ORDERS, key="order_id"):
    order_id: str


service = Service("orders")
app = App(service)


@service.on(Placed, group="wrong-event")  # expect-error
async def wrong_event(event: Paid, tx: Transaction) -> None: ...


@service.on(Placed, Paid, group="half")  # expect-error
async def half(event: Placed, tx: Transaction) -> None: ...


@service.on_batch(Placed, group="no-list")  # expect-error
async def no_list(event: Placed, tx: Transaction) -> None: ...


@service.on(Placed, group="nothing")  # expect-error
async def nothing() -> None: ...


@service.on(Placed, group="right")
async def right(event: Placed, tx: Transaction) -> Paid:
    tx.publish()  # expect-error
    tx.write(1)  # expect-error
    return Paid(order_id=event.order_id)


async def calls(tx: Transaction) -> None:
    await right(Paid(order_id="1"), tx)  # expect-error
    await right(Placed(order_id="1"))  # expect-error


Policy(attempts="8")  # expect-error
Service(1)  # expect-error
service.on(Placed)  # expect-error
service.on(Placed, group="g", start="now")  # expect-error
service.on("placed", group="g")  # expect-error
App("orders")  # expect-error
