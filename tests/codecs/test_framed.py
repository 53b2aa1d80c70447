"""Codecs with a registry: bytes as the real libraries and Confluent's framing have them, both ways."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import fastavro
import msgspec
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from small_registry import SmallRegistry, small_registry

from evenflow.codec import SchemaCodec
from evenflow.codecs.avro import AvroCodec
from evenflow.codecs.framed import FramedCodec
from evenflow.codecs.json_schema import JsonSchemaCodec
from evenflow.codecs.protobuf import ProtobufCodec
from evenflow.codecs.schema_registry import SchemaRegistry
from evenflow.codecs.schemas import MemorySchemas, Schemas
from evenflow.errors import DecodeError, DefinitionError, EventInvalid, Refused, SchemasUnavailable
from evenflow.event import Event, event, spec_of
from evenflow.registry import Registry
from evenflow.topic import Topic

AVRO = Topic("payments", codec="avro")
PROTO = Topic("payments", codec="protobuf")
JSON = Topic("payments", codec="json-schema")
SETTLED = {
    "type": "record",
    "name": "PaymentSettled",
    "namespace": "acme",
    "fields": [
        {"name": "payment_id", "type": "string"},
        {"name": "cents", "type": "int"},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "ref", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
TEXT = json.dumps(SETTLED)


class Settled(Event, type="payment.settled", topic=AVRO):
    payment_id: str
    cents: int
    total: Decimal
    at: dt.datetime
    ref: UUID
    note: str | None = None


PAID = Settled(
    payment_id="p-1",
    cents=500,
    total=Decimal("5.00"),
    at=dt.datetime(2026, 1, 2, 3, 4, 5, 678000, dt.UTC),
    ref=UUID(int=7),
)


@pytest.fixture
def registry() -> Iterator[SmallRegistry]:
    with small_registry() as made:
        yield made


def avro(schema: Any, number: int, content: Any) -> bytes:
    """As Confluent's serializer writes it."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), content)
    return b"\0" + number.to_bytes(4, "big") + stream.getvalue()


def learnt(codec: FramedCodec, schemas: Schemas, *classes: type, data: tuple[bytes, ...] = ()) -> Registry:
    """The registry of these classes, once the codec has learnt what they need, and what these bytes need."""

    async def learn() -> None:
        await codec.learn(schemas, [spec_of(cls) for cls in classes], lambda name: f"prod.{name}")
        await codec.prepare(data)

    asyncio.run(learn())
    return Registry(classes, [codec])


def read(registry: Registry, cls: type, data: bytes) -> Any:
    binding = registry.by_type[spec_of(cls).type]
    assert binding.decode is not None  # the swift way through a batch takes it
    try:
        return binding.decode(data)
    except SchemasUnavailable:
        raise
    except Exception as error:
        raise binding.failure(error) from error


def content() -> dict[str, Any]:
    return {"payment_id": "p-1", "cents": 500, "total": PAID.total, "at": PAID.at, "ref": PAID.ref, "note": None}


# -- Avro ---------------------------------------------------------------------------------------------------------


def test_avro_is_read_by_its_writers_schema_which_is_asked_for_once(registry: SmallRegistry) -> None:
    number = registry.add("prod.payments-value", TEXT)
    data = avro(SETTLED, number, content())
    assert data.hex().startswith(f"00{number:08x}06702d31")
    codec = AvroCodec()
    assert isinstance(codec, SchemaCodec)
    known = learnt(codec, SchemaRegistry(registry.url), data=(data, data))
    classes = Registry([Settled], [codec])
    assert known.by_type == {}
    assert read(classes, Settled, data) == read(classes, Settled, data) == PAID
    assert registry.asked == [f"GET /schemas/ids/{number}"]
    assert codec.loads("payments", None, data)["cents"] == 500


def test_an_older_writer_is_resolved_to_the_schema_of_the_class(registry: SmallRegistry) -> None:
    fields = [
        {"name": "id", "type": "string"},
        {"name": "cents", "type": "int"},
        {"name": "gone", "type": "string"},
    ]
    old = {"type": "record", "name": "Small", "fields": fields}
    new = {
        "type": "record",
        "name": "Small",
        "fields": [
            {"name": "payment_id", "type": "string", "aliases": ["id"]},
            {"name": "cents", "type": "double"},
            {"name": "currency", "type": "string", "default": "EUR"},
        ],
    }

    class Small(Event, type="payment.small", topic=AVRO):
        payment_id: str
        cents: float
        currency: str

    number = registry.add("prod.payments-value", json.dumps(old))
    data = avro(old, number, {"id": "p-1", "cents": 5, "gone": "x"})
    classes = learnt(AvroCodec({Small: new}), SchemaRegistry(registry.url), Small, data=(data,))
    assert read(classes, Small, data) == Small(payment_id="p-1", cents=5.0, currency="EUR")


def test_another_registry_may_number_otherwise() -> None:
    class Count(Event, type="count", topic=AVRO):
        n: float

    codec = AvroCodec()
    for kind in ("int", "double"):
        schema = {"type": "record", "name": "Count", "fields": [{"name": "n", "type": kind}]}
        schemas = MemorySchemas()
        asyncio.run(schemas.register("prod.payments-value", "AVRO", json.dumps(schema)))
        data = avro(schema, 1, {"n": 3})
        assert read(learnt(codec, schemas, Count, data=(data,)), Count, data) == Count(n=3)


def test_schemas_that_refer_to_others_are_put_together(registry: SmallRegistry) -> None:
    money = {"type": "record", "name": "Money", "namespace": "acme", "fields": [{"name": "cents", "type": "long"}]}
    outer = {"type": "record", "name": "acme.Bill", "fields": [{"name": "sum", "type": "acme.Money"}]}
    registry.add("money", json.dumps(money))
    number = registry.add(
        "prod.payments-value",
        json.dumps(outer),
        references=[{"name": "acme.Money", "subject": "money", "version": 1}],
    )

    class Bill(Event, type="bill", topic=AVRO):
        sum: dict[str, int]

    data = b"\0" + number.to_bytes(4, "big") + b"\x0e"
    classes = learnt(AvroCodec(), SchemaRegistry(registry.url), Bill, data=(data,))
    assert read(classes, Bill, data) == Bill(sum={"cents": 7})
    assert classes.encode(Bill(sum={"cents": 7}))[3] == data


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda data: data[4:], "does not begin with the number of a schema"),
        (lambda data: b"\0\0\0", "does not begin with the number of a schema"),
        (lambda data: b"\0\0\0\0\x63" + data[5:], "has no schema 99"),
        (lambda data: b"\0\0\0\0\x02" + data[5:], "is of PROTOBUF"),
        (lambda data: data[:-3], "cannot decode"),
        (lambda data: data + b"\0", "longer than what schema 1 describes"),
    ],
)
def test_broken_avro_is_the_fault_of_the_event(
    registry: SmallRegistry, broken: Callable[[bytes], bytes], reason: str
) -> None:
    number = registry.add("prod.payments-value", TEXT)
    registry.add("other", "syntax", "PROTOBUF")
    data = broken(avro(SETTLED, number, content()))
    classes = learnt(AvroCodec(), SchemaRegistry(registry.url), Settled, data=(data,))
    with pytest.raises(DecodeError, match=reason):
        read(classes, Settled, data)


def test_avro_is_written_with_the_latest_schema_of_its_subject(registry: SmallRegistry) -> None:
    registry.add("prod.payments-value", json.dumps({**SETTLED, "fields": SETTLED["fields"][:2]}))
    number = registry.add("prod.payments-value", TEXT)
    classes = learnt(AvroCodec(), SchemaRegistry(registry.url), Settled)
    spec, key, _slot, data, content_type = classes.encode(PAID)
    assert (spec.type, key, content_type) == ("payment.settled", None, "application/vnd.confluent.avro")
    assert data == avro(SETTLED, number, content())


def test_times_and_numbers_may_be_text_in_avro(registry: SmallRegistry) -> None:
    fields = [{"name": name, "type": "string"} for name in ("payment_id", "total", "at", "ref")]
    fields.append({"name": "cents", "type": "long"})
    text = {"type": "record", "name": "Settled", "fields": fields}
    number = registry.add("prod.payments-value", json.dumps(text))
    loose = {"type": "record", "name": "Settled", "fields": [*fields, {"name": "note", "type": ["null", "string"]}]}
    number = registry.add("prod.payments-value", json.dumps(loose))
    codec = AvroCodec()
    learnt(codec, SchemaRegistry(registry.url), Settled)
    data = Registry([Settled], [codec]).encode(PAID)[3]
    classes = learnt(codec, SchemaRegistry(registry.url), Settled, data=(data,))
    assert int.from_bytes(data[1:5], "big") == number
    assert read(classes, Settled, data) == PAID


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({**SETTLED, "fields": SETTLED["fields"][:5]}, "note"),  # a field would be lost
        ({**SETTLED, "fields": [*SETTLED["fields"], {"name": "new", "type": "string"}]}, "new"),
    ],
)
def test_an_event_that_its_schema_has_no_place_for_is_refused(
    registry: SmallRegistry, schema: dict[str, Any], reason: str
) -> None:
    registry.add("prod.payments-value", json.dumps(schema))
    classes = learnt(AvroCodec(), SchemaRegistry(registry.url), Settled)
    with pytest.raises(EventInvalid, match=reason):
        classes.encode(PAID)


def test_what_a_class_is_written_with_has_to_be_there_or_is_registered(registry: SmallRegistry) -> None:
    schemas = SchemaRegistry(registry.url)
    for codec, reason in ((AvroCodec(), "has no schema for"), (AvroCodec({Settled: TEXT}), "does not have its schema")):
        with pytest.raises(EventInvalid, match=f"{reason}|'prod.payments-value' {reason}"):
            learnt(codec, schemas, Settled).encode(PAID)
    assert registry.schemas == {}
    classes = learnt(AvroCodec({Settled: SETTLED}, register=True), schemas, Settled)
    assert list(registry.subjects) == ["prod.payments-value"]
    data = classes.encode(PAID)[3]
    assert data == learnt(AvroCodec({Settled: TEXT}), schemas, Settled).encode(PAID)[3] == avro(SETTLED, 1, content())
    with pytest.raises(Refused, match="Settled has no schema that could be registered"):
        learnt(AvroCodec(register=True), schemas, Settled)


def test_a_schema_that_does_not_fit_those_before_it_is_refused(registry: SmallRegistry) -> None:
    registry.add("prod.payments-value", '"string"')
    registry.misfits["prod.payments-value"] = "READER_FIELD_MISSING_DEFAULT_VALUE: cents"
    with pytest.raises(Refused, match="READER_FIELD_MISSING_DEFAULT_VALUE: cents") as refused:
        learnt(AvroCodec({Settled: TEXT}, register=True), SchemaRegistry(registry.url), Settled)
    assert "a default for what is new" in refused.value.remedy
    with pytest.raises(Refused, match="refuses the schema for 'prod.payments-value': READER_FIELD"):
        asyncio.run(SchemaRegistry(registry.url).register("prod.payments-value", "AVRO", TEXT))


def test_a_schema_of_avro_is_looked_at_where_it_is_given() -> None:
    with pytest.raises(DefinitionError, match="the schema of Settled is no Avro schema"):
        AvroCodec({Settled: {"type": "recrod"}})


@settings(deadline=None)
@given(
    st.builds(
        Settled,
        payment_id=st.text(max_size=10),
        cents=st.integers(-(2**31), 2**31 - 1),
        total=st.decimals(-(10**7), 10**7, places=2, allow_nan=False, allow_infinity=False),
        at=st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC)).map(
            lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
        ),
        ref=st.uuids(),
        note=st.none() | st.text(max_size=5),
    )
)
def test_what_was_written_in_avro_is_read_again(paid: Settled) -> None:
    classes = learnt(AvroCodec({Settled: TEXT}), MemorySchemas(), Settled)
    assert read(classes, Settled, classes.encode(paid)[3]) == paid


@event(type="payment.settled", topic=AVRO)
@dataclass(frozen=True)
class SettledData:
    payment_id: str
    total: Decimal
    at: dt.datetime


@event(type="payment.settled", topic=AVRO)
class SettledModel(BaseModel):
    payment_id: str
    total: Decimal
    at: dt.datetime


@pytest.mark.parametrize("cls", [SettledData, SettledModel])
def test_dataclasses_and_models_are_read_and_written(cls: type) -> None:
    schema = {**SETTLED, "fields": [SETTLED["fields"][n] for n in (0, 2, 3)]}
    classes = learnt(AvroCodec({cls: schema}), MemorySchemas(), cls)
    paid = cls(payment_id="p-1", total=PAID.total, at=PAID.at)
    assert read(classes, cls, classes.encode(paid)[3]) == paid


# -- Protobuf -------------------------------------------------------------------------------------------------------


def messages() -> dict[str, Any]:
    """As protoc makes them of: message Other { message Inner {int64 n = 1;} }  message Settled {…}"""
    file = descriptor_pb2.FileDescriptorProto(name="acme/payments.proto", package="acme", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    kinds = descriptor_pb2.FieldDescriptorProto
    other, settled = file.message_type.add(name="Other"), file.message_type.add(name="Settled")
    inner = other.nested_type.add(name="Inner")
    inner.field.add(name="n", number=1, type=kinds.TYPE_INT64, label=kinds.LABEL_OPTIONAL)
    for number, (name, kind) in enumerate(
        {"payment_id": kinds.TYPE_STRING, "cents": kinds.TYPE_INT64, "proof": kinds.TYPE_BYTES}.items(), 1
    ):
        settled.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    settled.field.add(
        name="at", number=4, type=kinds.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp", label=kinds.LABEL_OPTIONAL
    )
    settled.field.add(name="tags", number=5, type=kinds.TYPE_STRING, label=kinds.LABEL_REPEATED)
    rich = file.message_type.add(name="Rich")
    state = file.enum_type.add(name="State")
    for number, name in enumerate(("OPEN", "DONE")):
        state.value.add(name=name, number=number)
    entry = rich.nested_type.add(name="CountsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL)
    for number, (name, kind, type_name, label) in enumerate(
        [
            ("state", kinds.TYPE_ENUM, ".acme.State", kinds.LABEL_OPTIONAL),
            ("counts", kinds.TYPE_MESSAGE, ".acme.Rich.CountsEntry", kinds.LABEL_REPEATED),
            ("inner", kinds.TYPE_MESSAGE, ".acme.Other.Inner", kinds.LABEL_OPTIONAL),
            ("more", kinds.TYPE_MESSAGE, ".acme.Rich", kinds.LABEL_REPEATED),
            ("states", kinds.TYPE_ENUM, ".acme.State", kinds.LABEL_REPEATED),
        ],
        1,
    ):
        rich.field.add(name=name, number=number, type=kind, type_name=type_name, label=label)
    rich.field.add(name="maybe", number=6, type=kinds.TYPE_DOUBLE, label=kinds.LABEL_OPTIONAL, proto3_optional=True)
    rich.oneof_decl.add(name="_maybe")
    rich.field[-1].oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    stamp = descriptor_pb2.FileDescriptorProto()
    from google.protobuf import timestamp_pb2

    timestamp_pb2.DESCRIPTOR.CopyToProto(stamp)
    pool.Add(stamp)
    pool.Add(file)
    names = ("Other", "Other.Inner", "Settled", "Rich")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"acme.{name}")) for name in names}


MESSAGES = messages()


class Proto(Event, type="payment.proto", topic=PROTO):
    payment_id: str
    cents: int
    proof: bytes
    at: dt.datetime | None = None
    tags: list[str] = []


class Nested(Event, type="payment.nested", topic=PROTO):
    n: int


class Inner(msgspec.Struct, frozen=True):
    n: int


class State(enum.Enum):
    OPEN = "OPEN"
    DONE = "DONE"


class Part(msgspec.Struct, frozen=True):
    state: State = State.OPEN
    counts: dict[str, int] = {}
    inner: Inner | None = None
    more: list[Part] = []
    states: list[State] = []
    maybe: float | None = None


class Rich(Event, type="payment.rich", topic=PROTO):
    state: State
    counts: dict[str, int]
    more: list[Part]
    states: list[State]
    inner: Inner | None = None
    maybe: float | None = None


class First(Event, type="payment.first", topic=PROTO):
    pass


def test_protobuf_is_read_without_the_registry(registry: SmallRegistry) -> None:
    message = MESSAGES["Settled"](payment_id="p-1", cents=2**40, proof=b"\0\xff", tags=["a"])
    message.at.FromDatetime(PAID.at)
    codec = ProtobufCodec({Proto: MESSAGES["Settled"]})
    classes = Registry([Proto], [codec])
    for path in (b"\x02\x02", b"\x04\x02\x00", b"\x00"):  # [1], [1, 0], the first
        data = b"\0\0\0\0\x07" + path + message.SerializeToString()
        assert read(classes, Proto, data) == Proto(
            payment_id="p-1", cents=2**40, proof=b"\0\xff", at=PAID.at, tags=["a"]
        )
    assert codec.loads("", None, data)["cents"] == 2**40
    empty = b"\0\0\0\0\x07\x00"
    assert read(classes, Proto, empty) == Proto(payment_id="", cents=0, proof=b"")  # what is 0 is not sent
    assert registry.asked == []


@pytest.mark.parametrize(
    ("cls", "name", "path"), [(First, "Other", b"\0"), (Nested, "Other.Inner", b"\4\0\0"), (Proto, "Settled", b"\2\2")]
)
def test_protobuf_says_which_message_of_its_file_it_is(
    registry: SmallRegistry, cls: type, name: str, path: bytes
) -> None:
    number = registry.add("prod.payments-value", 'syntax = "proto3"; …', "PROTOBUF")
    values = {Proto: {"payment_id": "p-1", "cents": 5, "proof": b"x"}, Nested: {"n": 3}, First: {}}[cls]
    classes = learnt(ProtobufCodec({cls: MESSAGES[name]}), SchemaRegistry(registry.url), cls)
    data = classes.encode(cls(**values))[3]
    assert data == b"\0" + number.to_bytes(4, "big") + path + MESSAGES[name](**values).SerializeToString()
    assert read(classes, cls, data) == cls(**values)


@pytest.mark.parametrize("maybe", [None, 0.0, 1.5])
def test_messages_within_messages_maps_and_enums_are_read_and_written(maybe: float | None) -> None:
    rich = Rich(
        state=State.DONE,
        counts={"a": 1},
        more=[Part(inner=Inner(n=2), more=[Part(state=State.DONE)]), Part()],
        states=[State.OPEN, State.DONE],
        inner=Inner(n=2**50),
        maybe=maybe,
    )
    classes = learnt(ProtobufCodec({Rich: MESSAGES["Rich"]}, register=True), MemorySchemas(), Rich)
    data = classes.encode(rich)[3]
    assert read(classes, Rich, data) == rich
    assert data[5:7] == b"\x02\x04"
    message = MESSAGES["Rich"].FromString(data[7:])
    assert (message.state, dict(message.counts), message.inner.n) == (1, {"a": 1}, 2**50)
    assert message.HasField("maybe") is (maybe is not None)


@pytest.mark.parametrize("tail", [b"", b"\x04\x02", b"\x80" * 9, b"\x01", b"\0\x0a\xff", b"\0\x0a\x02\xff\xff"])
def test_broken_protobuf_is_the_fault_of_the_event(tail: bytes) -> None:
    with pytest.raises(DecodeError):
        read(Registry([Proto], [ProtobufCodec({Proto: MESSAGES["Settled"]})]), Proto, b"\0\0\0\0\x07" + tail)


def test_a_model_holds_the_bytes_that_were_sent() -> None:
    @event(type="payment.proof", topic=PROTO)
    class Proof(BaseModel):
        proof: bytes

    codec = ProtobufCodec({Proof: MESSAGES["Settled"]}, register=True)
    classes = learnt(codec, MemorySchemas(), Proof)
    data = classes.encode(Proof(proof=b"\0\xff"))[3]
    assert read(classes, Proof, data).proof == b"\0\xff"
    assert data.endswith(MESSAGES["Settled"](proof=b"\0\xff").SerializeToString())


def test_a_proto_file_is_registered_as_its_descriptor(registry: SmallRegistry) -> None:
    learnt(ProtobufCodec({Proto: MESSAGES["Settled"]}, register=True), SchemaRegistry(registry.url), Proto)
    assert registry.schemas[1]["schemaType"] == "PROTOBUF"
    assert registry.asked[-1] == "POST /subjects/prod.payments-value/versions"


def test_a_class_without_a_message_is_refused() -> None:
    with pytest.raises(DefinitionError, match="Proto has no message class"):
        Registry([Proto], [ProtobufCodec({})])
    with pytest.raises(DefinitionError, match="is no message class"):
        ProtobufCodec({Proto: dict})


def test_a_field_that_its_message_does_not_have_is_refused() -> None:
    codec = ProtobufCodec({Proto: MESSAGES["Other"]}, register=True)
    with pytest.raises(EventInvalid, match="payment_id"):
        learnt(codec, MemorySchemas(), Proto).encode(Proto(payment_id="p", cents=1, proof=b""))


# -- JSON Schema ----------------------------------------------------------------------------------------------------


class Json(Event, type="payment.json", topic=JSON):
    payment_id: str
    cents: int


def test_json_with_a_schema_is_json_in_a_frame(registry: SmallRegistry) -> None:
    codec = JsonSchemaCodec(register=True)
    classes = learnt(codec, SchemaRegistry(registry.url), Json)
    data = classes.encode(Json(payment_id="p", cents=5))[3]
    assert data == b'\0\0\0\0\x01{"payment_id":"p","cents":5}'
    assert read(classes, Json, data) == Json(payment_id="p", cents=5)
    assert codec.loads("", None, data) == {"payment_id": "p", "cents": 5}
    assert json.loads(registry.schemas[1]["schema"])["$defs"]["Json"]["required"] == ["payment_id", "cents"]
    for broken in (b'{"payment_id":"p","cents":5}', b'\0\0\0\0\x01{"cents":5}'):
        with pytest.raises(DecodeError):
            read(classes, Json, broken)


def test_json_is_checked_against_the_schema_of_others(registry: SmallRegistry) -> None:
    rules = {"type": "object", "properties": {"cents": {"type": "integer", "maximum": 100}}}
    registry.add("prod.payments-value", json.dumps(rules), "JSON")
    classes = learnt(JsonSchemaCodec(), SchemaRegistry(registry.url), Json)
    assert classes.encode(Json(payment_id="p", cents=100))[3].startswith(b"\0\0\0\0\x01{")
    with pytest.raises(EventInvalid, match="cents does not fit schema 1: 101 is greater"):
        classes.encode(Json(payment_id="p", cents=101))


def test_a_subject_of_another_kind_is_refused(registry: SmallRegistry) -> None:
    registry.add("prod.payments-value", TEXT)
    with pytest.raises(EventInvalid, match="is of AVRO, and the codec of its topic is 'json-schema'"):
        learnt(JsonSchemaCodec(), SchemaRegistry(registry.url), Json).encode(Json(payment_id="p", cents=1))
