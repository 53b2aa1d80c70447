"""An app as plain data: what lasts about it."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
from msgspec import inspect as node

from evenflow.app import App, _event_classes
from evenflow.event import EventSpec, spec_of
from evenflow.fidelity import fields_of
from evenflow.records import Records
from evenflow.schedules.schedule import Due

FORMAT = 1
Document = dict[str, Any]


def describe(app: App) -> Document:
    """The app without a server, a path or a time in it: the same for the same code, so it can be committed.

    "topics", "events", "groups" and "schedules" hold what lasts. `publishes` is what a handler says that it returns. Of
    a schedule's own topic and event nothing is said: they are Evenflow's.
    """
    specs = [spec_of(cls) for cls in app.event_classes() if not issubclass(cls, Due)]
    handlers = [spec for service in app.services for spec in service.handlers() if spec.schedule is None]
    schedules = {
        spec.group: {
            "service": spec.service,
            "kind": spec.kind.value,
            "cron": schedule.recurrence.line or None,
            "tz": schedule.recurrence.tz,
            "every": schedule.recurrence.seconds or None,
            "missed": schedule.missed,
            "publishes": [spec_of(cls).type for cls in _event_classes(returned(spec.function))],
        }
        for service in app.services
        for spec in service.handlers()
        if (schedule := spec.schedule) is not None
    }
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
                **({} if topic.records is None else {"records": _records(topic.records)}),
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
        **({"schedules": dict(sorted(schedules.items()))} if schedules else {}),
    }


def _records(records: Records) -> Document:
    said = {"always": records.always, "header": records.header, "field": records.field}
    return {**{name: text for name, text in said.items() if text}, "names": dict(sorted((records.names or {}).items()))}


def returned(function: Any) -> Any:
    """What a handler says that it returns."""
    return typing.get_type_hints(function).get("return")


def _event(spec: EventSpec) -> Document:
    return {
        "class": spec.cls.__qualname__,
        "topic": spec.topic.name,
        "version": spec.version,
        "reads": min([spec.version, *spec.upcasters]),
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
    _name_times(spec.cls, plain, plain.get("$defs", {}), [])
    return plain


def _name_times(cls: type, shape: Document, parts: Document, seen: list[type]) -> None:
    """Times are plain strings in msgspec's schemas, so that one could not tell a time from a text."""
    if cls in seen:
        return
    seen.append(cls)
    properties = shape.get("properties", {})
    for name, kind in fields_of(cls).items():
        if name in properties:
            _name_time(kind, properties[name], parts, seen)


def _name_time(kind: Any, shape: Any, parts: Document, seen: list[type]) -> None:
    if isinstance(kind, (node.DateTimeType, node.TimeType)):
        shape.setdefault("format", "date-time" if isinstance(kind, node.DateTimeType) else "time")
    elif isinstance(kind, node.UnionType):
        texts = [each for each in shape.get("anyOf", ()) if each == {"type": "string"}]
        if not any(isinstance(each, node.StrType) for each in kind.types):
            for each in kind.types:
                if isinstance(each, (node.DateTimeType, node.TimeType)) and texts:
                    _name_time(each, texts[0], parts, seen)
        for each in kind.types:
            _name_time(each, {}, parts, seen)  # classes below
    elif isinstance(kind, (node.StructType, node.DataclassType)):
        _name_times(kind.cls, parts.get(kind.cls.__name__, {}), parts, seen)
    elif isinstance(kind, (node.ListType, node.SetType, node.FrozenSetType, node.VarTupleType)):
        _name_time(kind.item_type, shape.get("items", {}), parts, seen)
    elif isinstance(kind, node.DictType):
        _name_time(kind.value_type, shape.get("additionalProperties", {}), parts, seen)
