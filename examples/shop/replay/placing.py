"""The web side of the shop: customers place orders, many at a time, each customer's one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from evenflow import App

from replay.purchases import Purchase
from shop.orders import NewOrder, orders, place

AT_A_TIME = 100


class Customers:
    """Place what is not placed yet, in the order of the days. `may_go(orders)` is awaited before each hundred.

    typed   what the web side makes of a purchase
    """

    def __init__(self, app: App, window: float, typed: Callable[[Purchase], NewOrder] | None = None) -> None:
        self._app = app
        self._window = window
        self._typed = typed or new_order
        self.placed = 0
        self.over = False
        self.latest: Purchase | None = None

    async def replay(self, purchases: Sequence[Purchase], may_go: Callable[[int], Awaitable[None]]) -> None:
        """All orders are committed when this returns."""
        known = {row[0] for row in await self._app.read(orders, "select order_id from orders")}
        self.placed = len(known)
        left = [purchase for purchase in purchases if purchase.order_id not in known]
        for start in range(0, len(left), AT_A_TIME):
            some = left[start : start + AT_A_TIME]
            await may_go(len(some))
            await asyncio.gather(*[self._one_after_another(theirs) for theirs in _by_customer(some)])
            self.latest = some[-1]
        self.over = True

    async def _one_after_another(self, purchases: Sequence[Purchase]) -> None:
        for each in purchases:
            async with self._app.transaction(orders) as tx:
                place(tx, self._typed(each), self._window)
            self.placed += 1


def new_order(purchase: Purchase) -> NewOrder:
    return NewOrder(
        order_id=purchase.order_id,
        customer=purchase.customer,
        day=purchase.day,
        title=purchase.title,
        cds=purchase.cds,
        cents=purchase.cents,
    )


def _by_customer(purchases: Sequence[Purchase]) -> list[list[Purchase]]:
    found: dict[int, list[Purchase]] = {}
    for each in purchases:
        found.setdefault(each.customer, []).append(each)
    return list(found.values())
