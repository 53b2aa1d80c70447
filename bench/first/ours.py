"""From a cold start to the first event handled: python bench/first/ours.py FOLDER"""

import asyncio
import sys

from evenflow import App, Event, Service, Settings, Topic, Transaction


class OrderPlaced(Event, type="order.placed", topic=Topic("orders", partitions=4), key="customer"):
    order: int
    customer: str


shop = Service("shop")
app = App(shop)


@shop.on(OrderPlaced, group="greet")
async def greet(order: OrderPlaced, tx: Transaction) -> None:  # noqa: ARG001
    print(f"order {order.order} of {order.customer}")


async def main(folder: str) -> None:
    async with app.open(handle=True, settings=Settings.load({"folder": folder}, env={}, cwd=folder)):
        await app.publish(OrderPlaced(order=1, customer="Ada"))
        await app.wait_idle()


asyncio.run(main(sys.argv[1]))
