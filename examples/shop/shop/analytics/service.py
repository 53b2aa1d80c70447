"""Revenue by month and by customer, added up in batches: a few statements for hundreds of payments. And every day a
bulletin.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from evenflow import DAY, Due, Service, Transaction

from shop.events import PaymentTaken

K = TypeVar("K")

analytics = Service("analytics", migrations="sql")

A_DAY = float(os.environ.get("SHOP_DAY", DAY))
"""Seconds. In a replay a day is over sooner."""

_MONTH = """
insert into revenue_by_month as sofar values ($1, $2, $3)
on conflict (month) do update set orders = sofar.orders + excluded.orders, cents = sofar.cents + excluded.cents
"""
_CUSTOMER = """
insert into revenue_by_customer as sofar values ($1, $2, $3)
on conflict (customer) do update set orders = sofar.orders + excluded.orders, cents = sofar.cents + excluded.cents
"""
_BULLETIN = """
insert into bulletins (due, orders, cents)
select $1, coalesce(sum(orders), 0), coalesce(sum(cents), 0) from revenue_by_month
"""


@analytics.on_batch(PaymentTaken, group="revenue", size=500)
async def revenue(payments: list[PaymentTaken], tx: Transaction) -> None:
    """Adding is not repeatable, and need not be: the sums and the group's position move in one transaction."""
    for month, orders, cents in added_up(payments, lambda payment: payment.day.isoformat()[:7]):
        tx.write(_MONTH, month, orders, cents)
    for customer, orders, cents in added_up(payments, lambda payment: payment.customer):
        tx.write(_CUSTOMER, customer, orders, cents)


@analytics.every("bulletin", A_DAY)
async def bulletin(due: Due, tx: Transaction) -> None:
    """What was earned up to now; once for each day, whatever number of processes runs."""
    tx.write(_BULLETIN, due.due)


def added_up(payments: list[PaymentTaken], key_of: Callable[[PaymentTaken], K]) -> Iterator[tuple[K, int, int]]:
    """For each key, how many payments it has and their sum in cents."""
    count, total = Counter[K](), Counter[K]()
    for payment in payments:
        key = key_of(payment)
        count[key] += 1
        total[key] += payment.cents
    return ((key, count[key], total[key]) for key in count)
