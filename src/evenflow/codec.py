"""CONTRACT: how an event becomes bytes. A codec is asked once per event class, and answers with plain functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from evenflow.codecs.schemas import Schemas
    from evenflow.event import EventSpec

Writer = Callable[[Any], bytes]
Reader = Callable[[str, Mapping[str, str] | None, bytes], Any]

CONTENT_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "json": "application/json",
        "msgpack": "application/msgpack",
        "avro": "application/vnd.confluent.avro",
        "protobuf": "application/vnd.confluent.protobuf",
        "json-schema": "application/vnd.confluent.jsonschema",
    }
)
"""What the codecs that come with Evenflow write, by their names."""


BROKEN = "application/vnd.evenflow.broken"
"""The content type of a record that claims to be an event and cannot be taken apart: its header `reason` says why."""
BROKEN_TYPE = "evenflow.broken"
"""The type of one that does not say its own."""
FRAMED = b"\0"
"""How bytes begin that name their schema in a registry: this, then the schema's number in 4 bytes."""
FRAME = 5


class BytesReader:
    """A reader that looks at the bytes alone. The runner calls `decode` itself, which saves a call per event."""

    __slots__ = ("decode",)

    def __init__(self, decode: Callable[[bytes], Any]) -> None:
        self.decode = decode

    def __call__(self, _topic: str, _headers: Mapping[str, str] | None, data: bytes) -> Any:
        return self.decode(data)


class Codec(Protocol):
    """Bytes from and to events. `reader` and `writer` are called once per class; what they return is the hot path."""

    name: str
    content_type: str

    def writer(self, spec: EventSpec) -> Writer:
        """A function from an event to bytes. It may raise anything; the caller names the event."""
        ...

    def reader(self, spec: EventSpec) -> Reader:
        """A function from (topic, headers, bytes) to an event of the class, at its current version.

        It may raise anything; the caller turns it into `DecodeError`. Best a `BytesReader`, where the bytes suffice.
        """
        ...

    def loads(self, topic: str, headers: Mapping[str, str] | None, data: bytes) -> Any:
        """The bytes as plain dicts, lists, text and numbers: for upcasters and for showing them to a person."""
        ...


@runtime_checkable
class SchemaCodec(Codec, Protocol):
    """A codec whose schemas are kept in a registry. `writer` and `reader` work from what it has learnt so far."""

    async def learn(self, schemas: Schemas, specs: Sequence[EventSpec], place: Callable[[str], str]) -> None:
        """Called once, before the first event, with the classes of its topics. `place` gives a topic's name there."""
        ...

    async def prepare(self, data: Iterable[bytes]) -> None:
        """Called before these are read. Raises `SchemasUnavailable`; what is wrong otherwise is said by `reader`."""
        ...
