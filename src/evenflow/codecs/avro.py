"""Avro, as Confluent's serializers frame it. What is read is resolved from the writer's schema, by its number."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from evenflow.codec import CONTENT_TYPES, FRAME, FRAMED, BytesReader, Reader, Writer
from evenflow.codecs.framed import FramedCodec, frame, number_in
from evenflow.codecs.plain import KEPT, converter, plainer
from evenflow.codecs.schemas import Schema, Schemas
from evenflow.errors import DecodeError, DefinitionError, MissingExtra

if TYPE_CHECKING:
    from evenflow.event import EventSpec

AvroSchema = str | dict[str, Any]


class AvroCodec(FramedCodec):
    """Events as Avro records.

    schemas   by class, its schema, as JSON text or as a dict. It is what such events are written with, and what others
              are resolved to when they are read: defaults, aliases, promotions. A class that is not among them is
              written with the latest schema of its subject, and takes what the writer's schema gives
    register  add them to their subjects at the start
    """

    name = "avro"
    content_type = CONTENT_TYPES["avro"]
    kind = "AVRO"

    def __init__(self, schemas: Mapping[type, AvroSchema] | None = None, *, register: bool = False) -> None:
        super().__init__(register=register)
        try:
            import fastavro
        except ImportError as error:
            raise MissingExtra("the codec 'avro'", extra="avro") from error
        self._avro = fastavro
        self._texts = {
            cls: given if isinstance(given, str) else json.dumps(given) for cls, given in (schemas or {}).items()
        }
        self._own = {cls: self._given(cls, text) for cls, text in self._texts.items()}
        self._parsed: dict[int, Any] = {}

    async def learn(self, schemas: Schemas, specs: Sequence[EventSpec], place: Callable[[str], str]) -> None:
        self._parsed.clear()  # another registry may number otherwise
        await super().learn(schemas, specs, place)

    async def prepare(self, data: Iterable[bytes]) -> None:
        numbers = {each[1:FRAME] for each in data if each[:1] == FRAMED}
        wanted = [number for each in numbers if (number := int.from_bytes(each, "big")) not in self._parsed]
        if wanted:
            await self.schemas.fetch(sorted(wanted))

    def reader(self, spec: EventSpec) -> Reader:
        read, parsed, own = self._avro.schemaless_reader, self._parsed, self._own.get(spec.cls)
        convert = converter(spec, values=True)

        def decode(data: bytes) -> Any:
            number = number_in(data)
            schema = parsed.get(number) or self._parse(number)
            stream = BytesIO(data)
            stream.seek(FRAME)
            content = read(stream, schema, own)
            if stream.tell() != len(data):
                raise ValueError(f"it is longer than what schema {number} describes")
            return convert(content)

        return BytesReader(decode)

    def loads(self, _topic: str, _headers: Mapping[str, str] | None, data: bytes) -> Any:
        schema = self._parse(number_in(data))
        return self._avro.schemaless_reader(BytesIO(data[FRAME:]), schema, None)

    def text(self, spec: EventSpec) -> str:
        return self._texts.get(spec.cls, "")

    def exact(self, spec: EventSpec) -> bool:
        return spec.cls in self._texts

    def compiled(self, spec: EventSpec, schema: Schema) -> Writer:
        write, begin, parsed = self._avro.schemaless_writer, frame(schema.number), self._schema(schema)
        values, texts = plainer(spec, KEPT), plainer(spec, (bytes,))

        def written(content: Any) -> bytes:
            stream = BytesIO()
            stream.write(begin)
            write(stream, parsed, content, strict_allow_default=True)
            return stream.getvalue()

        def encode(event: Any) -> bytes:
            try:
                return written(values(event))
            except (TypeError, ValueError, AttributeError):  # perhaps times and numbers are text there
                try:
                    return written(texts(event))
                except (TypeError, ValueError, AttributeError):
                    pass
                raise

        return encode

    def _parse(self, number: int) -> Any:
        """The schema of this number. Raises `DecodeError`, and `SchemasUnavailable` for one that is not known yet."""
        found = self._parsed.get(number)
        if found is None:
            schema = self.schemas.known(number)
            if schema.kind != self.kind:
                raise DecodeError(f"schema {number}", f"its schema {number} is of {schema.kind}, not of Avro")
            found = self._parsed[number] = self._schema(schema)
        return found

    def _schema(self, schema: Schema) -> Any:
        named: dict[str, Any] = {}
        for part in schema.parts:
            self._avro.parse_schema(json.loads(part), named)
        return self._avro.parse_schema(json.loads(schema.text), named)

    def _given(self, cls: type, text: str) -> Any:
        try:
            return self._avro.parse_schema(json.loads(text))
        except Exception as error:
            raise DefinitionError(
                f"the schema of {cls.__qualname__} is no Avro schema: {error}", remedy="give it as in an .avsc file"
            ) from error
