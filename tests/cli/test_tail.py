"""`evenflow tail`: what it shows, what it leaves alone."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from evenflow.cli.failures import UsageError
from evenflow.cli.filters import Filter, condition
from evenflow.envelope import Envelope

from .conftest import Shop, wait_for

DATA = {
    "customer": "Ada", "total": "100.50", "count": 3, "paid": True, "note": None, "empty": [],
    "address": {"city": "Bonn"}, "lines": [{"article": "pen", "n": 2}, {"article": "ink", "n": 10}],
}  # fmt: skip


def envelope(data: Any, **facts: Any) -> Envelope:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    given = {"id": "1", "source": "s", "type": "order.placed", "version": 1, "key": "k", "slot": 0, "time": 0.0}
    return Envelope(**{**given, "data": body, **facts})


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("customer=Ada", True), ("customer=Alan", False), ("customer!=Alan", True), ("customer!=Ada", False),
        ("total>=100", True), ("total>100.5", False), ("total<1000", True), ("total=100.500", True),
        ("count<=3", True), ("count>10", False), ("paid=true", True), ("paid=false", False), ("paid>0", False),
        ("note=null", True), ("note=", False), ("address.city=Bonn", True), ("address.city<C", True),
        ("lines.article=ink", True), ("lines.0.article=ink", False), ("lines.1.n>=10", True), ("lines.n>10", False),
        ("lines.7.n=1", False), ("lines.article!=ink", False), ("lines.article!=cap", True), ("empty.x=1", False),
        ("nothing=1", False), ("nothing!=1", True), ("nothing>1", False), ("address=Bonn", False),
        (" customer = Ada ", True),
    ],
)  # fmt: skip
def test_a_condition_on_a_field(text: str, holds: bool) -> None:
    assert Filter(conditions=[condition(text)]).wants(envelope(DATA)) is holds


@pytest.mark.parametrize("text", ["", "customer", "=x", "1a=x", "a b=c"])
def test_what_is_no_condition_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="is no condition"):
        condition(text)


def test_of_types_and_keys_one_has_to_fit_and_of_conditions_all() -> None:
    both = [condition("customer=Ada"), condition("count=3")]
    assert Filter(["order.*", "x"], ["j", "k"], both).wants(envelope(DATA))
    assert not Filter(["order"], [], []).wants(envelope(DATA))
    assert not Filter([], ["j"], []).wants(envelope(DATA))
    assert not Filter([], [], [*both, condition("count=4")]).wants(envelope(DATA))


def test_fields_are_looked_into_in_every_form_and_bytes_are_no_error() -> None:
    wanted = Filter(conditions=[condition("n>1")])
    assert wanted.wants(envelope(b"\x81\xa1n\x02", content_type="application/msgpack"))
    assert not wanted.wants(envelope(b"\xff\xfe"))


@pytest.fixture
def full(shop: Shop) -> Shop:
    """A shop with three orders, handled; and the position of its groups."""

    def orders() -> None:
        assert shop.run("run", "shop:app", "--until-idle").code == 0
        for number, total in enumerate(("5", "50.5", "500"), 1):
            data = f'{{"order_id": "{number}", "total": "{total}"}}'
            done = shop.evenflow("publish", "shop:app", "order.placed", data)
            assert done.code == 0, done.err

    shop.prepare(orders)
    return shop


def test_it_shows_what_is_asked_for_moves_nobody_and_tells_slips(full: Shop) -> None:
    before = full.evenflow("groups", "list", "shop:app", "--json").out

    def shown(*arguments: str) -> list[Any]:
        done = full.evenflow("tail", "shop:app", "--no-follow", "--json", *arguments)
        assert (done.code, done.err) == (0, "")
        return [json.loads(line) for line in done.out.splitlines()]

    everything = shown("--from", "beginning")
    assert [each["key"] for each in everything] == ["1", "2", "3"]
    first = everything[0]
    assert (first["topic"], first["type"], first["version"], first["source"]) == ("orders", "order.placed", 1, "shop")
    assert first["data"] == {"order_id": "1", "total": "5", "lines": []}
    assert [each["key"] for each in shown("--from", "1h", "-n", "2")] == ["1", "2"]
    assert [each["key"] for each in shown("--from", "beginning", "--where", "total>=50")] == ["2", "3"]
    assert [each["key"] for each in shown("--from", "beginning", "--key", "3", "--key", "1")] == ["1", "3"]
    assert shown("--from", "beginning", "--type", "payment.*") == shown("--from", "end") == []
    assert shown("--from", "beginning", "--topic", "billing") == []
    text = full.evenflow("tail", "shop:app", "--no-follow", "--from", "beginning", "--key", "2").out
    assert "order.placed  2  {" in text and "\x1b" not in text
    ages = '"age"'
    after = full.evenflow("groups", "list", "shop:app", "--json").out
    assert [line for line in after.splitlines() if ages not in line] == [
        line for line in before.splitlines() if ages not in line
    ]

    for arguments, code, hint in (
        (["--type", "order.placd"], 3, "did you mean order.placed?"),
        (["--topic", "ordres"], 3, "did you mean orders?"),
        (["--from", "yesterday"], 2, "or how long ago: 90s, 15m, 2h"),
        (["--from", "2026-03-01T12:00:00"], 2, "add it: 2026-03-01T12:00:00Z"),
        (["--where", "total"], 2, "write field=value"),
        (["-n", "0"], 2, "is no number of events"),
    ):
        done = full.evenflow("tail", "shop:app", *arguments)
        assert (done.code, done.out) == (code, "")
        assert hint in done.err


def test_it_follows_until_ctrl_c(full: Shop) -> None:
    process = full.start("tail", "shop:app", "--json", "--from", "beginning")
    assert process.stdout is not None
    assert [json.loads(process.stdout.readline())["key"] for _ in range(3)] == ["1", "2", "3"]
    assert full.evenflow("publish", "shop:app", "payment.taken", '{"order_id": "9"}').code == 0
    assert json.loads(process.stdout.readline())["key"] == "9"
    process.send_signal(signal.SIGINT)
    wait_for(lambda: process.poll() is not None)
    assert (process.returncode, process.stdout.read()) == (130, "")
    assert process.stderr is not None
    assert process.stderr.read() == ""
