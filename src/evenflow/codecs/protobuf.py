"""Protobuf, as Confluent's serializers frame it, by the classes that protoc generates.

Its own rules bring old and new content together, so reading needs nothing of the registry.
"""

from __future__ import annotations

import base64
import datetime as dt
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evenflow.codec import CONTENT_TYPES, FRAME, BytesReader, Reader, Writer
from evenflow.codecs.framed import FramedCodec, frame, number_in
from evenflow.codecs.plain import converter, plainer
from evenflow.codecs.schemas import Schema
from evenflow.errors import DefinitionError, MissingExtra, Refused

if TYPE_CHECKING:
    from evenflow.event import EventSpec

log = logging.getLogger("evenflow")

_WELL_KNOWN = "google/protobuf/"


class ProtobufCodec(FramedCodec):
    """Events as Protobuf messages. Fields are matched by their names in the .proto file; enums are text.

    messages  by class, the generated message class that it is read and written by
    register  add their .proto files to their subjects at the start
    """

    name = "protobuf"
    content_type = CONTENT_TYPES["protobuf"]
    kind = "PROTOBUF"

    def __init__(self, messages: Mapping[type, Any], *, register: bool = False) -> None:
        super().__init__(register=register)
        try:
            from google.protobuf import json_format

            from evenflow.codecs.protobuf_plain import plain_of
        except ImportError as error:
            raise MissingExtra("the codec 'protobuf'", extra="protobuf") from error
        for cls, message in messages.items():
            if not hasattr(message, "DESCRIPTOR") or not hasattr(message, "FromString"):
                raise DefinitionError(
                    f"{message!r}, given for {cls.__qualname__}, is no message class",
                    remedy="give the class that protoc generates: payments_pb2.PaymentSettled",
                )
        self._json = json_format
        self._messages = dict(messages)
        self._plain = {cls: plain_of(message.DESCRIPTOR) for cls, message in messages.items()}

    def reader(self, spec: EventSpec) -> Reader:
        message = self._messages.get(spec.cls)
        if message is None:
            raise DefinitionError(
                f"{spec.cls.__qualname__} has no message class",
                where=spec.where,
                remedy=f"give it to the codec: ProtobufCodec({{{spec.cls.__qualname__}: …_pb2.…}})",
            )
        read, convert, plain = message.FromString, converter(spec, values=True), self._plain[spec.cls]
        return BytesReader(lambda data: convert(plain(read(data[_begin(data) :]))))

    def loads(self, _topic: str, _headers: Mapping[str, str] | None, data: bytes) -> Any:
        """The fields of the first of its message classes that can read it: the bytes do not say which it is."""
        begin = _begin(data)
        for cls, message in self._messages.items():
            try:
                return self._plain[cls](message.FromString(data[begin:]))
            except Exception:
                log.debug("it is no %s", message.DESCRIPTOR.full_name)
        raise ValueError("none of the message classes reads it")

    def text(self, spec: EventSpec) -> str:
        file = self._messages[spec.cls].DESCRIPTOR.file
        foreign = [each.name for each in file.dependencies if not each.name.startswith(_WELL_KNOWN)]
        if foreign:
            raise Refused(
                f"{file.name} imports {', '.join(foreign)}, which would have to be registered with it",
                remedy="register it with your own tool, and leave out register=True",
            )
        return base64.b64encode(file.serialized_pb).decode()

    def compiled(self, spec: EventSpec, schema: Schema) -> Writer:
        message, parse = self._messages[spec.cls], self._json.ParseDict
        values, texts = plainer(spec, (bytes, dt.datetime)), plainer(spec)
        begin = frame(schema.number) + _indexes(message.DESCRIPTOR)

        def write(event: Any) -> bytes:
            try:
                made = message(**values(event))
            except (TypeError, ValueError, AttributeError):  # the long way takes more, and says what is wrong
                made = parse(texts(event), message())
            return begin + bytes(made.SerializeToString())

        return write


def _begin(data: bytes) -> int:
    """Where the message begins: after the frame, and the path to it in its file. Raises `ValueError`."""
    number_in(data)
    count, place = _varint(data, FRAME)
    for _ in range(count):
        _, place = _varint(data, place)
    return place


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A zigzag number, and where it ends."""
    value = shift = 0
    while True:
        if place >= len(data) or shift > 28:
            raise ValueError("the path to its message, after the number of its schema, cannot be read")
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            break
    value = value >> 1 ^ -(value & 1)
    if value < 0:
        raise ValueError("the path to its message, after the number of its schema, cannot be read")
    return value, place


def _indexes(descriptor: Any) -> bytes:
    """The path to a message in its file: how many steps, and which of its neighbours each is; 0 for the very first."""
    path: list[int] = []
    while descriptor is not None:
        outer = descriptor.containing_type
        beside = descriptor.file.message_types_by_name if outer is None else outer.nested_types_by_name
        path.insert(0, list(beside).index(descriptor.name))
        descriptor = outer
    if path == [0]:
        return b"\0"
    return b"".join(map(_zigzag, (len(path), *path)))


def _zigzag(value: int) -> bytes:
    value <<= 1
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))
