"""An order's CDs are held for it, or refused; a cancelled order gives them back. Some titles have a supplier, who is
asked for as many again.
"""

from __future__ import annotations

from evenflow import Policy, Reject, Service, Transaction

from shop.events import OrderCancelled, OrderPlaced, RestockDue, StockRefused, StockReserved
from shop.stock.supplier import Supplier

stock = Service("stock", migrations="sql")

BRIEF = Policy(attempts=4, first_delay=0.25, factor=2.0)
"""A supplier that does not answer four times is a matter for a person. (So soon because a month takes seconds here.)"""


@stock.on(OrderPlaced, group="reserve")
async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved | StockRefused:
    """Hold the CDs. The update asks and takes in one statement, so no two orders can be given the same CD."""
    taken = await tx.fetch_one(
        "update titles set free = free - $2 where title = $1 and free >= $2 returning supplier",
        order.title, order.cds,
    )  # fmt: skip
    if taken is None:
        if await tx.fetch_value("select 1 from titles where title = $1", order.title) is None:
            raise Reject(f"there is no title {order.title}")  # no retry helps: somebody has to correct the order
        return StockRefused(order_id=order.order_id, customer=order.customer)
    tx.write(
        "insert into reservations (order_id, customer, title, cds) values ($1, $2, $3, $4)",
        order.order_id, order.customer, order.title, order.cds,
    )  # fmt: skip
    if taken.supplier is not None:
        tx.publish(RestockDue(order_id=order.order_id, title=order.title, cds=order.cds))
    return StockReserved(
        order_id=order.order_id,
        customer=order.customer,
        day=order.day,
        title=order.title,
        cds=order.cds,
        cents=order.cents,
    )


@stock.on(RestockDue, group="restock", concurrency=16, policy=BRIEF)
async def restock(due: RestockDue, tx: Transaction, supplier: Supplier) -> None:
    """Order the CDs again; what is delivered goes on the shelf. Nobody waits for it, so the supplier may be away."""
    delivery = await supplier.order(due.order_id, due.title, due.cds)
    tx.write(
        "insert into restocks (order_id, title, cds, delivery) values ($1, $2, $3, $4)",
        due.order_id, due.title, due.cds, delivery,
    )  # fmt: skip
    tx.write("update titles set free = free + $2, stocked = stocked + $2 where title = $1", due.title, due.cds)


@stock.on(OrderCancelled, group="give-back")
async def give_back(order: OrderCancelled, tx: Transaction) -> None:
    """Release what is held for the order. One that was refused holds nothing, and then this changes nothing."""
    held = await tx.fetch_one(
        "update reservations set state = 'released' where order_id = $1 returning title, cds",
        order.order_id,
    )
    if held:
        tx.write("update titles set free = free + $2 where title = $1", held.title, held.cds)
