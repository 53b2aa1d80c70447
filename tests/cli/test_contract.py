"""Everything that lasts is found when it changes, and whether old events can still be read is judged as a reader would."""

import datetime as dt
import enum
import json
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest

from evenflow import App, Event, Service, Topic, Transaction
from evenflow.cli.contract import differences
from evenflow.cli.readable import obstacles
from evenflow.describe import describe, schema
from evenflow.event import spec_of

from .conftest import Shop


class Old(enum.Enum):
    A = "a"
    B = "b"


class Newer(enum.Enum):
    A = "a"
    B = "b"
    C = "c"


class Part(msgspec.Struct):
    n: int


class WiderPart(msgspec.Struct):
    n: int
    note: str = ""


class NarrowPart(msgspec.Struct):
    n: int
    note: str


class Tree(msgspec.Struct):
    name: str
    below: "list[Tree]" = []


NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
ID = UUID("12345678-1234-5678-1234-567812345678")
BIG, SMALL = Annotated[int, msgspec.Meta(ge=0, le=100)], Annotated[int, msgspec.Meta(ge=0, le=10)]


@pytest.mark.parametrize(
    ("was", "becomes", "values"),
    [
        (int, int, [1]), (int, float, [1]), (float, int, [1.5]), (int, str, [1]), (str, int, ["1"]),
        (str, str | None, ["a"]), (str | None, str, ["a", None]), (int | str, int | str | None, [1, "a"]),
        (int | str, int, [1, "a"]), (str, Any, ["a"]), (Any, str, [1]), (str, Decimal, ["a"]), (Decimal, str, [Decimal(1)]),
        (str, dt.datetime, ["a"]), (dt.datetime, str, [NOW]), (dt.datetime, dt.date, [NOW]), (dt.datetime, dt.datetime, [NOW]),
        (dt.datetime | None, dt.datetime, [None]), (UUID, str, [ID]), (str, UUID, ["a"]), (bytes, str, [b"a"]),
        (str, bytes, ["?"]), (bool, int, [True]), (int, bool, [2]), (Old, Newer, list(Old)), (Newer, Old, list(Newer)),
        (Old, str, list(Old)), (str, Old, ["z"]), (Literal["x"], Literal["x", "y"], ["x"]),
        (Literal["x", "y"], Literal["x"], ["x", "y"]), (list[int], list[int], [[1]]), (list[int], list[str], [[1]]),
        (list[int], tuple[int, ...], [[1]]), (tuple[int, int], list[int], [(1, 2)]),
        (tuple[int, str], tuple[int, int], [(1, "a")]), (list[int], int, [[1]]), (dict[str, int], dict[str, float], [{"a": 1}]),
        (dict[str, int], dict[str, str], [{"a": 1}]), (Part, WiderPart, [Part(n=1)]), (WiderPart, Part, [WiderPart(n=1)]),
        (Part, NarrowPart, [Part(n=1)]), (list[Part], list[WiderPart], [[Part(n=1)]]),
        (list[Part], list[NarrowPart], [[Part(n=1)]]), (Tree, Tree, [Tree(name="a", below=[Tree(name="b")])]),
        (SMALL, BIG, [1, 10]), (BIG, SMALL, [1, 100]), (int, SMALL, [11]), (SMALL, int, [1]),
    ],
)  # fmt: skip
def test_the_verdict_is_that_of_a_reader(was: Any, becomes: Any, values: list[Any]) -> None:
    """Values of the old type, the worst of them among these, are read as the new one, or the verdict says that not."""
    readable = True
    for value in values:
        try:
            msgspec.json.decode(msgspec.json.encode(value), type=becomes)
        except msgspec.ValidationError:
            readable = False
    assert (obstacles(shape(was), shape(becomes)) == []) is readable


def shape(kind: Any) -> Any:
    class Made(Event, type="made", topic=Topic("t", partitions=1)):
        field: kind

    return json.loads(json.dumps(schema(spec_of(Made))))


def test_a_field_that_comes_goes_or_loses_its_default() -> None:
    def fields(**kinds: Any) -> Any:
        return {"type": "object", "properties": kinds, "required": [n for n, k in kinds.items() if "default" not in k]}

    text, optional = {"type": "string"}, {"type": "string", "default": ""}
    assert obstacles(fields(a=text), fields(a=text, b=optional)) == []
    assert obstacles(fields(a=text, b=text), fields(a=text)) == []
    assert obstacles(fields(a=text), fields(a=text, b=text)) == ["b is new and has no default"]
    assert obstacles(fields(a=optional), fields(a=text)) == ["a has no default any more"]
    strict = {**fields(a=text), "additionalProperties": False}
    assert obstacles(fields(a=text, b=text), strict) == ["b is gone"]


ORDERS = Topic("orders", partitions=4, retention=3600.0)


def app(
    *, type_: str = "placed", topic: Topic = ORDERS, key: str = "id", version: int = 1, group: str = "charge",
    upcasters: Any = None, name: str = "shop", waiting: bool = False, note: bool = False,
) -> App:  # fmt: skip
    class Base(Event):
        id: str
        other: str

    class Noted(Base):
        note: str = ""

    class Placed(Noted if note else Base, type=type_, topic=topic, key=key, version=version, upcasters=upcasters):  # type: ignore[misc]  # one of two
        pass

    billing = Service("billing")

    async def charge(placed: Placed, tx: Transaction) -> None: ...
    async def notify(placed: Placed) -> None: ...

    billing.on(Placed, group=group)(notify if waiting else charge)
    return App(billing, name=name)


COMMITTED = describe(app())


def same(content: dict[str, Any]) -> dict[str, Any]:
    return content


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({}, []),
        ({"type_": "ordered"}, ["event 'placed' is gone", "event 'ordered' is new"]),
        ({"topic": Topic("others", partitions=4)}, ["topic 'orders' is gone", "event 'placed': topic was orders and is others"]),
        ({"topic": Topic("orders", partitions=8, retention=3600.0)}, ["partitions was 4 and is 8: a new generation"]),
        ({"topic": Topic("orders", partitions=4, retention=60.0)}, ["retention was 3600.0 and is 60.0"]),
        ({"topic": Topic("orders", partitions=4, retention=3600.0, compacted=True)}, ["compacted was false and is true"]),
        ({"topic": Topic("orders", partitions=4, retention=3600.0, codec="msgpack")}, ["codec was json and is msgpack"]),
        ({"key": "other"}, ['key was ["id"] and is ["other"]: events of before and after are in no order']),
        ({"version": 2}, ["version was 1 and is 2", "old events cannot be read: there is no upcaster from version 1"]),
        ({"version": 2, "upcasters": {1: same}}, ["version was 1 and is 2", "remain readable, by its upcasters"]),
        ({"group": "pay"}, ["evenflow groups rename billing.charge billing.pay", "group 'billing.pay' is new"]),
        ({"waiting": True}, ["kind was transactional and is waiting"]),
        ({"name": "store"}, ["app shop is called store: its events have a new source"]),
        ({"note": True}, ["the field 'note' is new", "old events remain readable"]),
    ],
)  # fmt: skip
def test_whatever_lasts_is_found_when_it_changes(changed: dict[str, Any], lines: list[str]) -> None:
    found = "\n".join(differences(json.loads(json.dumps(COMMITTED)), describe(app(**changed))))
    assert bool(found) is bool(lines)
    assert [each for each in lines if each not in found] == []


def test_an_upcaster_that_is_gone_and_a_version_that_fell() -> None:
    before = describe(app(version=3, upcasters={1: same, 2: same}))
    assert "no upcaster from version 1" in differences(before, describe(app(version=3, upcasters={2: same})))[-1]
    assert "no upcaster from versions 1 to 2" in differences(before, describe(app(version=3)))[-1]
    assert "events of version 3 are newer than this code" in differences(before, describe(app(version=1)))[-1]
    without = json.loads(json.dumps(before))
    del without["events"]["placed"]["reads"]  # as committed by a version that did not tell it
    assert differences(without, before) == []


def test_what_may_change_is_no_difference(shop: Shop) -> None:
    shop.write("contract.json", shop.evenflow("describe", "shop:app", "--json").out)
    source = (shop.folder / "shop.py").read_text().replace('group="charge"', 'group="charge", start="end"')
    shop.write("shop2.py", source.replace("class PaymentTaken", "class Paid").replace("PaymentTaken", "Paid"))
    done = shop.evenflow("check", "shop2:app", "--contract", "contract.json")
    assert (done.code, done.out) == (0, "")
