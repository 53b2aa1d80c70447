"""Records of others: what envelope each makes, and that none of them is an error."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow.cloudevents import to_binary, to_structured
from evenflow.codec import BROKEN, BROKEN_TYPE
from evenflow.envelope import BY_PLACE, Envelope
from evenflow.errors import DecodeError, DefinitionError
from evenflow.event import Event
from evenflow.ids import slot_of
from evenflow.records import Records
from evenflow.registry import Registry
from evenflow.strangers import LIMIT, Record, envelope_of, record_headers
from evenflow.topic import Topic

BARE = Topic("payments")
ALWAYS = Topic("payments", records=Records(always="payment.settled"))
HEADER = Topic("payments", records=Records(header="Event-Type", names={"PaymentSettled": "payment.settled"}))
FIELD = Topic("payments", records=Records(field="meta.kind", names={"7": "payment.settled"}))
OURS = Envelope(
    "id-1",
    "orders",
    "order.placed",
    2,
    "k",
    slot_of("k"),
    5.0,
    b"{}",
    "p-1",
    3,
    "c",
    "d",
    "application/json",
    {"x": "y"},
)


def record(value: bytes | None = b"{}", key: bytes | None = b"k", **headers: str) -> Record:
    given = [
        (name.replace("_", "-") if not name.startswith("ce_") else name, text.encode())
        for name, text in headers.items()
    ]
    return Record("payments", "log1", 5, 42, 9.5, key, value, given)


def structured(**more: Any) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "1", "source": "acme", "type": "PaymentSettled", **more}).encode()


def test_a_record_is_known_by_its_place() -> None:
    found = envelope_of(record(), ALWAYS)
    assert found == Envelope(
        "payments-5-42",
        "log:log1",
        "payment.settled",
        1,
        "k",
        5,
        9.5,
        b"{}",
        "",
        BY_PLACE,
        content_type="application/json",
    )
    assert envelope_of(record(), ALWAYS) == found  # as it comes again
    assert envelope_of(record()._replace(incarnation="log2"), ALWAYS).source == "log:log2"  # a topic made anew


@pytest.mark.parametrize(
    ("topic", "given", "kind"),
    [
        (BARE, record(), ""),
        (ALWAYS, record(b"anything"), "payment.settled"),
        (HEADER, record(event_type="PaymentSettled"), "payment.settled"),
        (HEADER, record(EVENT_TYPE="other.kind"), "other.kind"),
        (HEADER, record(), ""),
        (FIELD, record(b'{"meta": {"kind": 7}}'), "payment.settled"),
        (FIELD, record(b'{"meta": {"kind": "other"}}'), "other"),
        (FIELD, record(b'{"meta": {}}'), ""),
        (FIELD, record(b'{"meta": {"kind": null}}'), ""),
        (FIELD, record(b"{"), BROKEN_TYPE),
        (FIELD, record(b"[1]"), BROKEN_TYPE),
        (FIELD, record(b'{"meta": 1}'), BROKEN_TYPE),
        (ALWAYS, record(None), ""),
    ],
)
def test_the_type_of_a_record(topic: Topic, given: Record, kind: str) -> None:
    assert envelope_of(given, topic).type == kind


@pytest.mark.parametrize(
    ("key", "text"),
    [(None, None), (b"", ""), ("ö".encode(), "ö"), (b"\xff\x00", "0xff00"), (b"\0\0\0\0\x07", "0x0000000007")],
)
def test_a_key_is_text_that_every_store_takes(key: bytes | None, text: str | None) -> None:
    assert envelope_of(record(key=key), ALWAYS).key == text


def test_headers_become_attributes_as_far_as_they_can() -> None:
    given = record(x_tenant="acme", traceparent="00-1", content_type="text/plain", **{"bad.name": "x", "line": "a\nb"})
    assert envelope_of(given, ALWAYS).headers == {"xtenant": "acme", "traceparent": "00-1"}


def test_a_cloudevent_of_another_team_in_either_mode() -> None:
    binary = record(
        b'{"a":1}',
        ce_specversion="1.0",
        ce_id="1",
        ce_source="acme",
        ce_type="PaymentSettled",
        content_type="application/json",
    )
    plain = record(structured(data={"a": 1}), content_type="application/cloudevents+json; charset=utf-8")
    for given in (binary, plain):
        found = envelope_of(given, HEADER)
        assert (found.source, found.id, found.type) == ("acme", "1", "payment.settled")
        assert (found.key, found.slot, found.time, found.producer) == ("k", 5, 9.5, "")
        assert json.loads(found.data) == {"a": 1}
        assert envelope_of(given, BARE).type == "PaymentSettled"  # it says its type itself


def test_what_a_cloudevent_says_goes_before_its_record() -> None:
    found = envelope_of(
        record(
            structured(time="1970-01-01T00:00:01Z", partitionkey="mine"), content_type="application/cloudevents+json"
        ),
        BARE,
    )
    assert (found.key, found.time) == ("mine", 1.0)


def test_an_event_of_ours_is_taken_as_it_says() -> None:
    headers, data = to_binary(OURS)
    given = record(data, key=b"k", **headers)
    assert envelope_of(given, BARE) == OURS
    beside = {name: text for name, text in headers.items() if name.startswith("evenflow-")}
    found = envelope_of(record(to_structured(OURS), content_type="application/cloudevents+json", **beside), BARE)
    assert msgspec.structs.replace(found, data=OURS.data) == OURS


def test_what_claims_to_be_an_event_and_is_none_cannot_be_read() -> None:
    headers, data = to_binary(OURS)
    no_type = {name: text for name, text in headers.items() if name != "ce_type"}
    wrong_time = {**headers, "ce_time": "yesterday"}
    cases = [
        (record(data, **no_type), BARE, BROKEN_TYPE, "attribute type: it is missing"),
        (record(data, **wrong_time), BARE, "order.placed", "no RFC 3339 time"),
        (record(data, ce_specversion="1.0", ce_type="PaymentSettled"), BARE, "PaymentSettled", "attribute id"),
        (record(data, ce_specversion="1.0", ce_type="PaymentSettled"), HEADER, "payment.settled", "attribute id"),
        (record(b"{", content_type="application/cloudevents+json"), HEADER, BROKEN_TYPE, "no JSON object"),
        (record(b"{", content_type="application/cloudevents+json"), BARE, "", ""),
        (record(data, evenflow="[1"), BARE, BROKEN_TYPE, "its header 'evenflow' cannot be read"),
        (record(data, evenflow="[1", **headers), BARE, "order.placed", "its header 'evenflow' cannot be read"),
    ]
    for given, topic, kind, reason in cases:
        found = envelope_of(given, topic)
        assert found.type == kind
        assert reason in ((found.headers or {}).get("reason") or "")
        assert (found.content_type == BROKEN) is bool(kind)
        assert (found.id, found.data) == ("payments-5-42", given.value)


def test_a_giant_is_left_in_its_log() -> None:
    found = envelope_of(record(b"x" * (LIMIT + 1)), ALWAYS)
    assert (found.type, found.content_type, len(found.data)) == ("payment.settled", BROKEN, 1024)
    assert "16,777,217 bytes" in found.headers["reason"]  # type: ignore[index]
    assert "partition 5 of payments, at offset 42" in found.headers["reason"]  # type: ignore[index]
    assert envelope_of(record(b"x" * LIMIT), ALWAYS).content_type == "application/json"
    assert envelope_of(record(b"x" * (LIMIT + 1)), BARE).type == ""


def test_a_broken_one_is_read_as_a_dead_letter_with_its_reason() -> None:
    class Settled(Event, type="payment.settled", topic=ALWAYS):
        total: int

    (binding,) = Registry([Settled]).by_type.values()
    with pytest.raises(DecodeError, match="16,777,217 bytes"):
        binding.read(envelope_of(record(b"x" * (LIMIT + 1)), ALWAYS), "payments")


def test_what_we_publish_says_its_type_where_the_others_look_for_it() -> None:
    envelope = msgspec.structs.replace(OURS, type="payment.settled")
    assert record_headers(envelope, HEADER)["Event-Type"] == "PaymentSettled"
    assert record_headers(envelope, BARE) == to_binary(envelope)[0]
    with_header = record(b"{}", **{name: text for name, text in record_headers(envelope, HEADER).items()})
    assert envelope_of(with_header, HEADER) == envelope


TEXTS = st.text(max_size=20)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "ce_type", "ce_source", "ce_specversion", "ce_time", "content-type", "Event-Type"])
        | st.sampled_from(["evenflow-producer", "evenflow-number", "evenflow-slot", "ce_dataversion"])
        | TEXTS,
        st.none() | st.binary(max_size=20) | st.sampled_from([b"1.0", b"application/cloudevents+json", b"7"]),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(
    headers=HEADERS,
    key=st.none() | st.binary(max_size=30),
    value=st.none()
    | st.binary(max_size=200)
    | st.sampled_from([structured(), structured(data_base64="AA=="), b"\0\0\0\0\1{}"]),
    topic=st.sampled_from([BARE, ALWAYS, HEADER, FIELD, Topic("payments", codec="avro", records=Records(always="a"))]),
)
def test_no_record_is_an_error(headers: list[Any], key: bytes | None, value: bytes | None, topic: Topic) -> None:
    found = envelope_of(Record("payments", "log1", 5, 42, 9.5, key, value, headers), topic)
    assert "\0" not in (found.key or "")
    if not found.producer:
        assert found.slot == 5
    if found.content_type == BROKEN:
        assert found.type
        assert found.headers is not None


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Records(), "says nothing"),
        (lambda: Records(always="a", header="b"), "always='a' and header='b'"),
        (lambda: Records(always="Payment Settled"), "'Payment Settled'"),
        (lambda: Records(header="x", names={"A": "Not A Name"}), "'Not A Name'"),
        (lambda: Records(always="a", names={"b": "c"}), "always=… and names=…"),
        (lambda: Topic("payments", codec="avro", records=Records(field="kind")), "its codec is 'avro'"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(made: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        made()
