"""JSON with a schema in a registry, as Confluent's serializers frame it. What is read is checked by its class."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from evenflow.codec import CONTENT_TYPES, FRAME, BytesReader, Reader, Writer
from evenflow.codecs.framed import FramedCodec, frame, number_in
from evenflow.codecs.json import JsonCodec
from evenflow.codecs.schemas import Schema
from evenflow.errors import MissingExtra

if TYPE_CHECKING:
    from evenflow.event import EventSpec

_decoder = msgspec.json.Decoder()


class JsonSchemaCodec(FramedCodec):
    """Events as JSON objects with a schema.

    register  add the schemas of the classes to their subjects at the start. Without it events are written with the
              latest schema of their subject, and each is checked against it
    """

    name = "json-schema"
    content_type = CONTENT_TYPES["json-schema"]
    kind = "JSON"

    def __init__(self, *, register: bool = False) -> None:
        super().__init__(register=register)
        self._json = JsonCodec()

    def reader(self, spec: EventSpec) -> Reader:
        inner = self._json.reader(spec)
        assert isinstance(inner, BytesReader)
        read = inner.decode
        return BytesReader(lambda data: read(_content(data)))

    def loads(self, _topic: str, _headers: Mapping[str, str] | None, data: bytes) -> Any:
        return _decoder.decode(_content(data))

    def text(self, spec: EventSpec) -> str:
        if spec.kind == "pydantic":
            return json.dumps(spec.cls.model_json_schema())  # type: ignore[attr-defined]  # a pydantic model
        return json.dumps(msgspec.json.schema(spec.cls))

    def compiled(self, spec: EventSpec, schema: Schema) -> Writer:
        begin, write = frame(schema.number), self._json.writer(spec)
        if self._register:  # the class is the schema
            return lambda event: begin + write(event)
        check = _checker(schema)

        def checked(event: Any) -> bytes:
            data = write(event)
            check(_decoder.decode(data))
            return begin + data

        return checked


def _content(data: bytes) -> bytes:
    number_in(data)
    return data[FRAME:]


def _checker(schema: Schema) -> Callable[[Any], None]:
    """A function that raises `ValueError` for what the schema forbids."""
    try:
        from jsonschema.exceptions import best_match
        from jsonschema.validators import validator_for
    except ImportError as error:
        raise MissingExtra(
            "the codec 'json-schema', to publish with a schema of others,", extra="jsonschema"
        ) from error
    rules = json.loads(schema.text)
    validator = validator_for(rules)(rules)

    def check(content: Any) -> None:
        wrong = best_match(validator.iter_errors(content))
        if wrong is not None:
            where = ".".join(map(str, wrong.absolute_path))
            raise ValueError(f"{where or 'it'} does not fit schema {schema.number}: {wrong.message}")

    return check
