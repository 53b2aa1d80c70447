"""The reconciliation: a whole run is clean, and each kind of difference that is planted in its databases is found."""

from __future__ import annotations

import hashlib
import lzma
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from replay.chart import chart
from replay.places import Places
from replay.purchases import FILE, read
from replay.reconcile import Difference, reconcile

from .conftest import Shop

PURCHASES = 1500


@pytest.fixture(scope="module")
def handled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, list[str]]]:
    """The shop after the first purchases, all services in one process."""
    shop = Shop(tmp_path_factory.mktemp("shop"))
    try:
        yield shop, shop.replay(PURCHASES)
    finally:
        shop.end()


def last_line(purchases: int) -> str:
    rows = read(purchases)
    cents = sum(row.cents for row in rows)
    return (
        f"reconciled: {purchases} purchases, {sum(row.cds for row in rows)} CDs, ${cents // 100}.{cents % 100:02}, "
        "0 lost, 0 doubled, 0 out of order"
    )


def test_the_data_is_what_its_readme_says() -> None:
    readme = (FILE.parent / "README.md").read_text("utf-8")
    rows = read()
    facts = [len(rows), len({row.customer for row in rows}), sum(row.cds for row in rows)]
    dollars = f"{sum(row.cents for row in rows) / 100:,.2f}"
    more = [
        len({row.day for row in rows}),
        sum(row.cents == 0 for row in rows),
        sum(row.cents >= 10000 for row in rows),
    ]
    said = [f"{each:,}" for each in facts] + [dollars] + [f"{each:,}" for each in more]
    assert f"| {' | '.join(said)} |" in readme
    assert hashlib.sha256(lzma.decompress(FILE.read_bytes())).hexdigest() in readme
    assert [row.order_id for row in rows] == list(range(1, len(rows) + 1))
    assert [row.day for row in rows] == sorted(row.day for row in rows)
    assert last_line(len(rows)).startswith("reconciled: 69659 purchases, 167881 CDs, $2500315.63, 0 lost")


def test_a_replay_ends_with_the_line_and_without_colours_where_there_is_no_terminal(
    handled: tuple[Shop, list[str]],
) -> None:
    _, lines = handled
    assert lines[-1] == last_line(PURCHASES)
    assert "\x1b" not in "".join(lines)
    assert any(re.fullmatch(r" +\d+ s  1,500 of 1,500 placed to 1997-01-\d\d, 1,500 settled", line) for line in lines)
    assert any(re.fullmatch(r"1997-01  \S+ +\$\d\d,\d{3}", line) for line in lines)


def test_a_replay_that_is_over_can_be_resumed_and_does_nothing_twice(
    handled: tuple[Shop, list[str]], shop: Shop
) -> None:
    handled[0].copy(shop.folder.parent).rename(shop.folder)
    assert shop.replay(3, "--resume")[-1] == last_line(PURCHASES)  # as long as it was begun, whatever is asked for now


def test_each_service_in_a_process_of_its_own_comes_to_the_same(shop: Shop) -> None:
    assert shop.replay(PURCHASES, "--split")[-1] == last_line(PURCHASES)
    assert len(list(shop.folder.glob("worker-*.log"))) == 5


PLANTED = {
    "an order is lost": ("orders", "delete from orders where order_id = 7", ("lost", "orders.orders", "7")),
    "an order is there twice": (
        "orders",
        "insert into orders (order_id, customer, day, title, cds, cents, state, reason) "
        "select order_id, customer, day, title, cds, cents, state, reason from orders where order_id = 1500",
        ("doubled", "orders.orders", "1500 is there 2 times"),
    ),
    "an order has another amount": (
        "orders",
        "update orders set cents = cents + 1 where order_id = 7",
        ("wrong", "orders.orders", "7 holds"),
    ),
    "a reservation is lost": (
        "stock",
        "delete from reservations where order_id = 8",
        ("lost", "stock.reservations", "8"),
    ),
    "stock was taken twice": (
        "stock",
        "update titles set free = free - 1 where title = 3",
        ("wrong", "stock.titles", "3 holds"),
    ),
    "stock was not given back": (
        "stock",
        "update reservations set state = 'held' where state = 'released'",
        ("wrong", "stock.reservations", "holds"),
    ),
    "what was ordered again is lost": (
        "stock",
        "delete from restocks where seq = (select max(seq) from restocks)",
        ("lost", "stock.restocks", ""),
    ),
    "something was ordered again twice": (
        "stock",
        "insert into restocks (order_id, title, cds, delivery) "
        "select order_id, title, cds, delivery from restocks order by seq desc limit 1",
        ("doubled", "stock.restocks", "is there 2 times"),
    ),
    "a charge is lost": ("payments", "delete from charges where order_id = 9", ("lost", "payments.charges", "9")),
    "a charge is there twice": (
        "payments",
        "insert into charges (order_id, customer, cents, state, charge) "
        "select order_id, customer, cents, state, charge from charges where order_id = 1500",
        ("doubled", "payments.charges", "1500 is there 2 times"),
    ),
    "a charge is of another amount": (
        "payments",
        "update charges set cents = 1 where order_id = 9",
        ("wrong", "payments.charges", "9 holds"),
    ),
    "an invoice is lost": ("payments", "delete from invoices where order_id = 8", ("lost", "payments.invoices", "8")),
    "a PDF is lost": (
        "payments",
        "update invoices set pdf = null where order_id = (select min(order_id) from invoices where pdf is not null)",
        ("wrong", "payments.invoices", "holds"),
    ),
    "a mail is lost": (
        "notifications",
        "delete from mails where mail_id like 'welcome-21@%'",
        ("lost", "notifications.mails", "welcome-21@"),
    ),
    "a mail was sent on twice": (
        "notifications",
        "insert into mails (mail_id, order_id, customer) select mail_id, order_id, customer from mails limit 1",
        ("doubled", "notifications.mails", "is there 2 times"),
    ),
    "a payment is not counted": (
        "analytics",
        "update revenue_by_month set orders = orders - 2 where month = '1997-01'",
        ("lost", "analytics.revenue_by_month", "1997-01 counts"),
    ),
    "a payment is counted twice": (
        "analytics",
        "update revenue_by_customer set orders = 2 * orders, cents = 2 * cents where customer = 21",
        ("doubled", "analytics.revenue_by_customer", "21 counts"),
    ),
    "money was counted wrongly": (
        "analytics",
        "update revenue_by_month set cents = cents - 1",
        ("wrong", "analytics.revenue_by_month", "1997-01 has"),
    ),
    "a day had two bulletins": (
        "analytics",
        "insert into bulletins (seq, due, orders, cents) values (-2, 1, 0, 0), (-1, 1, 0, 0)",
        ("doubled", "analytics.bulletins", "1 is there 2 times"),
    ),
    "a bulletin tells less than the one before": (
        "analytics",
        "insert into bulletins (seq, due, orders, cents) values (1001, 1, 0, 999999999), (1002, 2, 0, 5)",
        ("out of order", "analytics.bulletins", "came after"),
    ),
    "the provider knows nothing of it": (
        "provider",
        "delete from charges where key = '9'",
        ("lost", "provider.charges", "9"),
    ),
    "the provider took another amount": (
        "provider",
        "update charges set cents = cents * 2 where key = '9'",
        ("wrong", "provider.charges", "9 holds"),
    ),
    "the provider took money that nobody owed": (
        "provider",
        "insert into charges values ('1501', 100, 'taken', 'x', 1)",
        ("wrong", "provider.charges", "1501 was not to be there"),
    ),
    "the supplier knows nothing of it": (
        "supplier",
        "delete from orders where key = (select min(key) from orders)",
        ("lost", "supplier.orders", ""),
    ),
    "the supplier sent another number": (
        "supplier",
        "update orders set cds = cds + 1 where key = (select min(key) from orders)",
        ("wrong", "supplier.orders", "holds"),
    ),
    "a mail never came": (
        "mails",
        "delete from mails where message_id like 'welcome-21@%'",
        ("lost", "mails.mails", "welcome-21@"),
    ),
    "a mail came without its PDF": (
        "mails",
        "update mails set content = x'' where message_id like 'invoice-%'",
        ("wrong", "mails.mails", "invoice-"),
    ),
}
SWAPPED = {
    "orders": ("orders", "orders"),
    "reservations": ("stock", "reservations"),
    "charges": ("payments", "charges"),
    "invoices": ("payments", "invoices"),
}


def spoil(folder: Path, database: str, sql: str) -> list[Difference]:
    with closing(sqlite3.connect(folder / f"{database}.db")) as connection:
        assert connection.execute(sql).rowcount > 0, "nothing was planted"
        connection.commit()
    report = reconcile(folder, read(PURCHASES), Places())
    assert report.last_line.startswith("not reconciled: 1500 purchases")
    return report.differences


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(handled: tuple[Shop, list[str]], tmp_path: Path, name: str) -> None:
    database, sql, (kind, where, what) = PLANTED[name]
    found = spoil(handled[0].copy(tmp_path), database, sql)
    assert {(each.kind, each.where) for each in found} == {(kind, where)}
    assert what in found[0].what


@pytest.mark.parametrize("table", SWAPPED)
def test_what_came_out_of_order_is_found(handled: tuple[Shop, list[str]], tmp_path: Path, table: str) -> None:
    folder = handled[0].copy(tmp_path)
    first, second = two_of_one_customer(folder)
    sql = (
        f"update {table} set seq = case order_id when {first} then -1 else -2 end where order_id in ({first}, {second})"
    )
    found = spoil(folder, SWAPPED[table][0], sql)
    assert [(each.kind, each.where) for each in found] == [("out of order", f"{SWAPPED[table][0]}.{table}")]


def test_what_was_ordered_again_out_of_order_is_found(handled: tuple[Shop, list[str]], tmp_path: Path) -> None:
    folder = handled[0].copy(tmp_path)
    swap = (
        "update restocks set seq = -seq where title = (select title from restocks group by title having count(*) > 1)"
    )
    assert {(each.kind, each.where) for each in spoil(folder, "stock", swap)} == {("out of order", "stock.restocks")}


def two_of_one_customer(folder: Path) -> list[int]:
    """Two orders of the same customer, both with an invoice."""
    with closing(sqlite3.connect(folder / "payments.db")) as connection:
        sql = "select min(order_id), max(order_id) from invoices group by customer having count(*) = 2 limit 1"
        return list(connection.execute(sql).fetchone())


def test_sums_are_of_kinds(handled: tuple[Shop, list[str]], tmp_path: Path) -> None:
    folder = handled[0].copy(tmp_path)
    spoil(folder, "orders", "delete from orders where order_id in (3, 4, 5)")
    spoil(folder, "analytics", "update revenue_by_month set orders = orders + 2")
    line = reconcile(folder, read(PURCHASES), Places()).last_line
    assert line.endswith("3 lost, 2 doubled, 0 out of order")


def test_a_database_that_is_not_there_is_said(handled: tuple[Shop, list[str]], tmp_path: Path) -> None:
    folder = handled[0].copy(tmp_path)
    (folder / "stock.db").unlink()
    (found,) = reconcile(folder, read(PURCHASES), Places()).differences
    assert (found.kind, found.where) == ("wrong", "stock")


def test_bars_fit_and_tell_the_amounts() -> None:
    rows = [("1997-01", 100_00), ("1997-02", 50_00), ("1997-03", 0)]
    assert chart(rows, 40) == [
        "1997-01  " + "█" * 25 + "  $100",
        "1997-02  " + ("█" * 12 + "▌").ljust(25) + "   $50",
        "1997-03  " + " " * 25 + "    $0",
    ]
    assert chart(rows, 40, blocks=False)[1] == "1997-02  " + ("#" * 12).ljust(25) + "   $50"
    assert chart([], 40) == []
