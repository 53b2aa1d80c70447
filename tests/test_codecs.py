"""Codecs: both say the same about the same class, whatever kind of class it is."""

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypedDict

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict

from evenflow.checks import zone_test
from evenflow.codec import Codec, Reader, Writer
from evenflow.codecs.json import JsonCodec
from evenflow.codecs.msgpack import MsgpackCodec
from evenflow.envelope import Envelope
from evenflow.event import Event, EventSpec, event, spec_of
from evenflow.registry import Registry
from evenflow.topic import Topic

ORDERS = Topic("orders", partitions=1)
VALUES: dict[str, Any] = {
    "text": "Größe \U0001f600 \x00",
    "total": Decimal("1.500"),
    "whole": -(2**63),
    "real": 0.1,
    "flag": True,
    "at": dt.datetime(2026, 3, 1, 12, 30, 15, 250001, tzinfo=dt.UTC),
    "day": dt.date(2026, 3, 1),
    "took": dt.timedelta(days=1, microseconds=5),
    "who": uuid.UUID(int=5),
    "raw": "kept",
    "none": None,
    "numbers": [1, 2],
}


class Struct(Event, type="struct", topic=ORDERS):
    text: str
    total: Decimal
    whole: int
    real: float
    flag: bool
    at: dt.datetime
    day: dt.date
    took: dt.timedelta
    who: uuid.UUID
    raw: str
    none: str | None
    numbers: list[int]


@event(type="data", topic=ORDERS)
@dataclass(frozen=True, kw_only=True)
class Data:
    text: str
    total: Decimal
    whole: int
    real: float
    flag: bool
    at: dt.datetime
    day: dt.date
    took: dt.timedelta
    who: uuid.UUID
    raw: str
    none: str | None
    numbers: list[int]


@event(type="model", topic=ORDERS)
class Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    text: str
    total: Decimal
    whole: int
    real: float
    flag: bool
    at: dt.datetime
    day: dt.date
    took: dt.timedelta
    who: uuid.UUID
    raw: str
    none: str | None
    numbers: list[int]


CODECS = [JsonCodec(), MsgpackCodec()]
CLASSES = [Struct, Data, Model]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("cls", CLASSES)
def test_round_trip(codec: Codec, cls: Any) -> None:
    spec = spec_of(cls)
    made = cls(**VALUES)
    data = codec.writer(spec)(made)
    assert type(data) is bytes
    assert codec.reader(spec)("orders", None, data) == made
    plain = codec.loads("orders", {"a": "b"}, data)
    assert list(plain) == list(VALUES)
    assert (plain["total"], plain["whole"], plain["none"]) == ("1.500", -(2**63), None)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("writer", CLASSES)
@pytest.mark.parametrize("reader", CLASSES)
def test_one_kind_of_class_reads_what_another_wrote(codec: Codec, writer: Any, reader: Any) -> None:
    data = codec.writer(spec_of(writer))(writer(**VALUES))
    assert codec.reader(spec_of(reader))("orders", None, data) == reader(**VALUES)


class Leaf(msgspec.Struct):
    text: str


class Leaves(Event, type="leaves", topic=ORDERS):
    leaves: list[Leaf]
    anything: Any = None


class Timed(Event, type="timed", topic=ORDERS):
    at: dt.datetime | None = None
    times: dict[str, list[dt.datetime]] = {}
    pair: tuple[int, dt.time] = (1, dt.time(0, tzinfo=dt.UTC))


class Node(msgspec.Struct):
    at: dt.datetime | None = None
    nodes: "list[Node]" = []


class Typed(TypedDict):
    at: dt.datetime


class TimedMore(Event, type="timed.more", topic=ORDERS):
    either: dt.datetime | int | None = None
    typed: Typed | None = None
    node: Node | None = None
    harmless: Leaf | None = None


@event(type="timed.model", topic=ORDERS)
class TimedModel(BaseModel):
    at: dt.datetime | None = None
    real: float = 1.0


@event(type="timed.data", topic=ORDERS)
@dataclass
class TimedData:
    at: dt.datetime | None = None


NAIVE = "2026-03-01T12:30:15"


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize(
    ("cls", "content"),
    [
        (Timed, {"at": NAIVE}),
        (Timed, {"times": {"a": [NAIVE + "Z", NAIVE]}}),
        (Timed, {"pair": [1, "03:00:00"]}),
        (TimedData, {"at": NAIVE}),
        (TimedModel, {"at": NAIVE}),
        (TimedMore, {"either": NAIVE}),
        (TimedMore, {"typed": {"at": NAIVE}}),
        (TimedMore, {"node": {"at": NAIVE}}),
        (TimedMore, {"node": {"nodes": [{"nodes": [{"at": NAIVE}]}]}}),
    ],
)
def test_times_need_a_zone(codec: Codec, cls: type, content: dict[str, Any]) -> None:
    form = msgspec.json if codec.name == "json" else msgspec.msgpack
    read = codec.reader(spec_of(cls))
    with pytest.raises(ValueError, match="a time in it has no zone"):
        read("orders", None, form.encode(content))
    assert read("orders", None, form.encode({})) == cls()


def test_times_with_a_zone_are_read() -> None:
    read = JsonCodec().reader(spec_of(Timed))
    assert read("orders", None, b"{}") == Timed()
    text = b'{"at":"2026-03-01T12:30:15+01:00","times":{"a":["2026-03-01T12:30:15Z"]},"pair":[1,"03:00:00Z"]}'
    at = dt.datetime(2026, 3, 1, 11, 30, 15, tzinfo=dt.UTC)
    assert read("orders", None, text).at == at


def test_every_place_of_a_time_may_hold_one_with_a_zone() -> None:
    read = JsonCodec().reader(spec_of(TimedMore))
    for place in (
        '{"either":%s}',
        '{"typed":{"at":%s}}',
        '{"node":{"nodes":[{"at":%s}]}}',
        '{"either":5,"harmless":{"text":"a"}}',
    ):
        text = (place % f'"{NAIVE}Z"' if "%" in place else place).encode()
        assert read("orders", None, text) != TimedMore()


def test_classes_without_times_pay_nothing_for_them() -> None:
    assert zone_test(Leaves) is None
    assert zone_test(TimedMore) is not None


class Upper:
    """A team's own codec, which sees topic and headers."""

    name = "upper"
    content_type = "text/upper"
    seen: list[tuple[str, Mapping[str, str] | None]] = []

    def writer(self, spec: EventSpec) -> Writer:
        return lambda made: made.text.upper().encode()

    def reader(self, spec: EventSpec) -> Reader:
        def read(topic: str, headers: Mapping[str, str] | None, data: bytes) -> Any:
            self.seen.append((topic, headers))
            return spec.cls(text=data.decode())

        return read

    def loads(self, topic: str, headers: Mapping[str, str] | None, data: bytes) -> Any:
        return {"text": data.decode()}


class Shout(Event, type="shout", topic=Topic("shouts", codec="upper"), version=2, upcasters={1: dict}):
    text: str


def test_a_codec_of_a_team() -> None:
    codec = Upper()
    registry = Registry([Shout], [codec])
    spec, key, slot, data, content_type = registry.encode(Shout(text="hey"))
    assert (data, content_type) == (b"HEY", "text/upper")
    sent = Envelope("1", "s", spec.type, 2, key, slot, 1.0, data, content_type=content_type, headers={"schema": "7"})
    binding = registry.by_type["shout"]
    assert binding.read(sent, "shouts") == Shout(text="HEY")
    assert codec.seen == [("shouts", {"schema": "7"})]
    assert binding.read(msgspec.structs.replace(sent, version=1), "shouts") == Shout(text="HEY")
    assert binding.read(
        msgspec.structs.replace(sent, content_type="application/json", data=b'{"text":"x"}'), "shouts"
    ) == Shout(text="x")
