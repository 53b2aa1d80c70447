"""A record of a log as an envelope: a CloudEvent in either mode, or what the topic says about the records of others.

A record whose type nobody can tell has the type "", and is skipped as any type that nobody asks for. One that claims
to be an event and cannot be taken apart becomes an envelope that cannot be read: a dead letter, with the reason. It
claims that by its type, by a header of Evenflow's, or by lying in a topic that says what its records are.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from evenflow.cloudevents import KAFKA, PRODUCER, STRUCTURED, attribute_names, from_binary, from_structured, to_binary
from evenflow.codec import BROKEN, BROKEN_TYPE, CONTENT_TYPES, FRAME, FRAMED
from evenflow.envelope import BY_PLACE, Envelope
from evenflow.errors import DecodeError
from evenflow.event import KEY_LIMIT
from evenflow.topic import Topic

LIMIT = 16 * 1024 * 1024
"""Bytes of a record, above which it is not taken in."""
REGISTERED = ("avro", "protobuf", "json-schema")
"""Codecs that know a value by its frame, whatever a header says that it is."""
COMPACT = "evenflow"
"""The one header in which an engine may keep all that travels beside an event of ours."""
_BEGINNING = 200  # bytes of a key, id or source that is too long for an index
_KEPT = 1024  # bytes of what is too large, to be looked at

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_value = msgspec.json.Decoder().decode


class Record(NamedTuple):
    """One record of a log, as its engine gives it. `time` is Unix time; `incarnation` is that of its log."""

    topic: str
    incarnation: str
    partition: int
    offset: int
    time: float
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


def envelope_of(record: Record, topic: Topic, *, prefix: str = KAFKA) -> Envelope:
    """The envelope of any record whatever; raises nothing. `prefix` is that of CloudEvents' headers on its engine."""
    headers = _texts(record.headers)
    value = record.value
    if value is None:  # a tombstone: it says that a key is no more, and is no event
        return _envelope(record, "", b"", "", headers)
    if len(value) > LIMIT:
        reason = f"it has {len(value):,} bytes, {LIMIT:,} are allowed; all of it is {_place(record)}"
        return _broken(record, topic, headers, prefix, reason, value[:_KEPT])
    if COMPACT in headers:  # an engine that writes it calls us when it cannot read it
        return _broken(record, topic, headers, prefix, f"its header {COMPACT!r} cannot be read", value)
    try:
        if headers.get("content-type", "").partition(";")[0].strip().lower() == STRUCTURED:
            return _of_cloudevent(record, topic, from_structured(value, headers))
        if f"{prefix}specversion".lower() in headers or PRODUCER in headers:
            return _of_cloudevent(record, topic, from_binary(headers, value, prefix))
        kind = _kind(topic, headers, value)
    except DecodeError as error:
        return _broken(record, topic, headers, prefix, error.reason, value)
    return _envelope(record, kind, value, CONTENT_TYPES.get(topic.codec, ""), headers)


def record_headers(envelope: Envelope, topic: Topic, *, prefix: str = KAFKA) -> dict[str, str]:
    """The headers of an event that we publish, beside its data: a CloudEvent, and what the others look for."""
    headers, _ = to_binary(envelope, prefix)
    if topic.records is not None and topic.records.header:
        headers[topic.records.header] = topic.records.theirs(envelope.type)
    return headers


def _of_cloudevent(record: Record, topic: Topic, found: Envelope) -> Envelope:
    if found.producer:  # one of Evenflow's: all that it says holds
        return found if found.key is None else replace(found, key=_storable(found.key))
    kind = found.type if topic.records is None else topic.records.named(found.type)
    framed = topic.codec in REGISTERED and found.data.startswith(FRAMED)
    return replace(
        found,
        id=_bounded(found.id),
        source=_bounded(found.source),
        type=kind,
        key=_key(record) if found.key is None else _storable(found.key),
        slot=record.partition,
        time=found.time or record.time,
        content_type=CONTENT_TYPES[topic.codec] if framed else found.content_type,
    )


def _kind(topic: Topic, headers: dict[str, str], value: bytes) -> str:
    """The type of a record that is no CloudEvent, or "". Raises `DecodeError`."""
    records = topic.records
    if records is None:
        return ""
    if records.always:
        return records.always
    if records.header:
        return records.named(headers.get(records.header.lower(), ""))
    return records.named(_field(records.field, value)) if records.field else ""


def _field(path: str, value: bytes) -> str:
    body: bytes | msgspec.Raw = value[FRAME:] if value.startswith(FRAMED) else value
    try:
        for name in path.split("."):
            inner = _members(body).get(name)
            if inner is None:
                return ""
            body = inner
        found = _value(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the field {path}", f"it is no JSON object: {error}") from error
    return found if isinstance(found, str) else str(found) if type(found) is int else ""


def _broken(record: Record, topic: Topic, headers: dict[str, str], prefix: str, reason: str, value: bytes) -> Envelope:
    """What is to be a dead letter of whoever asks for its type; of all that read the topic, where it says none."""
    records = topic.records
    kind = headers.get(f"{prefix}type".lower(), "")
    if kind and records is not None:
        kind = records.named(kind)
    elif not kind and records is not None:
        kind = records.always or BROKEN_TYPE
    elif not kind and (PRODUCER in headers or COMPACT in headers):
        kind = BROKEN_TYPE
    return _envelope(record, kind, value, BROKEN if kind else "", {"reason": _line(reason)})


def _envelope(record: Record, kind: str, data: bytes, content_type: str, headers: dict[str, str]) -> Envelope:
    """A stranger's: its place in its log is what it is known by."""
    return Envelope(
        id=f"{record.topic}-{record.partition}-{record.offset}",
        source=f"log:{record.incarnation}",
        type=kind,
        version=1,
        key=_key(record),
        slot=record.partition,
        time=record.time,
        data=data,
        number=BY_PLACE,
        content_type=content_type,
        headers=attribute_names(headers) if kind else None,
    )


def _place(record: Record) -> str:
    return f"in partition {record.partition} of {record.topic}, at offset {record.offset}"


def _key(record: Record) -> str | None:
    """The key as text; what is no text is written in hexadecimal digits."""
    key = record.key
    if key is None:
        return None
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return _bounded(f"0x{key.hex()}")
    return _storable(text)


def _storable(key: str) -> str:
    """Not every database has a place for NUL."""
    return _bounded(f"0x{key.encode().hex()}" if "\x00" in key else key)


def _bounded(text: str) -> str:
    """A text that an index can hold: of a longer one its beginning and a digest, the same for the same text."""
    data = text.encode()
    if len(data) <= KEY_LIMIT:
        return text
    return f"{data[:_BEGINNING].decode(errors='ignore')}~{blake2b(data, digest_size=16).hexdigest()}"


def _line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)


def _texts(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    """Names in small letters. Of several with a name the last one counts; what is no text is shown as text."""
    return {name.lower(): value.decode(errors="replace") for name, value in headers if value is not None}
