"""An app as plain data: what lasts about it (`describe`), and what became of that since (`differences`)."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from evenflow.app import App, _event_classes
from evenflow.event import EventSpec, spec_of

FORMAT = 1
Document = dict[str, Any]


def describe(app: App) -> Document:
    """The app without a server, a path or a time in it: the same for the same code, so it can be committed.

    "topics", "events" and "groups" hold what lasts. `publishes` of a group is what its handler says that it returns.
    """
    specs = [spec_of(cls) for cls in app.event_classes()]
    handlers = [spec for service in app.services for spec in service.handlers()]
    topics: Document = {}
    for topic in [each.topic for each in specs] + [topic for spec in handlers for topic in spec.topics]:
        if topic.name not in topics or topic.owned:
            topics[topic.name] = {
                "owned": topic.owned,
                "partitions": topic.partitions,
                "retention": topic.retention,
                "retention_bytes": topic.retention_bytes,
                "compacted": topic.compacted,
                "codec": topic.codec,
            }
    groups = {
        spec.group: {
            "service": spec.service,
            "kind": spec.kind.value,
            "events": [spec_of(cls).type for cls in spec.events],
            "publishes": [spec_of(cls).type for cls in _event_classes(returned(spec.function))],
            "start": spec.start,
        }
        for spec in handlers
    }
    return {
        "evenflow": FORMAT,
        "app": app.name,
        "topics": dict(sorted(topics.items())),
        "events": {spec.type: _event(spec) for spec in sorted(specs, key=lambda each: each.type)},
        "groups": dict(sorted(groups.items())),
    }


def returned(function: Any) -> Any:
    """What a handler says that it returns."""
    return typing.get_type_hints(function).get("return")


def _event(spec: EventSpec) -> Document:
    return {
        "class": spec.cls.__qualname__,
        "topic": spec.topic.name,
        "version": spec.version,
        "key": list(spec.key),
        "schema": schema(spec),
    }


def schema(spec: EventSpec, template: str = "#/$defs/{name}") -> Document:
    """The JSON schema of an event, with the classes that it uses in "$defs"."""
    if spec.kind == "pydantic":
        model: Any = spec.cls
        found: Document = model.model_json_schema(ref_template=template.replace("{name}", "{model}"))
        return found
    (top,), parts = msgspec.json.schema_components([spec.cls], ref_template=template)
    name = next((each for each in parts if top.get("$ref") == template.format(name=each)), None)
    own = dict(top) if name is None else dict(parts[name])
    if name is not None and top["$ref"].encode() not in msgspec.json.encode(parts):
        del parts[name]  # it does not hold itself
    whole = {**own, "$defs": dict(sorted(parts.items()))} if parts else own
    plain: Document = msgspec.json.decode(msgspec.json.encode(whole))  # as it is read back from a committed file
    return plain


# -- what became of it ------------------------------------------------------------------------------------------------

_SAYS = {"topics": "topic", "events": "event", "groups": "group"}
_FREE = {"class", "publishes"}
"""What may change: names in code, and what a handler returns."""


def differences(committed: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What lasts and is not as it was committed, a line each."""
    if committed.get("evenflow") != FORMAT:
        return [f"the committed description is of format {committed.get('evenflow')!r}, this version writes {FORMAT}"]
    return [line for part, word in _SAYS.items() for line in _part(word, committed.get(part, {}), now.get(part, {}))]


def _part(word: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*before, *now}):
        if name not in now:
            yield f"{word} {name!r} is gone"
        elif name not in before:
            yield f"{word} {name!r} is new"
        else:
            yield from _facts(f"{word} {name!r}", before[name], now[name])


def _facts(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for fact in now:
        if fact in _FREE or before.get(fact) == now[fact]:
            continue
        if fact == "schema":
            yield from _shape(what, before.get(fact, {}), now[fact], raised=before.get("version") != now["version"])
        else:
            yield f"{what}: {fact} was {_short(before.get(fact))} and is {_short(now[fact])}"


def _shape(what: str, before: Mapping[str, Any], now: Mapping[str, Any], *, raised: bool) -> Iterator[str]:
    old, new = before.get("properties", {}), now.get("properties", {})
    hint = "" if raised else "; raise version= and give an upcaster, or old events cannot be read"
    for field in sorted({*old, *new}):
        if field not in new:
            yield f"{what}: the field {field!r} is gone"
        elif field not in old and field in now.get("required", ()):
            yield f"{what}: the field {field!r} is new and has no default{hint}"
        elif field not in old:
            yield f"{what}: the field {field!r} is new"
        elif old[field] != new[field]:
            yield f"{what}: the field {field!r} was {_short(old[field])} and is {_short(new[field])}{hint}"
    for field in sorted(set(now.get("required", ())) - set(before.get("required", ())) & set(old)):
        if field in old:
            yield f"{what}: the field {field!r} has no default any more{hint}"
    if before.get("$defs") != now.get("$defs"):
        yield f"{what}: a class that it holds has another shape{hint}"


def _short(value: Any) -> str:
    if value is None:
        return "not set"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
