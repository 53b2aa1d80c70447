"""What can never change, since logs, stores and other teams hold it. A failure here is a break, not a test to mend."""

import datetime as dt
import enum
import uuid
from dataclasses import dataclass
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from pydantic import BaseModel

from evenflow import cloudevents, envelope, fidelity, ids, registry
from evenflow.codecs.json import JsonCodec
from evenflow.codecs.msgpack import MsgpackCodec
from evenflow.envelope import Envelope
from evenflow.envelopes import packed, unpack_columns
from evenflow.event import Event
from evenflow.topic import Topic

event = import_module("evenflow.event")  # the name `event` of the package is the decorator

TOPIC = Topic("frozen", partitions=1)
CET = dt.timezone(dt.timedelta(hours=1))


class Colour(enum.Enum):
    RED = "red"


class Part(Event):
    n: int


class Struct(Event, type="frozen", topic=TOPIC, key="i"):
    d: Decimal = Decimal("1.50")
    e: Decimal = Decimal("1E+3")
    t: dt.datetime = dt.datetime(2026, 3, 1, 12, 30, 15, tzinfo=dt.UTC)
    u: dt.datetime = dt.datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=CET)
    w: dt.date = dt.date(2026, 3, 1)
    c: dt.time = dt.time(3, 5, tzinfo=dt.UTC)
    p: dt.timedelta = dt.timedelta(days=1, seconds=3)
    i: int = 2**63 - 1
    f: float = 1.0
    g: float = 1e300
    b: bytes = b"\x00\x01\xff"
    k: uuid.UUID = uuid.UUID(int=1)
    o: Colour = Colour.RED
    s: str = 'ü"\n\u2028'
    n: None = None
    x: bool = True
    m: dict[int, tuple[int, ...]] = {}
    q: Part = Part(n=1)


JSON = (
    '{"d":"1.50","e":"1E+3","t":"2026-03-01T12:30:15Z","u":"2026-03-01T12:30:15.250000+01:00","w":"2026-03-01",'
    '"c":"03:05:00Z","p":"P1DT3S","i":9223372036854775807,"f":1.0,"g":1e300,"b":"AAH/",'
    '"k":"00000000-0000-0000-0000-000000000001","o":"red","s":"ü\\"\\n\u2028","n":null,"x":true,"m":{"1":[2]},"q":{"n":1}}'
).encode()


@event.event(type="frozen", topic=TOPIC)
class Model(BaseModel):
    d: Decimal = Decimal("1.50")
    t: dt.datetime = dt.datetime(2026, 3, 1, 12, 30, 15, tzinfo=dt.UTC)
    u: dt.datetime = dt.datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=CET)
    i: int = 2**63 - 1


@event.event(type="frozen", topic=TOPIC)
@dataclass
class Data:
    d: Decimal = Decimal("1.50")
    i: int = -(2**63)


@pytest.mark.parametrize(
    ("made", "data"),
    [
        (Struct(m={1: (2,)}), JSON),
        (
            Model(),
            b'{"d":"1.50","t":"2026-03-01T12:30:15Z","u":"2026-03-01T12:30:15.250000+01:00","i":9223372036854775807}',
        ),
        (Data(), b'{"d":"1.50","i":-9223372036854775808}'),
    ],
)
def test_json_of_the_types(made: Any, data: bytes) -> None:
    known = registry.Registry([type(made)])
    assert known.encode(made)[3] == data
    assert known.by_type["frozen"].reader("frozen", None, data) == made


def test_codec_names() -> None:
    found = [(each.name, each.content_type) for each in (JsonCodec(), MsgpackCodec())]
    assert found == [("json", "application/json"), ("msgpack", "application/msgpack")]
    assert Topic("a").codec == "json"


def test_limits_do_not_shrink() -> None:
    assert (ids.SLOTS, ids.NAME_LIMIT, event.KEY_LIMIT) == (256, 100, 1024)
    assert (fidelity.DEPTH_LIMIT, registry.SIZE_LIMIT) == (32, 1024 * 1024)


def test_alphabet_of_names() -> None:
    inside = {chr(each) for each in range(0x3000) if ids.is_name(f"a{chr(each)}a")}
    first = {chr(each) for each in range(0x3000) if ids.is_name(chr(each))}
    assert inside == set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert first == set("abcdefghijklmnopqrstuvwxyz")


def test_envelope_as_kept_in_logs() -> None:
    assert Envelope.__struct_fields__ == (
        "id", "source", "type", "version", "key", "slot", "time", "data", "producer", "number",
        "correlation", "causation", "content_type", "headers",
    )  # fmt: skip
    made = Envelope("i", "s", "t", 1, "k", 5, 1.5, b"d", "p", 7, "c", "a", "application/json", {"x": "y"})
    packed = (
        b"\x91\x9e\xa1i\xa1s\xa1t\x01\xa1k\x05\xcb?\xf8\x00\x00\x00\x00\x00\x00\xc4\x01d\xa1p\x07\xa1c\xa1a"
        b"\xb0application/json\x81\xa1x\xa1y"
    )
    assert envelope.pack([made]) == packed
    assert envelope.unpack(packed) == [made]
    shorter = b"\x91\x98\xa1i\xa1s\xa1t\x01\xc0\x05\xcb?\xf8\x00\x00\x00\x00\x00\x00\xc4\x01d"
    assert envelope.unpack(shorter) == [Envelope("i", "s", "t", 1, None, 5, 1.5, b"d")]
    later = b"\x91\x9f" + packed[2:] + b"\xa5later"
    assert envelope.unpack(later) == [made]


def test_runs_of_envelopes_as_the_embedded_log_keeps_them() -> None:
    one = Envelope("i1", "s", "t", 1, "k", 5, 1.5, b"d", "p", 7, "c", "a", "application/json", {"x": "y"})
    two = Envelope("i2", "s", "u", 1, None, 6, 2.5, b"e", "p", 8)
    alone = (
        b"\x99\x91\xc4\x01d\x91\x05\x91\x07\xa1t\x01\xb0application/json\xa1p\xa2i1\xc4\x17\x96\xa1s\xa1"
        b"k\xcb?\xf8\x00\x00\x00\x00\x00\x00\xa1c\xa1a\x81\xa1x\xa1y"
    )
    both = (
        b"\x99\x92\xc4\x01d\xc4\x01e\x92\x05\x06\x92\x07\x08\x92\xa1t\xa1u\x01\xb0application/json\xa1p\xa4"
        b"i1i2\xc4)\x96\xa1s\x92\xa1k\xc0\x92\xcb?\xf8\x00\x00\x00\x00\x00\x00\xcb@\x04\x00\x00\x00\x00\x00\x00\x92\xa1c\xa0\x92\xa1a\xa0"
        b"\x92\x81\xa1x\xa1y\xc0"
    )
    assert packed([one])[1] == alone
    assert packed([one, two])[1] == both
    assert list(unpack_columns(alone)) == [one]
    assert list(unpack_columns(both)) == [one, two]


def test_cloudevents_names() -> None:
    assert {
        "specversion", "id", "source", "type", "time", "datacontenttype", "partitionkey", "dataversion",
        "correlationid", "causationid", "data", "data_base64",
    } == cloudevents._OWN  # fmt: skip
    assert (cloudevents.KAFKA, cloudevents.HTTP, cloudevents.AMQP) == ("ce_", "ce-", "cloudEvents_")
    assert (cloudevents.PRODUCER, cloudevents.NUMBER, cloudevents.SLOT) == (
        "evenflow-producer", "evenflow-number", "evenflow-slot",
    )  # fmt: skip
    assert cloudevents.STRUCTURED == "application/cloudevents+json"
