"""Whether events that were written by one shape of a class can be read by another, judged by their JSON schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_LOW = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_HIGH = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SAME = ("format", "contentEncoding", "pattern", "multipleOf")
_NUMBERS = {("integer", "number")}


def obstacles(old: Schema, new: Schema) -> list[str]:
    """Why some event of the old shape could not be read as the new one; nothing where all can.

    Where it cannot be known it says so: that something is narrower counts, even if no event ever went so far.
    """
    return list(dict.fromkeys(_Reading(old, new).obstacles("", old, new)))


class _Reading:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old = old.get("$defs", {})
        self._new = new.get("$defs", {})
        self._open: list[tuple[Any, Any]] = []

    def obstacles(self, where: str, old: Schema, new: Schema) -> Iterator[str]:
        names = (old.get("$ref"), new.get("$ref"))
        if names in self._open:  # a class within itself
            return
        self._open.append(names if any(names) else (None, object()))
        yield from self._compared(where, _resolved(old, self._old), _resolved(new, self._new))
        self._open.pop()

    def _compared(self, where: str, old: Schema, new: Schema) -> Iterator[str]:
        if not _facts(new):  # anything goes
            return
        if "anyOf" in old:
            for each in old["anyOf"]:
                yield from self.obstacles(where, each, new)
        elif "anyOf" in new:
            if all(any(self.obstacles(where, old, each)) for each in new["anyOf"]):
                yield _said(where, f"was {_kind(old)} and is {_kind(new)}")
        elif "enum" in new:
            yield from self._values(where, old, new)
        elif "enum" in old:
            if {_type_of(value) for value in old["enum"]} != {new.get("type")}:
                yield _said(where, f"was {_kind(old)} and is {_kind(new)}")
        elif not _same_type(old, new):
            yield _said(where, f"was {_kind(old)} and is {_kind(new)}")
        else:
            yield from self._narrower(where, old, new)
            yield from self._inside(where, old, new)

    def _values(self, where: str, old: Schema, new: Schema) -> Iterator[str]:
        if "enum" not in old:
            yield _said(where, f"was {_kind(old)} and is {_kind(new)}")
        for value in old.get("enum", ()):
            if value not in new["enum"]:
                yield _said(where, f"may be {value!r} no more")

    def _narrower(self, where: str, old: Schema, new: Schema) -> Iterator[str]:
        for limit in _SAME:
            if limit in new and old.get(limit) != new[limit]:
                yield _said(where, f"had {old.get(limit) or 'no'} {limit} and has {new[limit]}")
        for limit in (*_LOW, *_HIGH):
            if limit in new:
                was, sign = old.get(limit), 1 if limit in _LOW else -1
                if was is None or sign * was < sign * new[limit]:
                    yield _said(where, f"had {'no' if was is None else was} {limit} and has {new[limit]}")

    def _inside(self, where: str, old: Schema, new: Schema) -> Iterator[str]:
        before, now = old.get("properties", {}), new.get("properties", {})
        for name in now:
            place = f"{where}.{name}" if where else name
            if name in before:
                yield from self.obstacles(place, before[name], now[name])
            if name in new.get("required", ()) and name not in old.get("required", ()):
                yield _said(place, "has no default any more" if name in before else "is new and has no default")
        if new.get("additionalProperties") is False:
            yield from (_said(f"{where}.{name}".lstrip("."), "is gone") for name in before if name not in now)
        for part in ("items", "additionalProperties"):
            if isinstance(old.get(part), Mapping) and isinstance(new.get(part), Mapping):
                yield from self.obstacles(f"{where}[]", old[part], new[part])
            elif isinstance(new.get(part), Mapping) and part == "items" and "prefixItems" in old:
                for each in old["prefixItems"]:
                    yield from self.obstacles(f"{where}[]", each, new[part])
        for index, each in enumerate(new.get("prefixItems", ())):
            entries = old.get("prefixItems", ())
            was = entries[index] if index < len(entries) else old.get("items")
            if isinstance(was, Mapping):
                yield from self.obstacles(f"{where}[{index}]", was, each)


def _resolved(schema: Schema, parts: Mapping[str, Any]) -> Schema:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: Schema = parts.get(str(reference).rpartition("/")[2], schema)
    return found


def _facts(schema: Schema) -> Any:
    return {"type", "anyOf", "enum", "$ref", "properties"} & schema.keys()


def _same_type(old: Schema, new: Schema) -> bool:
    was, now = old.get("type"), new.get("type")
    return was == now or (was, now) in _NUMBERS


def _type_of(value: object) -> str:
    return "string" if isinstance(value, str) else "integer" if isinstance(value, int) else "null"


def _kind(schema: Schema) -> str:
    """A shape as a person says it."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        return f"one of {', '.join(map(repr, schema['enum']))}"
    encoded = "bytes" if "contentEncoding" in schema else None
    return str(encoded or schema.get("format") or schema.get("title") or schema.get("type") or "anything")


def _said(where: str, what: str) -> str:
    return f"{where} {what}" if where else what
