"""An order's CDs are held for it, or refused; a cancelled order gives them back."""

from __future__ import annotations

from evenflow import Service, Transaction

from shop.events import OrderCancelled, OrderPlaced, StockRefused, StockReserved

stock = Service("stock", migrations="sql")


@stock.on(OrderPlaced, group="reserve")
async def reserve(order: OrderPlaced, tx: Transaction) -> StockReserved | StockRefused:
    """Hold the CDs. The update asks and takes in one statement, so no two orders can be given the same CD."""
    taken = await tx.execute(
        "update titles set free = free - $2 where title = $1 and free >= $2", order.title, order.cds
    )
    if not taken:
        return StockRefused(order_id=order.order_id, customer=order.customer)
    tx.write(
        "insert into reservations (order_id, customer, title, cds) values ($1, $2, $3, $4)",
        order.order_id, order.customer, order.title, order.cds,
    )  # fmt: skip
    return StockReserved(
        order_id=order.order_id,
        customer=order.customer,
        day=order.day,
        title=order.title,
        cds=order.cds,
        cents=order.cents,
    )


@stock.on(OrderCancelled, group="give-back")
async def give_back(order: OrderCancelled, tx: Transaction) -> None:
    """Release what is held for the order. One that was refused holds nothing, and then this changes nothing."""
    held = await tx.fetch_one(
        "update reservations set state = 'released' where order_id = $1 returning title, cds",
        order.order_id,
    )
    if held:
        tx.write("update titles set free = free + $2 where title = $1", held.title, held.cds)
