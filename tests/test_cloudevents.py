"""CloudEvents 1.0, both modes, both ways; the vectors are frozen."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenflow import cloudevents as ce
from evenflow.envelope import Envelope
from evenflow.errors import DecodeError, EventInvalid
from evenflow.ids import slot_of

FULL = Envelope(
    id="018bcfe5-687b-7000-8000-000000000001",
    source="orders",
    type="order.placed",
    version=2,
    key="ö 1",
    slot=slot_of("ö 1"),
    time=1_700_000_000.25,
    data=b'{"order_id": "\xc3\xb6 1"}',
    producer="p-1",
    number=17,
    correlation="c-1",
    causation="e-0",
    headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant": 'a "b"%'},
)
BARE = Envelope(
    id="1", source="/stranger", type="com.example.Thing", version=1, key=None, slot=slot_of("1"), time=0.0, data=b""
)

STRUCTURED = (
    b'{"specversion":"1.0","id":"018bcfe5-687b-7000-8000-000000000001","source":"orders","type":"order.placed",'
    b'"time":"2023-11-14T22:13:20.250000Z","datacontenttype":"application/json","partitionkey":"\xc3\xb6 1",'
    b'"dataversion":2,"correlationid":"c-1","causationid":"e-0",'
    b'"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","tenant":"a \\"b\\"%",'
    b'"data":{"order_id": "\xc3\xb6 1"}}'
)
KAFKA = {
    "ce_specversion": "1.0",
    "ce_id": "018bcfe5-687b-7000-8000-000000000001",
    "ce_source": "orders",
    "ce_type": "order.placed",
    "ce_time": "2023-11-14T22:13:20.250000Z",
    "ce_partitionkey": "ö 1",
    "ce_dataversion": "2",
    "ce_correlationid": "c-1",
    "ce_causationid": "e-0",
    "ce_traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "ce_tenant": 'a "b"%',
    "content-type": "application/json",
    "evenflow-producer": "p-1",
    "evenflow-number": "17",
}


def test_structured_vector() -> None:
    assert ce.to_structured(FULL) == STRUCTURED
    assert ce.from_structured(STRUCTURED, ce.delivery(FULL)) == FULL
    assert ce.from_structured(STRUCTURED) == msgspec.structs.replace(FULL, producer="", number=0)


def test_binary_vector() -> None:
    assert ce.to_binary(FULL) == (KAFKA, FULL.data)
    assert ce.from_binary(KAFKA, FULL.data) == FULL


def test_binary_vector_with_percent_encoding() -> None:
    headers, body = ce.to_binary(FULL, ce.HTTP)
    assert headers["ce-partitionkey"] == "%C3%B6%201"
    assert headers["ce-tenant"] == "a%20%22b%22%25"
    assert headers["ce-time"] == "2023-11-14T22:13:20.250000Z"
    assert all(value.isascii() for value in headers.values())
    assert ce.from_binary({name.title(): value for name, value in headers.items()}, body, ce.HTTP) == FULL


def test_the_least_event() -> None:
    assert json.loads(ce.to_structured(BARE)) == {
        "specversion": "1.0",
        "id": "1",
        "source": "/stranger",
        "type": "com.example.Thing",
        "datacontenttype": "application/json",
        "dataversion": 1,
    }
    least = b'{"specversion":"1.0","id":"1","source":"/stranger","type":"com.example.Thing"}'
    assert ce.from_structured(least) == BARE
    headers = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/stranger", "ce_type": "com.example.Thing"}
    assert ce.from_binary(headers, b"") == msgspec.structs.replace(BARE, content_type="")


def test_a_key_may_hold_any_text() -> None:
    made = msgspec.structs.replace(FULL, key="a\nb\t", slot=slot_of("a\nb\t"))
    assert ce.from_structured(ce.to_structured(made), ce.delivery(made)) == made
    assert ce.from_binary(*ce.to_binary(made, ce.HTTP), ce.HTTP) == made


def test_delivery_data_of_an_event_without_a_key() -> None:
    keyless = msgspec.structs.replace(FULL, key=None, slot=77)
    headers, body = ce.to_binary(keyless)
    assert {name: value for name, value in headers.items() if name.startswith("evenflow-")} == {
        "evenflow-producer": "p-1", "evenflow-number": "17", "evenflow-slot": "77",
    }  # fmt: skip
    assert ce.from_binary(headers, body) == keyless
    assert ce.delivery(BARE) == {}


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_both_modes_are_told_apart(mode: str) -> None:
    if mode == "structured":
        headers, body = {"Content-Type": "application/cloudevents+json; charset=utf-8", **ce.delivery(FULL)}, STRUCTURED
    else:
        headers, body = KAFKA, FULL.data
    assert ce.from_message(headers, body) == FULL


def test_data_that_is_not_json() -> None:
    packed = msgspec.structs.replace(FULL, data=b"\x81\xa1a\x01", content_type="application/msgpack")
    assert json.loads(ce.to_structured(packed))["data_base64"] == "gaFhAQ=="
    assert ce.from_structured(ce.to_structured(packed), ce.delivery(packed)) == packed
    broken = msgspec.structs.replace(FULL, data=b"{")
    assert json.loads(ce.to_structured(broken))["data_base64"] == "ew=="
    assert ce.from_structured(ce.to_structured(broken), ce.delivery(broken)) == broken


@pytest.mark.parametrize(
    ("members", "data"),
    [
        ({"data": {"a": 1}}, b'{"a":1}'),
        ({"data": "text"}, b'"text"'),
        ({"data": None}, b"null"),
        ({"data": "tëxt", "datacontenttype": "text/plain"}, "tëxt".encode()),
        ({"data": {"a": 1}, "datacontenttype": "text/plain"}, b'{"a":1}'),
        ({"data": "text", "datacontenttype": "application/x+json"}, b'"text"'),
        ({"data_base64": "gaFhAQ=="}, b"\x81\xa1a\x01"),
        ({}, b""),
    ],
)
def test_data_of_strangers(members: dict[str, Any], data: bytes) -> None:
    assert ce.from_structured(event(**members)).data == data


def event(**changes: Any) -> bytes:
    members = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", **changes}
    return msgspec.json.encode({name: value for name, value in members.items() if value is not ...})


def test_attributes_of_strangers() -> None:
    found = ce.from_structured(
        event(
            subject="a/b",
            sequence=5,
            sampled=True,
            dataschema="http://x",
            time="2026-01-01T01:00:00.5+01:00",
            gone=None,
        )
    )
    assert found.headers == {"subject": "a/b", "sequence": "5", "sampled": "true", "dataschema": "http://x"}
    assert found.time == 1_767_225_600.5
    assert (found.version, found.producer, found.number, found.key, found.slot) == (1, "", 0, None, slot_of("1"))
    assert ce.from_structured(event(partitionkey="k")).slot == slot_of("k")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (event(specversion=...), "specversion"),
        (event(specversion="0.3"), "specversion"),
        (event(specversion=1), "specversion"),
        (event(id=...), "id"),
        (event(id=""), "id"),
        (event(id=None), "id"),
        (event(source=...), "source"),
        (event(type=...), "type"),
        (event(type="a\nb"), "type"),
        (event(time="yesterday"), "time"),
        (event(time="2026-01-01T00:00:00"), "time"),
        (event(time="2026-13-01T00:00:00Z"), "time"),
        (event(time=5), "time"),
        (event(dataversion=0), "dataversion"),
        (event(dataversion="x"), "dataversion"),
        (event(dataversion=2**31), "dataversion"),
        (event(dataversion="9" * 5000), "dataversion"),
        (event(dataversion=-1), "dataversion"),
        (event(tenant={"a": 1}), "tenant"),
        (event(tenant=[1]), "tenant"),
        (event(tenant=1.5), "tenant"),
        (event(tenant="a\x00"), "tenant"),
        (event(Tenant="a"), "Tenant"),
        (event(**{"ten_ant": "a"}), "ten_ant"),
        (event(**{"": "a"}), ""),
        (event(data=1, data_base64="AA=="), "data_base64"),
        (event(data_base64="!"), "data_base64"),
        (event(data_base64=[1]), "data_base64"),
    ],
)
def test_invalid_structured_events_name_the_attribute(body: bytes, name: str) -> None:
    with pytest.raises(DecodeError, match=re.escape(f"cannot decode 'a CloudEvent': attribute {name}: ")):
        ce.from_structured(body)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff", b'{"id":"\xff"}', b"[" * 100_000, b'{"a":' * 100_000, b'{"id":"\\ud800"}'],
)
def test_what_is_no_json_object(body: bytes) -> None:
    with pytest.raises(DecodeError):
        ce.from_structured(body)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"ce_specversion": "2.0"}, "specversion"),
        ({"ce_id": ""}, "id"),
        ({"ce_time": "now"}, "time"),
        ({"ce_dataversion": "١"}, "dataversion"),
        ({"ce_a-b": "x"}, "a-b"),
        ({"ce_": "x"}, ""),
        ({"evenflow-number": "0"}, "evenflow-number"),
        ({"evenflow-number": "x"}, "evenflow-number"),
        ({"evenflow-number": str(2**63)}, "evenflow-number"),
    ],
)
def test_invalid_binary_events_name_the_attribute(changes: dict[str, str], name: str) -> None:
    with pytest.raises(DecodeError, match=re.escape(f"attribute {name}: ")):
        ce.from_binary({**KAFKA, **changes}, b"{}")


def test_invalid_delivery_data() -> None:
    headers, body = ce.to_binary(msgspec.structs.replace(FULL, key=None))
    with pytest.raises(DecodeError, match="attribute evenflow-slot"):
        ce.from_binary({**headers, "evenflow-slot": "256"}, body)
    with pytest.raises(DecodeError, match="attribute evenflow-number"):
        ce.from_binary({name: value for name, value in KAFKA.items() if name != "evenflow-number"}, b"{}")
    with pytest.raises(DecodeError, match="percent-encoded"):
        ce.from_binary({**ce.to_binary(FULL, ce.HTTP)[0], "ce-tenant": "%ff"}, b"{}", ce.HTTP)


@pytest.mark.parametrize("headers", [{"tenant": "a"}, {"traceparent": "00-1"}, {"a1": ""}, {"x" * 20: "ü"}])
def test_headers_that_travel(headers: dict[str, str]) -> None:
    ce.check_headers(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"Tenant": "a"}, {"ten-ant": "a"}, {"": "a"}, {"1a": "a"}, {"x" * 21: "a"}, {"id": "a"}, {"data": "a"},
        {"dataversion": "1"}, {"evenflow-number": "1"}, {"tenant": "a\nb"}, {"tenant": 5}, {"tenant": "\ud800"},
    ],
)  # fmt: skip
def test_headers_that_do_not(headers: Any) -> None:
    with pytest.raises(EventInvalid, match="the header") as caught:
        ce.check_headers(headers)
    assert caught.value.remedy


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20)


@given(
    id=TEXT, source=TEXT, type=TEXT, version=st.integers(1, 2**31 - 1), key=st.none() | TEXT, number=st.integers(1, 2**63 - 1),
    time=st.integers(1, 4_000_000_000), data=st.binary(min_size=1), producer=TEXT, correlation=st.just("") | TEXT, slot=st.integers(0, 255),
    causation=st.just("") | TEXT, headers=st.none() | st.dictionaries(st.from_regex(r"x[a-z0-9]{1,9}", fullmatch=True), TEXT, min_size=1),
    content_type=st.sampled_from(["application/json", "application/msgpack", "text/plain"]),
)  # fmt: skip
def test_every_envelope_makes_the_trip(key: str | None, slot: int, time: int, **fields: Any) -> None:
    made = Envelope(key=key, slot=slot if key is None else slot_of(key), time=float(time), **fields)
    assert ce.from_structured(ce.to_structured(made), ce.delivery(made)) == made
    for prefix in (ce.KAFKA, ce.HTTP, ce.AMQP):
        headers, body = ce.to_binary(made, prefix)
        assert ce.from_binary(headers, body, prefix) == made


@given(
    st.binary()
    | st.recursive(st.none() | st.text() | st.integers(), lambda x: st.dictionaries(st.text(), x)).map(
        msgspec.json.encode
    )
)
def test_anything_else_is_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        ce.from_structured(body)
