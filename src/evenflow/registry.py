"""The event types that one App knows: from an event to bytes at publish, from an envelope to an event at handling."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from types import MappingProxyType
from typing import Any
from zlib import crc32

from evenflow.codec import BROKEN, BROKEN_TYPE, BytesReader, Codec, Reader
from evenflow.codecs.json import JsonCodec
from evenflow.codecs.msgpack import MsgpackCodec
from evenflow.codecs.plain import converter
from evenflow.envelope import Envelope
from evenflow.errors import (
    DecodeError,
    DefinitionError,
    EventInvalid,
    EventTooLarge,
    NewerVersion,
    PublishError,
    SchemasUnavailable,
)
from evenflow.event import KEY_LIMIT, Event, EventSpec, spec_of
from evenflow.fidelity import TOO_DEEP
from evenflow.ids import slot_of
from evenflow.topic import Topic

SIZE_LIMIT = 1024 * 1024  # bytes of one event

Encoded = tuple[EventSpec, str | None, int, bytes, str]
"""(spec, key, slot, data, content type). The slot of an event without a key is -1: the caller spreads them."""

Encode = Callable[[Any, int], Encoded]


class Registry:
    """Event classes by wire type. One wire type means one class here; another App may mean another."""

    def __init__(self, classes: Iterable[type] = (), codecs: Iterable[Codec] = ()) -> None:
        known: list[Codec] = [JsonCodec(), MsgpackCodec(), *codecs]
        self._codecs = {each.name: each for each in known}
        self._contents = {each.content_type: each for each in self._codecs.values()}
        self._by_type: dict[str, Binding] = {}
        self.encoders: dict[type, Encode] = {}
        """See `encode`; by class, for those who have many events."""
        self.by_type = MappingProxyType(self._by_type)
        for cls in classes:
            self.add(cls)

    def add(self, cls: type) -> Binding:
        """Make a class known; again is no harm. Raises `DefinitionError` for a wrong class or a type taken."""
        spec = spec_of(cls)
        known = self._by_type.get(spec.type)
        if known is not None and known.spec.cls is cls:
            return known
        if known is not None:
            raise DefinitionError(
                f"{cls.__qualname__} is of type {spec.type!r}, and so is "
                f"{known.spec.cls.__qualname__} ({known.spec.where})",
                where=spec.where,
                remedy="give one of them another type, or use one class in all services of this app",
            )
        codec = self._codecs.get(spec.topic.codec)
        if codec is None:
            raise DefinitionError(
                f"{cls.__qualname__} is published to {spec.topic.name!r}, "
                f"whose codec {spec.topic.codec!r} is not known",
                where=spec.where,
                remedy=f"use one of {', '.join(sorted(self._codecs))}, or give the codec to the App",
            )
        binding = self._by_type[spec.type] = Binding(spec, codec, self._contents)
        self.encoders[cls] = _encoder(spec, codec)
        return binding

    def encode(self, event: Any, limit: int = SIZE_LIMIT) -> Encoded:
        """The event as bytes. Raises `EventInvalid` or `EventTooLarge`, naming class and field.

        An event of a class that is not known yet is added (so it may raise `DefinitionError`, once).
        """
        return (self.encoders.get(type(event)) or self.encoder(type(event)))(event, limit)

    def encoder(self, cls: type) -> Encode:
        """What encodes the events of a class. Raises `DefinitionError`."""
        self.add(cls)
        return self.encoders[cls]


class BrokenRecord(Event, type=BROKEN_TYPE, topic=Topic(BROKEN_TYPE)):
    """What claims to be an event, and of what type cannot be told: every group that reads its topic asks for it."""


class Binding:
    """One event class and how it is read.

    reader        (topic, headers, data) to an event, for the class's own version in the content type of its topic
    decode        the same from data alone, or None where the reader needs more
    content_type  of the topic's codec
    """

    __slots__ = ("_codec", "_contents", "_convert", "_readers", "content_type", "decode", "reader", "spec", "version")

    def __init__(self, spec: EventSpec, codec: Codec, contents: dict[str, Codec]) -> None:
        self.spec = spec
        self.version = spec.version
        self.content_type = codec.content_type
        self.reader: Reader = codec.reader(spec)
        self.decode = self.reader.decode if isinstance(self.reader, BytesReader) else None
        self._codec = codec
        self._convert = converter(spec)
        self._contents = contents
        self._readers: dict[str, Reader] = {codec.name: self.reader}

    def read(self, envelope: Envelope, topic: str) -> Any:
        """The event. Raises `NewerVersion`, `DecodeError` for bytes that are not this event, `SchemasUnavailable`."""
        try:
            if envelope.version == self.version and envelope.content_type == self.content_type:
                if self.decode is not None:
                    return self.decode(envelope.data)
                return self.reader(topic, envelope.headers, envelope.data)
            return self._read_other(envelope, topic)
        except (MemoryError, SchemasUnavailable):
            raise
        except Exception as error:
            raise self.failure(error) from error

    def failure(self, error: Exception) -> DecodeError:
        """What a reader raised, as the error of the event."""
        if isinstance(error, DecodeError):
            return error
        failed = DecodeError(self.spec.type, _reason(error))
        failed.__cause__ = error
        return failed

    def _read_other(self, envelope: Envelope, topic: str) -> Any:
        """Another content type than the topic's, or an older version."""
        if envelope.content_type == BROKEN:
            raise DecodeError(self.spec.type, (envelope.headers or {}).get("reason", "it cannot be taken apart"))
        if envelope.version > self.version:
            raise NewerVersion(self.spec.type, envelope.version, self.version)
        codec = self._codec_of(envelope.content_type)
        if envelope.version < self.version:
            content = self._upcast(codec.loads(topic, envelope.headers, envelope.data), envelope.version)
            return self._convert(content)
        reader = self._readers.get(codec.name)
        if reader is None:
            reader = self._readers[codec.name] = codec.reader(self.spec)
        return reader(topic, envelope.headers, envelope.data)

    def _codec_of(self, content_type: str) -> Codec:
        media = content_type.partition(";")[0].strip().lower()
        if not media:
            return self._codec
        codec = self._contents.get(media) or self._contents.get("application/json" if media.endswith("+json") else "")
        if codec is None:
            raise DecodeError(self.spec.type, f"its content type {content_type!r} is not known")
        return codec

    def _upcast(self, content: Any, version: int) -> dict[str, Any]:
        """The plain content of an older version, brought to the present one step by step."""
        for step in range(version, self.version):
            if not isinstance(content, dict):
                raise DecodeError(self.spec.type, f"version {step} of it is {type(content).__name__}, not an object")
            upcaster = self.spec.upcasters.get(step)
            if upcaster is None:
                raise DecodeError(self.spec.type, f"it has version {version}, and there is no upcaster from {step}")
            try:
                content = upcaster(content)
            except Exception as error:
                raise DecodeError(self.spec.type, f"its upcaster from version {step} raised {error!r}") from error
        if not isinstance(content, dict):
            raise DecodeError(self.spec.type, f"its upcaster to version {self.version} returned no dict")
        return content


def _reason(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else f"{error}" or repr(error)


def _encoder(spec: EventSpec, codec: Codec) -> Encode:
    """The hot path of publishing, for one class."""
    write, content_type = codec.writer(spec), codec.content_type
    key_of, check = spec.key_of, spec.check or _accept
    field = attrgetter(spec.key[0]) if len(spec.key) == 1 else key_of

    def encode(event: Any, limit: int) -> Encoded:
        try:
            check(event)
            data = write(event)
            key = field(event)
            if len(data) > limit:
                raise _too_large(spec, len(data), limit)
            if type(key) is str and (text := key.encode()) and len(text) <= KEY_LIMIT and "\x00" not in key:
                return spec, key, crc32(text) & 0xFF, data, content_type
            key = key_of(event)  # raises, or makes a text of it
        except Exception as error:
            refusal = _refusal(spec, error)
            raise refusal from (None if refusal is error else error)
        return spec, key, -1 if key is None else slot_of(key), data, content_type

    return encode


def _accept(_event: Any) -> None:
    pass


def _refusal(spec: EventSpec, error: Exception) -> PublishError | SchemasUnavailable:
    if isinstance(error, (PublishError, SchemasUnavailable)):
        return error
    name = spec.cls.__qualname__
    if isinstance(error, RecursionError):
        return EventTooLarge(f"{name} cannot be published: it {TOO_DEEP}", remedy="flatten it, or send a reference")
    return EventInvalid(
        f"{name} cannot be published: {error}",
        remedy="give its fields values of their types, and only what JSON can hold",
    )


def _too_large(spec: EventSpec, size: int, limit: int) -> EventTooLarge:
    return EventTooLarge(
        f"{spec.cls.__qualname__} cannot be published: it has {size:,} bytes, "
        f"{limit:,} are allowed in {spec.topic.name!r}",
        remedy="keep the large part elsewhere and send a reference, or raise the limit: max_event_bytes in the "
        "settings; on Kafka also max_bytes= in the engine's URL and max.message.bytes of the topic",
    )
