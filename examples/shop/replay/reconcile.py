"""Compares every service's own database, the ledgers outside and the mail box with the file of purchases.

What each must hold follows from the file and from the provider's rule. The databases are read with `sqlite3` or
`psycopg` alone, and no code is shared with Evenflow or with the services. No table refuses a second row for the same
order, so an effect that happened twice can be seen.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from outside.rule import verdict
from replay.places import Database, Places, Unreadable, ledger
from replay.purchases import TITLES, Purchase

PDF_FROM = 100_00
STOCKED = 2000
"""What there is of each title before the first order."""
SUPPLIED_EACH = 25
"""Each so many-th title has a supplier, from whom what was taken is ordered again."""

Kind = Literal["lost", "doubled", "out of order", "wrong"]


@dataclass(frozen=True, slots=True)
class Difference:
    """lost          a service does not hold what it should
    doubled       it holds, or has counted, the same thing more than once
    out of order  what concerns one customer did not happen in the order of the file
    wrong         it holds something else: another amount, another state, something that nobody ordered
    """

    kind: Kind
    where: str
    what: str
    count: int = 1


class Report:
    """What was found. `facts` has a line for each database; without differences all is as it must be."""

    def __init__(self, purchases: Sequence[Purchase]) -> None:
        self.purchases = purchases
        self.differences: list[Difference] = []
        self.facts: list[tuple[str, str]] = []

    def count(self, kind: Kind) -> int:
        return sum(each.count for each in self.differences if each.kind == kind)

    @property
    def last_line(self) -> str:
        cents, wrong = sum(each.cents for each in self.purchases), self.count("wrong")
        return (
            f"{'not reconciled' if self.differences else 'reconciled'}: {len(self.purchases)} purchases, "
            f"{sum(each.cds for each in self.purchases)} CDs, ${cents // 100}.{cents % 100:02}, "
            f"{self.count('lost')} lost, {self.count('doubled')} doubled, {self.count('out of order')} out of order"
            + (f", {wrong} wrong" if wrong else "")
        )

    # -- comparing ------------------------------------------------------------------------------------------------

    def same(self, where: str, rows: Iterable[tuple[Any, ...]], wanted: Mapping[Any, Any]) -> None:
        """Each row is a key and what is held for it: once, and as wanted."""
        seen: Counter[Any] = Counter()
        for key, *held in rows:
            seen[key] += 1
            if key not in wanted:
                self._note("wrong", where, f"{key} was not to be there")
            elif tuple(held) != wanted[key]:
                self._note("wrong", where, f"{key} holds {_text(held)} instead of {_text(wanted[key])}")
        for key in wanted.keys() - seen.keys():
            self._note("lost", where, str(key))
        for key, count in seen.items():
            if count > 1:
                self._note("doubled", where, f"{key} is there {count} times", count - 1)

    def sums(self, where: str, rows: Iterable[tuple[Any, int, int]], wanted: Mapping[Any, tuple[int, int]]) -> None:
        """Each row is a key, how many orders were counted there, and their cents."""
        found = {key: (orders, cents) for key, orders, cents in rows}
        for key in sorted(found.keys() | wanted.keys()):
            (orders, cents), (due, due_cents) = found.get(key, (0, 0)), wanted.get(key, (0, 0))
            if orders != due:
                kind: Kind = "lost" if orders < due else "doubled"
                self._note(kind, where, f"{key} counts {orders} orders instead of {due}", abs(orders - due))
            elif cents != due_cents:
                self._note("wrong", where, f"{key} has {cents} cents instead of {due_cents}")

    def in_order(self, where: str, rows: Iterable[tuple[int, int]], of: str = "customer") -> None:
        """The rows, as they were written, are a customer (or what else has an order) and a number that rises."""
        latest: dict[int, int] = {}
        for key, number in rows:
            if number < latest.get(key, 0):
                self._note("out of order", where, f"{number} of {of} {key} came after {latest[key]}")
            else:
                latest[key] = number

    def _note(self, kind: Kind, where: str, what: str, count: int = 1) -> None:
        self.differences.append(Difference(kind, where, what, count))


class Expected:
    """What follows from the purchases."""

    def __init__(self, purchases: Sequence[Purchase]) -> None:
        self.purchases = purchases
        self.outcome = {p.order_id: "taken" if p.cents == 0 else verdict(p.order_id).outcome for p in purchases}
        self.paid = [p for p in purchases if self.outcome[p.order_id] == "taken"]
        self.pdfs = [p for p in self.paid if p.cents >= PDF_FROM]
        self.restocked = [p for p in purchases if p.title % SUPPLIED_EACH == 0]
        self.welcomed = {p.customer: p.order_id for p in reversed(purchases)}
        self.mails = {f"welcome-{c}@shop.example": (order, c) for c, order in self.welcomed.items()}
        self.mails |= {f"invoice-{_invoice(p)}@shop.example": (p.order_id, p.customer) for p in self.pdfs}

    def state(self, purchase: Purchase, **words: str) -> str:
        """The word for what became of this purchase."""
        return words[self.outcome[purchase.order_id]]


def _invoice(purchase: Purchase) -> str:
    return f"{purchase.day.year}-{purchase.order_id:06}"


def _text(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def reconcile(folder: Path, purchases: Sequence[Purchase], places: Places) -> Report:
    """Compare all that the services and the outside hold with these purchases."""
    report, expected = Report(purchases), Expected(purchases)
    for name, check in CHECKS.items():
        try:
            with ledger(folder, name) if name in OUTSIDE else places.open(folder, name) as database:
                report.facts.append((name, check(database, expected, report)))
        except (Unreadable, sqlite3.Error) as error:
            report.differences.append(Difference("wrong", name, f"cannot be read: {error}"))
    return report


# -- one database each ------------------------------------------------------------------------------------------------


def _orders(database: Database, expected: Expected, report: Report) -> str:
    rows = database.execute(
        "select order_id, customer, cast(day as text), title, cds, cents, state, reason from orders order by seq"
    ).fetchall()
    report.same(
        "orders.orders",
        rows,
        {
            p.order_id: (
                p.customer, p.day.isoformat(), p.title, p.cds, p.cents,
                expected.state(p, taken="paid", declined="cancelled", pending="cancelled"),
                expected.state(p, taken="", declined="declined", pending="expired"),
            )
            for p in expected.purchases
        },
    )  # fmt: skip
    report.in_order("orders.orders", ((row[1], row[0]) for row in rows))
    states, reasons = Counter(row[6] for row in rows), Counter(row[7] for row in rows)
    return (
        f"{len(rows):,} orders: {states['paid']:,} paid, {reasons['declined']:,} declined, "
        f"{reasons['expired']:,} not paid in time"
    )


def _stock(database: Database, expected: Expected, report: Report) -> str:
    rows = database.execute("select order_id, customer, title, cds, state from reservations order by seq").fetchall()
    states = {
        p.order_id: expected.state(p, taken="held", declined="released", pending="released") for p in expected.purchases
    }
    report.same(
        "stock.reservations",
        rows,
        {p.order_id: (p.customer, p.title, p.cds, states[p.order_id]) for p in expected.purchases},
    )
    report.in_order("stock.reservations", ((row[1], row[0]) for row in rows))
    held = Counter[int]()
    for p in expected.paid:
        held[p.title] += p.cds
    for p in expected.restocked:
        held[p.title] -= p.cds
    free = {title: (STOCKED - held[title],) for title in range(1, TITLES + 1)}
    report.same("stock.titles", database.execute("select title, free from titles").fetchall(), free)
    restocks = database.execute("select order_id, title, cds from restocks order by seq").fetchall()
    report.same("stock.restocks", restocks, {p.order_id: (p.title, p.cds) for p in expected.restocked})
    sold = {order: place for place, (order, *_) in enumerate(rows)}  # what is ordered again, in the order of the sales
    report.in_order("stock.restocks", ((title, sold[order]) for order, title, _ in restocks if order in sold), "title")
    released = sum(row[4] == "released" for row in rows)
    return f"{len(rows):,} reservations, {released:,} given back; {len(restocks):,} ordered again"


def _payments(database: Database, expected: Expected, report: Report) -> str:
    rows = database.execute("select order_id, customer, cents, state from charges order by seq").fetchall()
    report.same(
        "payments.charges",
        rows,
        {
            p.order_id: (p.customer, p.cents, expected.state(p, taken="taken", declined="declined", pending="expired"))
            for p in expected.purchases
        },
    )
    report.in_order("payments.charges", ((row[1], row[0]) for row in rows))
    found = database.execute(
        "select order_id, number, customer, cents, substr(pdf, 1, 5) from invoices order by seq"
    ).fetchall()
    invoices = [(*row[:4], int(row[4] == b"%PDF-")) for row in found]
    wanted = {p.order_id: (_invoice(p), p.customer, p.cents, int(p.cents >= PDF_FROM)) for p in expected.paid}
    report.same("payments.invoices", invoices, wanted)
    report.in_order("payments.invoices", ((row[2], row[0]) for row in invoices))
    taken = sum(row[3] == "taken" for row in rows)
    return f"{taken:,} charges, {len(invoices):,} invoices, {sum(row[4] for row in invoices):,} as PDF"


def _notifications(database: Database, expected: Expected, report: Report) -> str:
    first = database.execute("select customer, first_order from customers").fetchall()
    report.same("notifications.customers", first, {customer: (order,) for customer, order in expected.welcomed.items()})
    rows = database.execute("select mail_id, order_id, customer from mails order by seq").fetchall()
    report.same("notifications.mails", rows, expected.mails)
    invoices = [(customer, order) for mail, order, customer in rows if mail.startswith("invoice")]
    report.in_order("notifications.mails", invoices)
    return f"{len(rows):,} mails: {len(rows) - len(invoices):,} to welcome, {len(invoices):,} with an invoice"


def _analytics(database: Database, expected: Expected, report: Report) -> str:
    months, customers = Counter[str](), Counter[int]()
    month_cents, customer_cents = Counter[str](), Counter[int]()
    for p in expected.paid:
        month = f"{p.day:%Y-%m}"
        months[month] += 1
        month_cents[month] += p.cents
        customers[p.customer] += 1
        customer_cents[p.customer] += p.cents
    rows = database.execute("select month, orders, cents from revenue_by_month").fetchall()
    report.sums("analytics.revenue_by_month", rows, {each: (months[each], month_cents[each]) for each in months})
    by_customer = database.execute("select customer, orders, cents from revenue_by_customer").fetchall()
    wanted = {each: (customers[each], customer_cents[each]) for each in customers}
    report.sums("analytics.revenue_by_customer", by_customer, wanted)
    bulletins = database.execute("select due, cents from bulletins order by seq").fetchall()
    report.same("analytics.bulletins", ((due,) for due, _ in bulletins), {due: () for due, _ in bulletins})
    report.in_order("analytics.bulletins", ((0, cents) for _, cents in bulletins), "bulletin")
    span = "1 month" if len(rows) == 1 else f"{len(rows)} months"
    amount = f"${sum(row[2] for row in rows) / 100:,.2f}"
    return f"{amount} in {span}, of {len(by_customer):,} customers; {_counted(len(bulletins), 'bulletin')}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _provider(database: Database, expected: Expected, report: Report) -> str:
    rows = database.execute("select cast(key as integer), cents, state, calls from charges").fetchall()
    wanted = {
        p.order_id: (p.cents, expected.state(p, taken="taken", declined="declined", pending="voided"))
        for p in expected.purchases
        if p.cents
    }
    report.same("provider.charges", (row[:3] for row in rows), wanted)
    again = sum(row[3] > 1 for row in rows)
    return f"asked for {len(rows):,} charges, for {again:,} of them more than once"


def _supplier(database: Database, expected: Expected, report: Report) -> str:
    rows = database.execute("select cast(key as integer), title, cds, calls from orders").fetchall()
    report.same(
        "supplier.orders", (row[:3] for row in rows), {p.order_id: (p.title, p.cds) for p in expected.restocked}
    )
    again = sum(row[3] > 1 for row in rows)
    return f"asked for {len(rows):,} deliveries, for {again:,} of them more than once"


def _mails(database: Database, expected: Expected, report: Report) -> str:
    rows = database.execute(
        "select message_id, recipient, instr(content, 'application/pdf') > 0, copies from mails"
    ).fetchall()
    wanted = {mail: (f"customer-{customer}@example.com", int(mail.startswith("invoice")))
              for mail, (_, customer) in expected.mails.items()}  # fmt: skip
    report.same("mails.mails", (row[:3] for row in rows), wanted)
    again = sum(row[3] > 1 for row in rows)
    return f"{len(rows):,} mails came, {again:,} of them more than once"


CHECKS = {
    "orders": _orders,
    "stock": _stock,
    "payments": _payments,
    "notifications": _notifications,
    "analytics": _analytics,
    "provider": _provider,
    "supplier": _supplier,
    "mails": _mails,
}
OUTSIDE = ("provider", "supplier", "mails")
"""What is no service of the shop keeps a file of its own, wherever the shop's data are."""
