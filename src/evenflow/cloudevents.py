"""CloudEvents 1.0, structured JSON and binary mode, both ways. All names here are frozen by test vectors.

An envelope's fields are the attributes `id`, `source`, `type`, `time`, `datacontenttype`, `partitionkey` (the key),
`dataversion` (the version of the event's shape), `correlationid`, `causationid`; its headers are further attributes
(`subject`, `dataschema`, `traceparent`, `tracestate`, extensions). What only concerns the delivery (producer, number,
the slot of an event without a key) is no part of the event: it travels beside it, in `evenflow-` headers.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote, unquote_to_bytes

import msgspec

from evenflow.envelope import Envelope
from evenflow.errors import DecodeError, EventInvalid
from evenflow.ids import slot_of

STRUCTURED = "application/cloudevents+json"
KAFKA, HTTP, AMQP = "ce_", "ce-", "cloudEvents_"  # NATS uses HTTP's
PRODUCER, NUMBER, SLOT = "evenflow-producer", "evenflow-number", "evenflow-slot"
VERSION_MAX = 2**31 - 1

_OWN = frozenset(
    {
        "specversion", "id", "source", "type", "time", "datacontenttype", "partitionkey",
        "dataversion", "correlationid", "causationid", "data", "data_base64",
    }
)  # fmt: skip
_NOT_KEPT = _OWN | {"contenttype"}
_NAME = re.compile(r"[a-z0-9]+")
_OWN_NAME = re.compile(r"[a-z][a-z0-9]{0,19}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NUMBER = re.compile(r"[0-9]{1,19}")
_PRINTABLE = "".join(chr(each) for each in range(0x21, 0x7F) if chr(each) not in '"%')

_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_value = msgspec.json.Decoder().decode
_Time = Annotated[dt.datetime, msgspec.Meta(tz=True)]


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise `EventInvalid` for headers that are no attributes of a CloudEvent."""
    for name, value in headers.items():
        if name in _OWN:
            reason, remedy = "is an attribute that Evenflow sets", "use another name"
        elif not _OWN_NAME.fullmatch(name):
            reason, remedy = (
                "is no name for an attribute",
                "use at most 20 small letters and digits, beginning with a letter",
            )
        elif type(value) is not str or _CONTROL.search(value):
            reason, remedy = f"has the value {value!r}", "use text without control characters"
        else:
            continue
        raise EventInvalid(f"the header {name!r} {reason}", remedy=remedy)


def attribute_names(headers: Mapping[str, str]) -> dict[str, str] | None:
    """What of a stranger's headers can be attributes: their names without '-' and '_', and text of one line."""
    found = {}
    for name, value in headers.items():
        plain = name.replace("-", "").replace("_", "")
        if plain.isascii() and plain.isalnum() and plain not in _NOT_KEPT and value.isprintable():
            found[plain] = value
    return found or None


def delivery(envelope: Envelope) -> dict[str, str]:
    """The `evenflow-` headers that travel beside an event, in either mode; empty for a stranger's."""
    if not envelope.producer:
        return {}
    headers = {PRODUCER: envelope.producer, NUMBER: str(envelope.number)}
    return headers if envelope.key is not None else {**headers, SLOT: str(envelope.slot)}


def to_structured(envelope: Envelope) -> bytes:
    """The event as one JSON object, of content type `application/cloudevents+json`."""
    attributes: dict[str, Any] = _attributes(envelope)
    attributes["dataversion"] = envelope.version
    data = envelope.data
    if data and _is_json(envelope.content_type) and _is_valid(data):
        attributes["data"] = msgspec.Raw(data)
    elif data:
        attributes["data_base64"] = base64.b64encode(data).decode()
    return _encode(attributes)


def to_binary(envelope: Envelope, prefix: str = KAFKA) -> tuple[dict[str, str], bytes]:
    """Headers and body. With HTTP's prefix values are percent-encoded, as its binding says."""
    attributes = _attributes(envelope)
    attributes.pop("datacontenttype", None)
    headers = {f"{prefix}{name}": _quoted(value, prefix) for name, value in attributes.items()}
    if envelope.content_type:
        headers["content-type"] = envelope.content_type
    return headers | delivery(envelope), envelope.data


def from_structured(body: bytes, headers: Mapping[str, str] | None = None) -> Envelope:
    """An envelope from a JSON object and the headers beside it. Raises `DecodeError`, naming the attribute."""
    try:
        members = _members(body)
    except (ValueError, RecursionError) as error:
        raise DecodeError("a CloudEvent", f"it is no JSON object: {error}") from error
    attributes = {name: _text(name, raw) for name, raw in members.items() if name not in ("data", "data_base64")}
    present = {name: value for name, value in attributes.items() if value is not None}
    content_type = present.get("datacontenttype") or "application/json"
    return _envelope(present, _lower(headers or {}), _data(members, content_type), content_type)


def from_binary(headers: Mapping[str, str], body: bytes, prefix: str = KAFKA) -> Envelope:
    """An envelope from headers and body; names of headers in any case. Raises `DecodeError`, naming the attribute."""
    small, start = _lower(headers), prefix.lower()
    attributes = {
        name[len(start) :]: _unquoted(name, value, prefix) for name, value in small.items() if name.startswith(start)
    }
    content_type = small.get("content-type") or attributes.get("datacontenttype", "")
    return _envelope(attributes, small, body, content_type)


def from_message(headers: Mapping[str, str], body: bytes, prefix: str = KAFKA) -> Envelope:
    """An envelope from a message in either mode, told apart by its content type."""
    media = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    if media.partition(";")[0].strip().lower() == STRUCTURED:
        return from_structured(body, headers)
    return from_binary(headers, body, prefix)


def _attributes(envelope: Envelope) -> dict[str, str]:
    found = {
        "specversion": "1.0",
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
        "time": _rfc3339(envelope.time) if envelope.time else "",
        "datacontenttype": envelope.content_type,
        "partitionkey": envelope.key or "",
        "dataversion": str(envelope.version),
        "correlationid": envelope.correlation,
        "causationid": envelope.causation,
    }
    return {name: value for name, value in found.items() if value} | (envelope.headers or {})


def _envelope(attributes: dict[str, str], delivered: Mapping[str, str], data: bytes, content_type: str) -> Envelope:
    for name, value in attributes.items():
        if not _NAME.fullmatch(name):
            raise _wrong(name, "its name may hold only small letters and digits")
        if name != "partitionkey" and _CONTROL.search(value):
            raise _wrong(name, "it holds control characters")
    if attributes.get("specversion") != "1.0":
        raise _wrong("specversion", f"it is {attributes.get('specversion', 'missing')!r}, known is '1.0'")
    for name in ("id", "source", "type"):
        if not attributes.get(name):
            raise _wrong(name, "it is missing or empty")
    key = attributes.get("partitionkey")
    producer = delivered.get(PRODUCER, "")
    slot = slot_of(attributes["id"] if key is None else key)
    if key is None and SLOT in delivered:
        slot = _number(SLOT, delivered[SLOT], 0, 255)
    return Envelope(
        id=attributes["id"],
        source=attributes["source"],
        type=attributes["type"],
        version=_number("dataversion", attributes.get("dataversion", "1"), 1, VERSION_MAX),
        key=key,
        slot=slot,
        time=_timestamp(attributes["time"]) if "time" in attributes else 0.0,
        data=data,
        producer=producer,
        number=_number(NUMBER, delivered.get(NUMBER, ""), 1, 2**63 - 1) if producer else 0,
        correlation=attributes.get("correlationid", ""),
        causation=attributes.get("causationid", ""),
        content_type=content_type,
        headers={name: value for name, value in attributes.items() if name not in _OWN} or None,
    )


def _text(name: str, raw: msgspec.Raw) -> str | None:
    """The canonical text of a JSON attribute; None for null, which means unset."""
    try:
        value = _value(raw)
    except (ValueError, RecursionError) as error:
        raise _wrong(name, str(error)) from error
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise _wrong(name, f"it is {type(value).__name__}; attributes are text, whole numbers or true and false")


def _data(members: Mapping[str, msgspec.Raw], content_type: str) -> bytes:
    plain, encoded = members.get("data"), members.get("data_base64")
    if plain is not None and encoded is not None:
        raise _wrong("data_base64", "it stands beside data; one of them is allowed")
    if encoded is not None:
        try:
            return base64.b64decode(_text("data_base64", encoded) or "", validate=True)
        except (binascii.Error, ValueError) as error:
            raise _wrong("data_base64", str(error)) from error
    if plain is None:
        return b""
    if not _is_json(content_type) and bytes(plain).startswith(b'"'):
        return (_text("data", plain) or "").encode()
    return bytes(plain)


def _is_json(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return not media or media == "application/json" or media.endswith("+json")


def _is_valid(data: bytes) -> bool:
    try:
        _value(data)
    except (ValueError, RecursionError):
        return False
    return True


def _rfc3339(seconds: float) -> str:
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _timestamp(text: str) -> float:
    try:
        return msgspec.convert(text, _Time).timestamp()
    except (ValueError, OverflowError) as error:
        raise _wrong("time", f"{text!r} is no RFC 3339 time with a zone") from error


def _number(name: str, text: str, low: int, high: int) -> int:
    if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
        raise _wrong(name, f"{text!r} is no whole number from {low} to {high}")
    return int(text)


def _quoted(value: str, prefix: str) -> str:
    return quote(value, safe=_PRINTABLE) if prefix == HTTP else value


def _unquoted(name: str, value: str, prefix: str) -> str:
    if prefix != HTTP or "%" not in value:
        return value
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError as error:
        raise _wrong(name, "it is not percent-encoded UTF-8") from error


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _wrong(name: str, reason: str) -> DecodeError:
    return DecodeError("a CloudEvent", f"attribute {name}: {reason}")
