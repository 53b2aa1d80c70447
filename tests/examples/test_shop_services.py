"""The shop's five services together, in memory and virtual time; the provider and the mail server are fakes."""

from __future__ import annotations

import ast
import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import date
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
import shop as shop_package
from evenflow import DAY, HOUR
from evenflow.testing import World, world
from outside.rule import verdict
from shop import app
from shop.analytics import analytics
from shop.events import (
    InvoiceDrawn,
    InvoiceDue,
    OrderCancelled,
    OrderPlaced,
    PaymentDeclined,
    PaymentExpired,
    PaymentOverdue,
    PaymentTaken,
    StockRefused,
    StockReserved,
    WelcomeDue,
)
from shop.notifications import Mail, Mailer, notifications
from shop.notifications.mailer import as_bytes
from shop.notifications.service import mail_of
from shop.orders import NewOrder, orders, place
from shop.orders.service import outcome
from shop.payments import Answer, Provider, payments
from shop.payments.pdf import dollars, invoice_pdf
from shop.payments.provider import ProviderFailed
from shop.payments.service import charge, draw, invoice_number
from shop.stock import Supplier, stock
from shop.stock.supplier import SupplierFailed

WINDOW = 14 * DAY
SUPPLIED = 25
STOCKED = 2000


class FakeProvider:
    """Says of each order what it was told to say, as often as it is asked; of others that the money was taken."""

    def __init__(self, **_: Any) -> None:
        self.says: dict[int, str] = {}
        self.fails: Counter[int] = Counter()
        self.asked: list[int] = []
        self.voided: list[int] = []

    async def charge(self, order_id: int, cents: int) -> Answer:
        self.asked.append(order_id)
        if self.fails[order_id]:
            self.fails[order_id] -= 1
            raise ProviderFailed("no answer")
        return Answer(self.says.get(order_id, "taken"), f"ch_{order_id}")

    async def void(self, order_id: int) -> None:
        self.voided.append(order_id)


class FakeMailer:
    def __init__(self) -> None:
        self.sent: list[Mail] = []

    async def send(self, mail: Mail) -> None:
        self.sent.append(mail)


class FakeSupplier:
    def __init__(self) -> None:
        self.away = False
        self.ordered: list[tuple[int, int, int]] = []

    async def order(self, key: int, title: int, cds: int) -> str:
        if self.away:
            raise SupplierFailed("answer 503")
        self.ordered.append((key, title, cds))
        return f"d_{key}"


class Shop:
    """The shop in a test, and the fakes that it was given."""

    def __init__(self, world: World, provider: FakeProvider, supplier: FakeSupplier, mailer: FakeMailer) -> None:
        self.world = world
        self.provider = provider
        self.supplier = supplier
        self.mailer = mailer

    async def order(self, order_id: int, customer: int = 7, **more: Any) -> None:
        given = {"day": date(1997, 1, 5), "title": 3, "cds": 2, "cents": 2500, **more}
        async with self.world.transaction(orders) as tx:
            place(tx, NewOrder(order_id=order_id, customer=customer, **given), WINDOW)

    async def free(self, title: int = 3) -> int:
        return (await self.world.rows(stock, "select free from titles where title = $1", title))[0].free

    async def state(self, order_id: int) -> tuple[str, str]:
        (row,) = await self.world.rows(orders, "select state, reason from orders where order_id = $1", order_id)
        return tuple(row)

    async def charged(self, order_id: int) -> list[str]:
        return [
            row.state
            for row in await self.world.rows(payments, "select state from charges where order_id = $1", order_id)
        ]


@asynccontextmanager
async def a_shop(patience: float = 5.0) -> AsyncGenerator[Shop]:
    provider, supplier, mailer = FakeProvider(), FakeSupplier(), FakeMailer()
    overrides = {Provider: provider, Supplier: supplier, Mailer: mailer}
    async with world(app, overrides=overrides, patience=patience) as w:
        yield Shop(w, provider, supplier, mailer)


def in_shop(test: Callable[[Shop], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run the test inside of a shop."""

    def run() -> None:
        async def inside() -> None:
            async with a_shop() as shop:
                await test(shop)
                assert await shop.world.parked() == []

        asyncio.run(inside())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


# -- together -------------------------------------------------------------------------------------------------------


@in_shop
async def test_an_order_is_reserved_charged_and_paid(shop: Shop) -> None:
    await shop.order(1)
    assert await shop.state(1) == ("paid", "")
    assert await shop.free() == STOCKED - 2
    assert await shop.charged(1) == ["taken"]
    (invoice,) = await shop.world.rows(payments, "select number, cents, pdf from invoices")
    assert tuple(invoice) == ("1997-000001", 2500, None)
    await shop.world.advance(2 * WINDOW)
    assert shop.world.published(PaymentOverdue) == []  # its timer was taken back


@in_shop
async def test_a_declined_payment_cancels_the_order_and_gives_the_stock_back(shop: Shop) -> None:
    shop.provider.says[1] = "declined"
    await shop.order(1, cds=5)
    assert await shop.state(1) == ("cancelled", "declined")
    assert await shop.free() == STOCKED
    assert [row.state for row in await shop.world.rows(stock, "select state from reservations")] == ["released"]
    assert await shop.world.rows(payments, "select * from invoices") == []
    assert await shop.world.rows(analytics, "select * from revenue_by_month") == []
    await shop.world.advance(2 * WINDOW)
    assert shop.world.published(PaymentOverdue) == []


@in_shop
async def test_an_order_that_is_never_paid_is_cancelled_by_its_timer(shop: Shop) -> None:
    shop.provider.says[1] = "pending"
    await shop.order(1)
    await shop.world.advance(WINDOW - HOUR)
    assert await shop.state(1) == ("placed", "")
    assert await shop.free() == STOCKED - 2
    await shop.world.advance(2 * HOUR)
    assert await shop.state(1) == ("cancelled", "expired")
    assert await shop.charged(1) == ["expired"]
    assert await shop.free() == STOCKED
    assert shop.provider.voided == [1]


@in_shop
async def test_a_timer_that_comes_before_the_charge_was_tried_waits_again(shop: Shop) -> None:
    overdue = PaymentOverdue(order_id=1, customer=7, window=WINDOW)
    await shop.world.publish(overdue)
    assert shop.world.published(PaymentExpired) == []
    shop.provider.says[1] = "pending"
    await shop.order(1)
    await shop.world.advance(WINDOW - HOUR)
    assert shop.world.published(PaymentOverdue) == [overdue]
    await shop.world.advance(2 * HOUR)
    assert shop.world.published(PaymentOverdue) == [overdue] * 3  # its own, and the order's
    assert len(shop.world.published(PaymentExpired)) == 1
    await shop.world.advance(3 * WINDOW)
    assert len(shop.world.published(PaymentOverdue)) == 3


@in_shop
async def test_a_time_out_is_tried_again_and_holds_up_only_its_customer(shop: Shop) -> None:
    shop.provider.fails[1] = 2
    await shop.order(1, customer=7)
    await shop.order(2, customer=7)
    await shop.order(3, customer=8)
    assert (await shop.state(1), await shop.state(2)) == (("placed", ""), ("placed", ""))
    assert await shop.state(3) == ("paid", "")
    assert [(each.attempts, each.dead) for each in await shop.world.parked("payments.charge")][0] == (1, False)
    await shop.world.advance(60)
    assert [await shop.state(each) for each in (1, 2)] == [("paid", "")] * 2
    assert [each for each in shop.provider.asked if each != 3] == [1, 1, 1, 2]  # the same key, in the order placed
    assert await shop.charged(1) == ["taken"]


@in_shop
async def test_a_provider_that_is_away_for_long_costs_no_order(shop: Shop) -> None:
    shop.provider.fails[1] = 60
    await shop.order(1)
    await shop.world.advance(HOUR)
    assert await shop.state(1) == ("paid", "")
    assert len(shop.provider.asked) == 61


@in_shop
async def test_what_is_not_in_stock_is_refused_and_not_charged(shop: Shop) -> None:
    await shop.order(1, cds=STOCKED)
    await shop.order(2, cds=1)
    assert await shop.state(1) == ("paid", "")
    assert await shop.state(2) == ("cancelled", "refused")
    assert await shop.free() == 0
    assert shop.provider.asked == [1]
    assert await shop.charged(2) == ["waived"]
    await shop.world.publish(PaymentOverdue(order_id=2, customer=7, window=WINDOW))  # one that was on its way
    await shop.world.advance(3 * WINDOW)
    assert len(shop.world.published(PaymentOverdue)) == 1


@in_shop
async def test_what_is_taken_of_a_supplied_title_is_ordered_again(shop: Shop) -> None:
    await shop.order(1, title=SUPPLIED, cds=3)
    await shop.order(2, title=SUPPLIED + 1, cds=1)
    assert shop.supplier.ordered == [(1, SUPPLIED, 3)]
    (title,) = await shop.world.rows(stock, "select stocked, free from titles where title = $1", SUPPLIED)
    assert tuple(title) == (STOCKED + 3, STOCKED)
    rows = await shop.world.rows(stock, "select order_id, title, cds, delivery from restocks")
    assert [tuple(row) for row in rows] == [(1, SUPPLIED, 3, "d_1")]


def test_a_supplier_who_is_away_holds_up_no_customer_and_each_title_waits_for_a_person() -> None:
    async def main() -> None:
        async with a_shop() as shop:
            shop.supplier.away = True
            for order_id, title in ((1, SUPPLIED), (2, SUPPLIED), (3, 2 * SUPPLIED)):
                await shop.order(order_id, customer=order_id, title=title)
            assert [await shop.state(each) for each in (1, 2, 3)] == [("paid", "")] * 3
            await shop.world.advance(60)
            lot = await shop.world.parked("stock.restock")
            assert sorted((each.key, each.dead, each.behind) for each in lot) == [
                ("25", False, True), ("25", True, False), ("50", True, False),
            ]  # fmt: skip
            shop.supplier.away = False
            assert await shop.world.redrive() == 2
            assert [order for order, title, _ in shop.supplier.ordered if title == SUPPLIED] == [1, 2]
            assert sorted(order for order, _, _ in shop.supplier.ordered) == [1, 2, 3]

    asyncio.run(main())


def test_an_order_of_a_title_that_nobody_has_is_a_dead_letter_with_what_follows_of_its_customer() -> None:
    async def main() -> None:
        async with a_shop() as shop:
            await shop.order(1, customer=7, title=9999)
            await shop.order(2, customer=7)
            await shop.order(3, customer=8)
            lot = await shop.world.parked("stock.reserve")
            assert [(each.key, each.dead, each.error_type) for each in lot] == [
                ("7", True, "Reject"), ("7", False, None),
            ]  # fmt: skip
            assert [await shop.state(each) for each in (2, 3)] == [("placed", ""), ("paid", "")]

    asyncio.run(main())


@in_shop
async def test_each_day_has_a_bulletin(shop: Shop) -> None:
    await shop.order(1, cents=1000)
    await shop.world.advance(DAY)
    await shop.order(2, cents=500)
    await shop.world.advance(DAY)
    rows = await shop.world.rows(analytics, "select orders, cents from bulletins order by seq")
    assert [tuple(row) for row in rows] == [(1, 1000), (2, 1500)]


@in_shop
async def test_what_costs_nothing_is_paid_without_a_call(shop: Shop) -> None:
    await shop.order(1, cents=0)
    assert await shop.state(1) == ("paid", "")
    assert shop.provider.asked == []


@in_shop
async def test_the_first_purchase_is_welcomed_once(shop: Shop) -> None:
    for order_id, customer in ((1, 7), (2, 8), (3, 7)):
        await shop.order(order_id, customer)
    assert sorted(mail.mail_id for mail in shop.mailer.sent) == ["welcome-7@shop.example", "welcome-8@shop.example"]
    rows = await shop.world.rows(notifications, "select mail_id, order_id from mails order by order_id")
    assert [tuple(row) for row in rows] == [("welcome-7@shop.example", 1), ("welcome-8@shop.example", 2)]


def test_an_invoice_of_100_dollars_is_drawn_kept_and_sent() -> None:
    async def main() -> None:
        async with a_shop(patience=60.0) as shop:  # another process draws it
            await shop.order(1, cents=99_99)
            await shop.order(2, cents=100_00)
            rows = await shop.world.rows(payments, "select order_id, pdf from invoices order by order_id")
            (drawn,) = shop.world.published(InvoiceDrawn)
            assert [tuple(row) for row in rows] == [(1, None), (2, drawn.pdf)]
            assert drawn.pdf.startswith(b"%PDF-")
            (mail,) = (mail for mail in shop.mailer.sent if mail.pdf)
            assert (mail.mail_id, mail.pdf) == ("invoice-1997-000002@shop.example", drawn.pdf)

    asyncio.run(main())


@in_shop
async def test_revenue_is_what_was_paid_by_month_and_customer(shop: Shop) -> None:
    shop.provider.says[3] = "declined"
    for order_id, customer, day, cents in (
        (1, 7, date(1997, 1, 31), 1000),
        (2, 8, date(1997, 1, 1), 500),
        (3, 7, date(1997, 2, 1), 700),
        (4, 7, date(1997, 2, 28), 0),
    ):
        await shop.order(order_id, customer, day=day, cents=cents)
    months = await shop.world.rows(analytics, "select * from revenue_by_month order by month")
    assert [tuple(row) for row in months] == [("1997-01", 2, 1500), ("1997-02", 1, 0)]
    customers = await shop.world.rows(analytics, "select * from revenue_by_customer order by customer")
    assert [tuple(row) for row in customers] == [(7, 2, 1000), (8, 1, 500)]


def test_services_know_of_each_other_only_by_events() -> None:
    files = list(Path(shop_package.__file__).parent.glob("*/*.py"))
    assert len(files) > 10
    for file in files:
        allowed = ("shop.events", f"shop.{file.parent.name}")
        for node in ast.walk(ast.parse(file.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert not name.startswith("shop") or name.startswith(allowed), f"{file}: {name}"


# -- handlers as the plain functions that they are -----------------------------------------------------------------


class FakeTransaction:
    """Remembers what a handler hands over."""

    def __init__(self) -> None:
        self.written: list[tuple[Any, ...]] = []
        self.published: list[Any] = []
        self.cancelled: list[str] = []

    def write(self, sql: str, *args: Any) -> None:
        self.written.append((sql.split()[2 if sql.startswith("insert") else 1], *args))

    def publish(self, event: Any, **_: Any) -> None:
        self.published.append(event)

    def cancel(self, name: str) -> None:
        self.cancelled.append(name)


RESERVED = StockReserved(order_id=1, customer=7, day=date(1997, 1, 5), title=3, cds=2, cents=120_00)
DUE = InvoiceDue(number="1997-000001", order_id=1, customer=7, day=date(1997, 1, 5), cds=2, title=3, cents=1_234_56)


def test_charge_hands_over_the_charge_the_invoice_and_the_event() -> None:
    tx = FakeTransaction()
    taken = asyncio.run(charge(RESERVED, tx, FakeProvider()))
    assert taken == PaymentTaken(order_id=1, customer=7, day=RESERVED.day, cents=120_00, charge="ch_1")
    assert [row[0] for row in tx.written] == ["charges", "invoices"]
    assert [type(event) for event in tx.published] == [InvoiceDue]


@pytest.mark.parametrize(("state", "result"), [("declined", PaymentDeclined), ("pending", type(None))])
def test_charge_writes_no_invoice_for_what_was_not_taken(state: str, result: type) -> None:
    tx, provider = FakeTransaction(), FakeProvider()
    provider.says[1] = state
    assert type(asyncio.run(charge(RESERVED, tx, provider))) is result
    assert tx.written == [("charges", 1, 7, 120_00, state, "ch_1")]
    assert tx.published == []


@pytest.mark.parametrize(
    ("news", "reason"),
    [
        (PaymentDeclined(order_id=1, customer=7), "declined"),
        (PaymentExpired(order_id=1, customer=7), "expired"),
        (StockRefused(order_id=1, customer=7), "refused"),
    ],
)
def test_outcome_says_why(news: Any, reason: str) -> None:
    tx = FakeTransaction()
    assert asyncio.run(outcome(news, tx)) == OrderCancelled(order_id=1, customer=7, reason=reason)
    assert tx.cancelled == ["overdue:1"]


def test_an_order_is_placed_with_its_timer() -> None:
    tx = FakeTransaction()
    place(tx, NewOrder(order_id=1, customer=7, day=date(1997, 1, 5), title=3, cds=2, cents=5), 60.0)
    assert [type(event) for event in tx.published] == [OrderPlaced, PaymentOverdue]
    assert tx.published[1].window == 60.0
    assert tx.written == [("orders", 1, 7, date(1997, 1, 5), 3, 2, 5)]


def test_an_invoice_is_the_same_bytes_every_time() -> None:
    assert draw(DUE) == InvoiceDrawn(number=DUE.number, order_id=1, customer=7, cents=DUE.cents, pdf=invoice_pdf(DUE))
    assert b"1997-000001" in invoice_pdf(DUE)
    assert b"$1,234.56" in invoice_pdf(DUE)


def test_dollars_and_numbers_as_they_are_written() -> None:
    assert [dollars(cents) for cents in (0, 5, 99_99, 1_000_000_00)] == ["$0.00", "$0.05", "$99.99", "$1,000,000.00"]
    assert invoice_number(date(1998, 6, 30), 69659) == "1998-069659"


def test_a_mail_as_it_travels() -> None:
    drawn = InvoiceDrawn(number="1997-000001", order_id=1, customer=7, cents=5, pdf=b"%PDF-\x00\xff\r\n.\r\n")
    for due in (WelcomeDue(order_id=1, customer=7), drawn):
        data = as_bytes(mail_of(due))
        message = message_from_bytes(data, policy=policy.SMTP)
        assert data.count(b"\n") == data.count(b"\r\n")
        assert message["To"] == "customer-7@example.com"
        assert message["Message-ID"] == f"<{mail_of(due).mail_id}>"
        assert "your" in message.get_body().get_content()
        assert [part.get_content() for part in message.iter_attachments()] == ([drawn.pdf] if due is drawn else [])


# -- the provider's rule --------------------------------------------------------------------------------------------


def test_the_rule_declines_and_delays_about_as_many_as_it_says() -> None:
    verdicts = [verdict(order_id) for order_id in range(1, 69_660)]
    outcomes = Counter(each.outcome for each in verdicts)
    assert 0.028 < outcomes["declined"] / len(verdicts) < 0.032
    assert 0.0045 < outcomes["pending"] / len(verdicts) < 0.0055
    for outcome_ in outcomes:
        slow = [each.slow for each in verdicts if each.outcome == outcome_]
        assert any(slow)
        assert sum(slow) / len(slow) < 0.03
    assert 0.009 < sum(each.slow for each in verdicts) / len(verdicts) < 0.011


def test_the_rule_does_not_change() -> None:
    """A replay that goes on after its code was changed is checked against the same rule."""
    found = {
        "declined": [number for number in range(1, 400) if verdict(number).outcome == "declined"],
        "pending": [number for number in range(1, 400) if verdict(number).outcome == "pending"],
        "slow": [number for number in range(1, 400) if verdict(number).slow],
    }
    assert found == {
        "declined": [9, 224, 276, 328, 375],
        "pending": [31, 50, 128, 290],
        "slow": [23, 39, 66, 97, 148, 308, 372],
    }
