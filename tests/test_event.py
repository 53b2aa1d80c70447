"""Event classes: the words, what is wrong with them, what is refused at publish, what is read."""

import dataclasses
import datetime as dt
import enum
import math
import uuid
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from unittest.mock import Mock
from zlib import crc32
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from evenflow import checks
from evenflow.envelope import Envelope
from evenflow.errors import DecodeError, DefinitionError, EventInvalid, EventTooLarge, NewerVersion
from evenflow.event import Event, event, is_event, problems_of, replace, spec_of
from evenflow.registry import Encoded, Registry
from evenflow.topic import Topic

ORDERS = Topic("orders", partitions=16)
PACKED = Topic("packed", partitions=1, codec="msgpack")
NAN, INF = float("nan"), float("inf")
NOW = dt.datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=dt.UTC)


class Line(msgspec.Struct, frozen=True):
    sku: str
    price: float
    at: dt.datetime | None = None


class Tree(msgspec.Struct):
    name: str
    children: "list[Tree]" = []


class Colour(enum.Enum):
    RED = "red"


class Placed(Event, type="order.placed", topic=ORDERS, key="order_id"):
    order_id: str
    total: Decimal = Decimal(1)
    count: int = 1
    weight: float = 1.0
    at: dt.datetime = NOW
    clock: dt.time | None = None
    lines: list[Line] = []
    prices: dict[str, float] = {}
    free: dict[str, Any] = {}
    anything: Any = None
    tags: set[str] = set()
    tree: Tree | None = None
    colour: Colour = Colour.RED
    size: Literal["s", "m", 1] = "s"
    rating: Annotated[int, msgspec.Meta(ge=1, le=5)] = 3
    code: Annotated[str, msgspec.Meta(min_length=1, max_length=4)] = "abc"
    pair: tuple[str, int] = ("a", 1)


@event(type="payment.taken", topic=ORDERS, key="order_id")
@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    order_id: str
    amount: Decimal = Decimal(1)
    lines: list[Line] = dataclasses.field(default_factory=list)


class Part(BaseModel):
    weight: float = 1.0


@event(type="invoice.raised", topic=ORDERS, key=("order_id", "number"))
class Raised(BaseModel):
    order_id: str
    number: int
    amount: Decimal = Decimal(1)
    at: dt.datetime = NOW
    part: Part = Field(default_factory=Part)
    note: str = Field(default="", alias="remark")


@event(type="packed.model", topic=PACKED)
class PackedModel(BaseModel):
    note: str = Field(default="", alias="remark")


class Shared(Event):
    order_id: str


class Shipped(Shared, type="order.shipped", topic=PACKED, key="order_id"):
    parcel: int


class Ticked(Event, type="ticked", topic=ORDERS):
    pass


class NamedPair(NamedTuple):
    a: int


class TypedPart(TypedDict):
    weight: float


def quick(made: Any) -> bool:
    """What the generated test says, without the slow way."""
    return checks._Tests().predicate(type(made))(made)


def envelope(encoded: Encoded, **changes: Any) -> Envelope:
    spec, key, slot, data, content_type = encoded
    made = Envelope("1", "test", spec.type, spec.version, key, slot, 1.0, data, content_type=content_type)
    return msgspec.structs.replace(made, **changes)


def read(made: Any, registry: Registry | None = None, **changes: Any) -> Any:
    registry = registry or Registry()
    encoded = registry.encode(made)
    return registry.by_type[encoded[0].type].read(envelope(encoded, **changes), "orders")


# The words


def test_what_is_known_about_a_class() -> None:
    spec = spec_of(Placed)
    assert (spec.cls, spec.type, spec.topic, spec.version, spec.key) == (
        Placed,
        "order.placed",
        ORDERS,
        1,
        ("order_id",),
    )
    assert spec is spec_of(Placed)
    line = (
        Path(__file__)
        .read_text()
        .splitlines()
        .index('class Placed(Event, type="order.placed", topic=ORDERS, key="order_id"):')
    )
    assert spec.where == f"{__file__}:{line + 1}"
    assert spec_of(Taken).where.startswith(f"{__file__}:")
    assert [spec_of(cls).kind for cls in (Placed, Taken, Raised)] == ["struct", "dataclass", "pydantic"]
    assert [is_event(cls) for cls in (Placed, Taken, Raised, Shared, Event, int, "x")] == [True] * 3 + [False] * 4


def test_events_are_frozen_and_keyword_only() -> None:
    made = Placed(order_id="1")
    with pytest.raises(AttributeError):
        made.count = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Placed("1")  # type: ignore[misc]
    assert made == Placed(order_id="1")


@pytest.mark.parametrize(
    "made", [Placed(order_id="1"), Taken(order_id="1"), Raised(order_id="1", number=1), Shipped(order_id="1", parcel=2)]
)
def test_replace(made: Any) -> None:
    changed = replace(made, order_id="2")
    assert (type(changed), changed.order_id, made.order_id) == (type(made), "2", "1")
    with pytest.raises(TypeError):
        replace(made, colourless=1)


def test_fields_shared_by_a_class_without_a_type() -> None:
    with pytest.raises(DefinitionError, match="Shared has no type of its own"):
        spec_of(Shared)
    assert read(Shipped(order_id="1", parcel=2)) == Shipped(order_id="1", parcel=2)


def test_a_subclass_of_an_event_is_no_event_by_itself() -> None:
    class Express(Placed):
        pass

    with pytest.raises(DefinitionError, match="Express has no type of its own"):
        Registry().encode(Express(order_id="1"))


def wrong(**words: Any) -> type:
    class Wrong(Event, **{"type": "wrong", "topic": ORDERS, **words}):
        a: str
        b: float = 1.0
        c: str | None = None

    return Wrong


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"type": "Wrong Name"}, "type='Wrong Name', which cannot be used"),
        ({"type": 5}, "type=5"),
        ({"type": "x" * 101}, "at most 100"),
        ({"topic": None}, "has no topic"),
        ({"topic": "orders"}, "topic='orders', which is no Topic"),
        ({"version": 0}, "version=0"),
        ({"version": "2"}, "version='2'"),
        ({"version": True}, "version=True"),
        ({"key": "nope"}, "key='nope', which is no field\n  → name one of its fields: a, b, c"),
        ({"key": ("a", "nope")}, "key='nope', which is no field"),
        ({"key": ()}, "key=()"),
        ({"key": ["a"]}, "key=['a']"),
        ({"key": "b"}, "key='b', whose type cannot be a key"),
        ({"version": 3, "upcasters": {1: dict}}, "no upcaster from version 2 to 3"),
        ({"version": 2, "upcasters": {1: dict, 2: dict}}, "upcaster from version 2, but is at version 2"),
        ({"version": 2, "upcasters": {1: "x"}}, "upcasters that are no mapping of functions"),
        ({"version": 2, "upcasters": [1]}, "upcasters that are no mapping of functions"),
    ],
)
def test_wrong_words_are_told_with_the_line_and_not_at_import(words: dict[str, Any], text: str) -> None:
    cls = wrong(**words)
    with pytest.raises(DefinitionError) as caught:
        spec_of(cls)
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"{__file__}:")
    assert caught.value.remedy


def test_all_problems_of_a_class() -> None:
    assert len(problems_of(wrong(type="A", topic=1, version=0, key="x"))) == 4
    assert problems_of(wrong(key=("a", "c"), version=5, upcasters={3: dict, 4: dict})) == []


class Opaque:
    pass


@pytest.mark.parametrize(
    "hint",
    [
        Opaque, object, complex, list[Opaque], dict[str, Opaque | None], msgspec.Raw, str | dt.datetime, bytes | str,
        dict[float, int], dict[tuple[int, int], str], Annotated[dt.datetime, msgspec.Meta(tz=False)], "NotDefined",
    ],
)  # fmt: skip
def test_fields_that_cannot_be_sent(hint: Any) -> None:
    class Bad(Event, type="bad", topic=ORDERS):
        __annotations__ = {"field": hint}

    with pytest.raises(DefinitionError, match="Bad has (the|a) field") as caught:
        spec_of(Bad)
    assert caught.value.where


def test_fields_that_would_be_lost() -> None:
    @event(type="bad", topic=ORDERS)
    @dataclass
    class Hidden:
        a: int = dataclasses.field(default=1, init=False)

    @event(type="bad", topic=ORDERS)
    class Excluded(BaseModel):
        a: int = Field(default=1, exclude=True)

    for cls in (Hidden, Excluded):
        with pytest.raises(DefinitionError, match="would be lost"):
            spec_of(cls)


def test_classes_that_are_no_events() -> None:
    class Plain:
        pass

    with pytest.raises(DefinitionError, match="Plain is not an event class"):
        spec_of(Plain)
    with pytest.raises(DefinitionError, match="is no struct, dataclass or pydantic model"):
        spec_of(event(type="plain", topic=ORDERS)(Plain))
    with pytest.raises(DefinitionError, match="int is not an event class"):
        Registry().encode(5)


# The registry


def test_two_classes_with_one_type() -> None:
    def make() -> type:
        class Twin(Event, type="twin", topic=ORDERS):
            pass

        return Twin

    first, second = make(), make()
    registry = Registry([first])
    assert registry.add(first) is registry.by_type["twin"]
    with pytest.raises(DefinitionError, match="is of type 'twin', and so is") as caught:
        registry.add(second)
    assert spec_of(first).where in str(caught.value)
    assert caught.value.where == spec_of(second).where
    assert Registry([second]).by_type["twin"].spec.cls is second


def test_an_unknown_codec() -> None:
    class Odd(Event, type="odd", topic=Topic("odd", codec="avro")):
        pass

    with pytest.raises(DefinitionError, match="codec 'avro' is not known\n  → use one of json, msgpack"):
        Registry([Odd])


def test_encode_answers_everything_that_an_envelope_needs() -> None:
    spec, key, slot, data, content_type = Registry().encode(Shipped(order_id="ö-1", parcel=2))
    assert (spec, key, slot) == (spec_of(Shipped), "ö-1", crc32("ö-1".encode()) & 255)
    assert (msgspec.msgpack.decode(data), content_type) == ({"order_id": "ö-1", "parcel": 2}, "application/msgpack")
    assert Registry().encode(Raised(order_id="a", number=7))[1] == '["a","7"]'
    assert Registry().encode(Ticked())[1:3] == (None, -1)


class Keyed(Event, type="keyed", topic=ORDERS, key="k"):
    k: Any


@pytest.mark.parametrize("value", [7, uuid.UUID(int=7), "x" * 1024])
def test_keys(value: Any) -> None:
    registry = Registry()
    assert registry.encode(Keyed(k=value))[1] == spec_of(Keyed).key_of(Keyed(k=value)) == str(value)


@pytest.mark.parametrize("value", [None, 1.5, True, b"x", ["a"], "", "a\x00b", "\ud800", Decimal(1)])
def test_keys_that_are_none(value: Any) -> None:
    for attempt in (Registry().encode, spec_of(Keyed).key_of):
        with pytest.raises(EventInvalid, match="Keyed cannot be published: ") as caught:
            attempt(Keyed(k=value))
        assert caught.value.remedy


def test_a_key_that_is_too_long() -> None:
    with pytest.raises(EventTooLarge, match="its key k has 1026 bytes"):
        Registry().encode(Keyed(k="ö" * 513))


# What would not survive the trip


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def tree(depth: int) -> Tree:
    made = Tree("leaf")
    for _ in range(depth):
        made = Tree("node", [made])
    return made


class Text(str):
    pass


BERLIN = ZoneInfo("Europe/Berlin")
NAIVE = dt.datetime(2026, 1, 1)
ODD = dt.datetime(1880, 1, 1, tzinfo=BERLIN)  # 53 minutes 28 seconds

REFUSED = [
    ({"weight": NAN}, "weight is not a finite number"),
    ({"weight": INF}, "weight is not a finite number"),
    ({"weight": "heavy"}, r"Expected `float`, got `str` - at `\$.weight`"),
    ({"total": Decimal("NaN")}, "total is not a finite number"),
    ({"total": Decimal("sNaN")}, "total is not a finite number"),
    ({"total": Decimal("-Infinity")}, "total is not a finite number"),
    ({"at": NAIVE}, "at has no time zone"),
    ({"at": ODD}, "at has a zone whose offset is no whole minute"),
    ({"clock": dt.time(3)}, "clock has no time zone"),
    ({"clock": dt.time(3, tzinfo=BERLIN)}, "clock has no time zone"),
    ({"count": 2**63}, "count is an integer of more than 64 bits"),
    ({"count": -(2**63) - 1}, "count is an integer of more than 64 bits"),
    ({"count": 10**5000}, "count is an integer of more than 64 bits"),
    ({"count": "1"}, r"Expected `int`, got `str` - at `\$.count`"),
    ({"count": True}, "Expected `int`, got `bool`"),
    ({"count": None}, "Expected `int`, got `null`"),
    ({"order_id": 5}, r"Expected `str`, got `int` - at `\$.order_id`"),
    ({"lines": [Line("a", 1.0), Line("b", NAN)]}, r"lines\[1\]\['price'\] is not a finite number"),
    ({"lines": [Line("b", 1.0, NAIVE)]}, r"lines\[0\]\['at'\] has no time zone"),
    ({"lines": [Line(5, 1.0)]}, "Expected `str`, got `int`"),
    ({"lines": "abc"}, "Expected `array`, got `str`"),
    ({"prices": {"a": INF}}, r"prices\['a'\] is not a finite number"),
    ({"prices": {"a": "b"}}, "Expected `float`, got `str`"),
    ({"free": {"a": [{"b": NAN}]}}, r"free\['a'\]\[0\]\['b'\] is not a finite number"),
    ({"free": {NAN: 1}}, "is not a finite number"),
    ({"free": {"a": NAIVE}}, r"free\['a'\] has no time zone"),
    ({"free": {"a": 2**64}}, r"free\['a'\] is an integer of more than 64 bits"),
    ({"free": {"a": Opaque()}}, "Opaque"),
    ({"anything": Decimal("NaN")}, "anything is not a finite number"),
    ({"anything": Line("b", NAN)}, "is not a finite number"),
    ({"anything": object()}, "object"),
    ({"tags": {1}}, "Expected `str`, got `int`"),
    ({"code": "\ud800"}, "surrogates not allowed"),
    ({"code": "abcde"}, "Expected `str` of length <= 4"),
    ({"code": ""}, "Expected `str` of length >= 1"),
    ({"order_id": Text("1")}, "type Text is unsupported"),
    ({"rating": 6}, "Expected `int` <= 5"),
    ({"colour": "blue"}, "Invalid enum value"),
    ({"size": "xl"}, "Invalid enum value"),
    ({"pair": ("a", "b")}, "Expected `int`, got `str`"),
    ({"pair": ("a", 1, 2)}, "Expected `array` of length 2"),
    ({"size": True}, "got `bool`"),
    ({"tree": Tree(5)}, "Expected `str`, got `int`"),
]


@pytest.mark.parametrize(("changes", "text"), REFUSED, ids=[f"{n}-{'-'.join(c)}" for n, (c, _) in enumerate(REFUSED)])
def test_refused_at_publish(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(EventInvalid, match=text) as caught:
        Registry().encode(Placed(**{"order_id": "1", **changes}))
    assert str(caught.value).startswith("Placed cannot be published")
    assert caught.value.remedy
    left_to_the_writer = text in ("object", "Opaque", "surrogates not allowed")
    assert quick(Placed(**{"order_id": "1", **changes})) == left_to_the_writer


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 3.5},
        {"at": dt.datetime(2026, 7, 1, tzinfo=BERLIN)},
        {"at": NOW.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30)))},
        {"clock": dt.time(3, tzinfo=dt.UTC)},
        {"count": 2**63 - 1},
        {"count": -(2**63)},
        {"weight": 1.7976931348623157e308},
        {"weight": -0.0},
        {"total": Decimal("1.10E+400")},
        {"lines": [Line("a", 1.0, NOW)]},
        {"free": {"a": [1, None, {"b": "c"}]}},
        {"anything": nested(32)},
        {"size": 1},
        {"rating": 5},
        {"tags": {"a", "b"}},
        {"tree": tree(3)},
    ],
)
def test_survives_the_trip(changes: dict[str, Any]) -> None:
    made = Placed(**{"order_id": "1", **changes})
    assert quick(made)
    assert read(made) == made


class Plain(msgspec.Struct, frozen=True):
    name: str
    count: int = 2**62
    weight: float = 1.5


class Holding(Event, type="holding", topic=ORDERS):
    one: Plain | None = None
    many: list[Plain] = []
    some: tuple[Plain, ...] = ()
    named: dict[str, Plain] = {}


@pytest.mark.parametrize(
    "plain",
    [Plain("a", -(2**63) - 1), Plain("a", 1.0), Plain("a", 1, NAN), Plain("a", 1, "1"), Plain(Mock(spec=str))],  # type: ignore[arg-type]
)
def test_plain_structs_within_an_event(plain: Plain) -> None:
    good = Plain("a")
    for hold in (
        lambda each: Holding(one=each),
        lambda each: Holding(many=[good, each]),
        lambda each: Holding(some=(each, good)),
        lambda each: Holding(named={"a": each}),
    ):
        assert quick(hold(good))
        assert read(hold(good)) == hold(good)
        with pytest.raises(EventInvalid):
            Registry().encode(hold(plain))


class Slow(Event, type="slow", topic=ORDERS):
    code: Annotated[str, msgspec.Meta(pattern="^[a-z]+$")] = "a"
    named: NamedPair = NamedPair(1)
    typed: TypedPart = msgspec.field(default_factory=lambda: {"weight": 1.0})
    real: float = 1.0


def test_what_only_the_slow_way_can_judge() -> None:
    for made in (Slow(), Slow(code="abc", named=NamedPair(2)), Slow(real=3)):
        assert not quick(made)
        assert read(made) == made
    for changes, text in (
        ({"code": "A"}, "matching regex"),
        ({"named": NamedPair("a")}, "Expected `int`"),  # type: ignore[arg-type]
        ({"typed": {"weight": "a"}}, "Expected `float`"),
        ({"typed": {"weight": NAN}}, r"typed\['weight'\] is not a finite"),
    ):
        with pytest.raises(EventInvalid, match=text):
            Registry().encode(Slow(**changes))


@pytest.mark.parametrize(
    "changes", [{"anything": nested(33)}, {"free": {"a": nested(32)}}, {"anything": nested(100_000)}]
)
def test_too_deep(changes: dict[str, Any]) -> None:
    with pytest.raises(EventTooLarge, match="is nested deeper than 32 levels\n  → flatten it"):
        Registry().encode(Placed(order_id="1", **changes))


def test_a_type_within_itself_is_bounded_too() -> None:
    with pytest.raises(EventTooLarge, match="nested deeper than 32 levels"):
        Registry().encode(Placed(order_id="1", tree=tree(40)))


def test_too_large() -> None:
    registry = Registry()
    with pytest.raises(
        EventTooLarge, match="Placed cannot be published: it has 1,048,8.. bytes, 1,048,576 are allowed"
    ):
        registry.encode(Placed(order_id="1", anything="x" * 1024 * 1024))
    made = Ticked()
    assert registry.encode(made, 2)
    with pytest.raises(EventTooLarge, match="it has 2 bytes, 1 are allowed"):
        registry.encode(made, 1)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Taken(order_id="1", amount=Decimal("NaN")), "Taken cannot be published: amount is not a finite"),
        (Taken(order_id=5), "Taken cannot be published"),  # type: ignore[arg-type]
        (Taken(order_id="1", lines=[Line("a", INF)]), r"lines\[0\]"),
        (Raised(order_id="1", number=1, at=NAIVE), "at has no time zone"),
        (Raised(order_id="1", number=2**63), "number is an integer of more than 64 bits"),
        (Raised(order_id="1", number=1, part=Part(weight=NAN)), r"part\['weight'\] is not a finite"),
        (Raised.model_construct(order_id="1", number=1, note=5), "Raised cannot be published"),
    ],
)
def test_dataclasses_and_models_are_judged_alike(made: Any, text: str) -> None:
    with pytest.raises(EventInvalid, match=text):
        Registry().encode(made)


def test_a_class_that_cannot_be_wrong_has_no_check() -> None:
    assert spec_of(Ticked).check is None


def test_the_check_stands_alone() -> None:
    check = spec_of(Placed).check
    assert check is not None
    check(Placed(order_id="1"))
    with pytest.raises(EventInvalid, match="weight"):
        check(Placed(order_id="1", weight=NAN))


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes() | st.decimals(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
    max_leaves=6,
)


@given(
    order_id=st.text(min_size=1),
    total=st.decimals() | st.integers(),
    count=st.integers(-(2**65), 2**65) | st.none(),
    weight=st.floats() | st.text(),
    at=st.datetimes(timezones=st.none() | st.timezones()),
    prices=st.dictionaries(st.text(max_size=3), st.floats() | st.integers(), max_size=3),
)
def test_what_is_published_reads_back_the_same_or_is_refused(**values: Any) -> None:
    registry = Registry()
    made = Placed(**values)
    try:
        encoded = registry.encode(made)
    except (EventInvalid, EventTooLarge):
        return
    assert registry.by_type["order.placed"].read(envelope(encoded), "orders") == made


@given(ANY)
def test_free_form_data_is_finite_shallow_and_encodable(value: Any) -> None:
    registry = Registry()
    try:
        encoded = registry.encode(Placed(order_id="1", anything=value))
    except (EventInvalid, EventTooLarge):
        return
    found = registry.by_type["order.placed"].read(envelope(encoded), "orders").anything

    def no_nan(part: Any) -> None:
        assert not (isinstance(part, float) and not math.isfinite(part))
        for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            no_nan(each)

    no_nan(found)


# Reading


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"nonsense", b"\xff\xfe", b'{"order_id":"\xff"}', b"[]", b"null", b"{}", b'{"order_id":1}',
        b'{"order_id":"1"} x', b'{"order_id":"1","anything":' + b"[" * 100_000, b'{"order_id":"1","unknown":' + b"[" * 100_000,
        b'{"order_id":"1","weight":NaN}', b'{"order_id":"1","weight":1e999}', b'{"order_id":"1","at":"2026-01-01T00:00:00"}',
        b'{"order_id":"1","lines":[{"sku":"a","price":1,"at":"2026-01-01T00:00:00"}]}',
        b'{"order_id":"1","clock":"03:00:00"}',
    ],
)  # fmt: skip
def test_what_cannot_be_read(data: bytes) -> None:
    with pytest.raises(DecodeError, match="cannot decode 'order.placed': .") as caught:
        read(Placed(order_id="1"), data=data)
    assert not isinstance(caught.value, NewerVersion)
    assert caught.value.type_name == "order.placed"


def test_unknown_fields_are_ignored() -> None:
    assert read(Ticked(), data=b'{"later":[1]}') == Ticked()
    assert read(Taken(order_id="1"), data=b'{"order_id":"2","later":1}') == Taken(order_id="2")
    raised = Raised(order_id="1", number=1)
    assert read(raised, data=b'{"order_id":"1","number":1,"later":1}') == raised


def test_aliases_of_models() -> None:
    raised = Raised(order_id="1", number=1, remark="hello")
    assert raised.note == "hello"
    assert read(raised) == raised
    assert read(raised, Registry([PackedModel])) == raised
    assert read(PackedModel(remark="hello")).note == "hello"


def test_other_content_types() -> None:
    made = Shipped(order_id="1", parcel=2)
    plain = msgspec.json.encode(made)
    for content_type in ("application/json", "Application/JSON; charset=utf-8", "application/vnd.shop.v1+json"):
        assert read(made, data=plain, content_type=content_type) == made
    assert read(made, content_type="") == made
    for content_type in ("text/xml", "json", "application/octet-stream"):
        with pytest.raises(DecodeError, match="its content type .* is not known"):
            read(made, data=plain, content_type=content_type)


def v1_to_v2(old: dict[str, Any]) -> dict[str, Any]:
    return {"who": old["client"], "price": old["price"]}


def v2_to_v3(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "prices": {1: old.pop("price")}}


class Grown(Event, type="grown", topic=ORDERS, version=3, upcasters={1: v1_to_v2, 2: v2_to_v3}):
    who: str
    prices: dict[int, Decimal]
    at: dt.datetime | None = None


@event(type="grown.model", topic=ORDERS, version=2, upcasters={1: v1_to_v2})
class GrownModel(BaseModel):
    who: str
    price: Decimal


@event(type="grown.data", topic=PACKED, version=2, upcasters={1: v1_to_v2})
@dataclass
class GrownData:
    who: str
    price: Decimal


class Kept(Event, type="kept", topic=ORDERS, version=2, upcasters={1: dict}):
    prices: dict[int, int]


class Grown3(Event, type="grown.late", topic=ORDERS, version=4, upcasters={3: dict}):
    who: str = ""


def test_older_versions_are_upcast() -> None:
    now = Grown(who="c", prices={1: Decimal("1.50")})
    assert read(now) == now
    assert read(now, version=1, data=b'{"client":"c","price":"1.50"}') == now
    assert read(now, version=2, data=b'{"who":"c","price":"1.50"}') == now
    assert (
        read(
            now,
            version=2,
            data=msgspec.msgpack.encode({"who": "c", "price": "1.50"}),
            content_type="application/msgpack",
        )
        == now
    )
    assert read(now, version=2, data=b'{"who":"c","price":"1.50"}') == read(
        now, version=2, data=b'{"price":1.50,"who":"c"}'
    )
    assert read(Kept(prices={1: 2}), version=1, data=b'{"prices":{"1":2}}') == Kept(prices={1: 2})
    model = GrownModel(who="c", price=Decimal("1.50"))
    assert read(model, version=1, data=b'{"client":"c","price":"1.50"}') == model
    data = GrownData(who="c", price=Decimal("1.50"))
    assert read(data, version=1, data=msgspec.msgpack.encode({"client": "c", "price": "1.50"})) == data


@pytest.mark.parametrize(
    ("version", "data", "text"),
    [
        (1, b"[]", "version 1 of it is list, not an object"),
        (1, b"{}", "its upcaster from version 1 raised KeyError"),
        (1, b'{"client":5,"price":"1"}', "Expected `str`, got `int`"),
        (1, b'{"client":"c","price":"x"}', "Invalid decimal"),
        (2, b'{"who":"c","price":"1","at":"2026-01-01T00:00:00"}', "a time in it has no zone"),
        (2, b"{", "truncated"),
        (2, b"[" * 100_000, "nested too deep"),
        (0, b"{}", "it has version 0, and there is no upcaster from 0"),
    ],
)
def test_older_versions_that_cannot_be_read(version: int, data: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        read(Grown(who="c", prices={}), version=version, data=data)


def test_a_version_older_than_the_upcasters() -> None:
    assert read(Grown3(who="c"), version=3, data=b'{"who":"c"}') == Grown3(who="c")
    with pytest.raises(DecodeError, match="it has version 2, and there is no upcaster from 2"):
        read(Grown3(), version=2, data=b"{}")


def test_a_newer_version_is_told_apart() -> None:
    with pytest.raises(NewerVersion) as caught:
        read(Grown(who="c", prices={}), version=4, data=b"whatever", content_type="also/unknown")
    assert (caught.value.version, caught.value.known) == (4, 3)


def test_the_reader_for_the_runner() -> None:
    registry = Registry([Placed])
    binding = registry.by_type["order.placed"]
    data = registry.encode(Placed(order_id="1"))[3]
    assert (binding.version, binding.content_type) == (1, "application/json")
    assert binding.reader("orders", None, data) == Placed(order_id="1")


def test_importing_events_does_not_import_pydantic() -> None:
    import subprocess
    import sys

    code = "import evenflow.registry, sys; sys.exit('pydantic' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": str(Path(checks.__file__).parents[1])}
        ).returncode
        == 0
    )
