"""JSON, the default. `Decimal` as text, times in RFC 3339, bytes in base64. Unknown fields are ignored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from evenflow.checks import zone_test
from evenflow.codec import BytesReader, Reader, Writer
from evenflow.codecs.plain import NO_ZONE

if TYPE_CHECKING:
    from evenflow.event import EventSpec

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


class JsonCodec:
    """Events as JSON objects."""

    name = "json"
    content_type = "application/json"

    def writer(self, spec: EventSpec) -> Writer:
        if spec.kind != "pydantic":
            return _encoder.encode

        def write(event: Any) -> bytes:
            text: str = event.model_dump_json(by_alias=True, warnings="error")
            return text.encode()

        return write

    def reader(self, spec: EventSpec) -> Reader:
        if spec.kind == "pydantic":
            decode: Callable[[bytes], Any] = spec.cls.model_validate_json  # type: ignore[attr-defined]
        else:
            decode = msgspec.json.Decoder(spec.cls).decode
        return zoned_reader(spec, decode)

    def loads(self, _topic: str, _headers: Mapping[str, str] | None, data: bytes) -> Any:
        return _decoder.decode(data)


def zoned_reader(spec: EventSpec, decode: Callable[[bytes], Any]) -> Reader:
    """A reader that refuses times without a zone, at no cost for classes that have no times."""
    zoned = zone_test(spec.cls)
    if zoned is None:
        return BytesReader(decode)

    def read(data: bytes) -> Any:
        event = decode(data)
        if not zoned(event):
            raise ValueError(NO_ZONE)
        return event

    return BytesReader(read)
