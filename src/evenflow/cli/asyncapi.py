"""An app as an AsyncAPI 3.0.0 document: "send" is what it publishes, "receive" what it handles."""

from __future__ import annotations

import inspect
from typing import Any

from evenflow.app import App
from evenflow.codec import CONTENT_TYPES
from evenflow.describe import describe, schema
from evenflow.event import EventSpec, spec_of

Document = dict[str, Any]

_HEADERS: Document = {
    "type": "object",
    "description": "CloudEvents 1.0, binary, with Kafka's prefix; it is ce- on NATS and HTTP, cloudEvents_ on AMQP",
    "required": ["ce_specversion", "ce_id", "ce_source", "ce_type"],
    "properties": {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {"type": "string", "description": "the same at every attempt; unique together with ce_source"},
        "ce_source": {"type": "string", "description": "the service that published it"},
        "ce_type": {"type": "string"},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_partitionkey": {"type": "string", "description": "what stays in order together"},
        "ce_dataversion": {"type": "string", "description": "version of the event's shape"},
        "ce_correlationid": {"type": "string"},
        "ce_causationid": {"type": "string"},
        "ce_traceparent": {"type": "string"},
    },
}


def asyncapi(app: App) -> Document:
    """The document. Engines and their addresses are settings, so it names no servers."""
    found = describe(app)
    specs = {spec.type: spec for spec in map(spec_of, app.event_classes()) if spec.type in found["events"]}
    schemas, messages = _messages(specs)
    channels = {name: _channel(name, topic, found) for name, topic in found["topics"].items()}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": app.name, "version": "1.0.0", "description": _description(app)},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {**_sends(app, found), **_receives(found)},
        "components": {
            "messages": messages,
            "messageTraits": {"cloudevents": {"headers": _HEADERS}},
            "schemas": schemas,
        },
    }


def _description(app: App) -> str:
    names = ", ".join(each.name for each in app.services)
    return f"Services: {names}." if names else "Publishes only."


def _channel(name: str, topic: Document, found: Document) -> Document:
    types = [type_ for type_, event in found["events"].items() if event["topic"] == name]
    channel: Document = {
        "address": name,
        "messages": {each: {"$ref": f"#/components/messages/{each}"} for each in types},
    }
    facts = {key: value for key, value in topic.items() if key not in ("owned", "codec") and value not in (None, False)}
    if not topic["owned"]:
        channel["description"] = "Declared by another team."
    return {**channel, "x-evenflow": facts} if facts else channel


def _sends(app: App, found: Document) -> Document:
    """What handlers return, what was given to `App(events=…)`, and the events of topics that are declared here."""
    sent = {type_ for part in ("groups", "schedules") for each in found.get(part, {}).values()
            for type_ in each["publishes"]}  # fmt: skip
    sent |= {spec_of(cls).type for cls in app._events}
    sent |= {type_ for type_, event in found["events"].items() if found["topics"][event["topic"]]["owned"]}
    return {
        f"send.{topic}": {"action": "send", **_operation(topic, types)}
        for topic in found["topics"]
        if (types := [each for each, event in found["events"].items() if event["topic"] == topic and each in sent])
    }


def _receives(found: Document) -> Document:
    """One operation per group and topic, since an operation has one channel."""
    operations: Document = {}
    for group, facts in found["groups"].items():
        topics = sorted({found["events"][type_]["topic"] for type_ in facts["events"]})
        for topic in topics:
            types = [each for each in facts["events"] if found["events"][each]["topic"] == topic]
            name = f"receive.{group}" if len(topics) == 1 else f"receive.{group}.{topic}"
            operations[name] = {
                "action": "receive",
                **_operation(topic, types),
                "summary": f"{facts['kind']} group {group}",
                "tags": [{"name": facts["service"]}],
            }
    return operations


def _operation(topic: str, types: list[str]) -> Document:
    return {
        "channel": {"$ref": f"#/channels/{topic}"},
        "messages": [{"$ref": f"#/channels/{topic}/messages/{each}"} for each in types],
    }


def _messages(specs: dict[str, EventSpec]) -> tuple[Document, Document]:
    schemas: Document = {}
    messages: Document = {}
    for type_, spec in sorted(specs.items()):
        place = f"#/components/schemas/{type_}.{{name}}"
        whole = schema(spec, place)
        for name, part in whole.pop("$defs", {}).items():
            schemas[f"{type_}.{name}"] = part
        schemas[type_] = whole
        messages[type_] = {
            "name": type_,
            "title": spec.cls.__qualname__,
            **_documented(spec.cls),
            "contentType": CONTENT_TYPES.get(spec.topic.codec, spec.topic.codec),
            "payload": {"$ref": f"#/components/schemas/{type_}"},
            "traits": [{"$ref": "#/components/messageTraits/cloudevents"}],
            "x-evenflow": {"version": spec.version, "key": list(spec.key)},
        }
    return schemas, messages


def _documented(cls: type) -> Document:
    """The docstring that its author wrote, not one that a library made or a base class has."""
    own = cls.__dict__.get("__doc__")
    if not own or own.startswith(f"{cls.__name__}("):
        return {}
    return {"summary": inspect.cleandoc(own).partition("\n")[0]}
