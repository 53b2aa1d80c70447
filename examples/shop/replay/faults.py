"""What goes wrong with `--faults`: an order with a title that nobody has, and a supplier who is away for a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from replay.placing import new_order
from replay.purchases import Purchase
from replay.reconcile import SUPPLIED_EACH
from shop.orders import NewOrder

WRONG_TITLE = 9_999


def mistyped(purchases: Sequence[Purchase]) -> Purchase:
    """The purchase whose order gets a wrong title: after a quarter of all, of a customer who orders again."""
    last = {each.customer: each.order_id for each in purchases}
    late = purchases[len(purchases) // 4 :]
    return next((each for each in late if last[each.customer] > each.order_id), late[0])


def with_a_mistake(purchases: Sequence[Purchase]) -> Callable[[Purchase], NewOrder]:
    """What the web side makes of a purchase, but for one that somebody types in by hand."""
    wrong = mistyped(purchases)

    def typed(purchase: Purchase) -> NewOrder:
        order = new_order(purchase)
        return replace(order, title=WRONG_TITLE) if purchase == wrong else order

    return typed


def away(purchases: Sequence[Purchase]) -> tuple[int, float]:
    """After how many orders the supplier goes away (a quarter of them), and how many seconds it takes to be back."""
    supplied = sum(each.title % SUPPLIED_EACH == 0 for each in purchases)
    return supplied // 4, 1.0 + len(purchases) / 10_000
