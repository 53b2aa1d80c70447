"""Events: typed facts, and what lasts about them: wire type, topic, key, version.

What is wrong with a class is not told at import but by `spec_of` (by `App(...)` and `evenflow check`), with its line.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, TypeVar, dataclass_transform

import msgspec

from evenflow import checks, fidelity, ids
from evenflow.errors import DefinitionError, EventInvalid, EventTooLarge
from evenflow.topic import Topic

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
Kind = Literal["struct", "dataclass", "pydantic"]
Key = str | tuple[str, ...] | None
E = TypeVar("E")
C = TypeVar("C", bound=type)

KEY_LIMIT = 1024  # bytes of UTF-8
MARK = "__evenflow__"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSpec:
    """What is known about one event class. `where` is "file:line" of the class.

    key_of  the text of an event's key, or None; raises `EventInvalid`
    check   raises `EventInvalid` for what would not survive the trip; None where nothing can be wrong
    """

    cls: type
    kind: Kind
    type: str
    topic: Topic
    version: int
    key: tuple[str, ...]
    upcasters: Mapping[int, Upcaster]
    where: str
    key_of: Callable[[Any], str | None]
    check: Callable[[Any], None] | None


@dataclass(slots=True)
class Declaration:
    """The words as the user wrote them, right or wrong."""

    type: Any
    topic: Any
    key: Any
    version: Any
    upcasters: Any
    where: str
    spec: EventSpec | None = field(default=None)


def _line(depth: int) -> str:
    """The place, "file:line", of the code that is `depth` calls up."""
    frame = sys._getframe(depth)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class EventMeta(msgspec.StructMeta):
    """Lets `class X(Event, type=…)` take our words, which `msgspec.StructMeta` would refuse."""

    def __new__(
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        type: Any = None,
        topic: Any = None,
        key: Any = None,
        version: Any = 1,
        upcasters: Any = None,
        **options: Any,
    ) -> EventMeta:
        options = {"frozen": True, "kw_only": True, **options}
        cls = super().__new__(mcs, name, bases, namespace, **options)
        setattr(cls, MARK, Declaration(type, topic, key, version, upcasters, _line(2)))
        return cls


if TYPE_CHECKING:

    @dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
    class Event:
        """Base of events: frozen, keyword-only. A subclass without `type` only shares fields with its own subclasses.

        type       the name on the wire; lasts
        topic      where it is published
        key        the field, or fields, whose value keeps events in order; None: no order
        version    of the shape; raise it when old bytes would not fit any more
        upcasters  {n: function from the plain dict of version n to that of n + 1}
        """

        def __init_subclass__(
            cls,
            *,
            type: str | None = None,
            topic: Topic | None = None,
            key: Key = None,
            version: int = 1,
            upcasters: Mapping[int, Upcaster] | None = None,
            rename: Literal["lower", "upper", "camel", "pascal", "kebab"] | Mapping[str, str] | None = None,
        ) -> None: ...

else:

    class Event(msgspec.Struct, metaclass=EventMeta):
        """Base of events: frozen, keyword-only. A subclass without `type` only shares fields with its own subclasses.

        type       the name on the wire; lasts
        topic      where it is published
        key        the field, or fields, whose value keeps events in order; None: no order
        version    of the shape; raise it when old bytes would not fit any more
        upcasters  {n: function from the plain dict of version n to that of n + 1}
        """


def event(
    *,
    type: str,
    topic: Topic,
    key: Key = None,
    version: int = 1,
    upcasters: Mapping[int, Upcaster] | None = None,
) -> Callable[[C], C]:
    """Make a dataclass or a pydantic model an event; the words are those of `Event`."""
    where = _line(2)

    def declare(cls: C) -> C:
        setattr(cls, MARK, Declaration(type, topic, key, version, upcasters, where))
        return cls

    return declare


def replace(event: E, /, **changes: Any) -> E:
    """A copy of the event with some fields changed. Raises `TypeError` for a name that is no field."""
    cls: Any = event.__class__
    kind = kind_of(cls)
    if kind == "struct":
        return msgspec.structs.replace(event, **changes)  # type: ignore[type-var]  # a struct, at run time
    if kind == "dataclass":
        return dataclasses.replace(event, **changes)  # type: ignore[type-var]  # a dataclass, at run time
    unknown = [name for name in changes if kind is None or name not in cls.model_fields]
    if unknown or kind is None:
        raise TypeError(f"{cls.__name__} has no field {unknown[0]!r}" if unknown else f"{cls.__name__} is no event")
    copy: E = event.model_copy(update=changes)  # type: ignore[attr-defined]  # a pydantic model
    return copy


def kind_of(cls: type) -> Kind | None:
    """What kind of class it is, without importing pydantic."""
    if issubclass(cls, msgspec.Struct):
        return "struct"
    if dataclasses.is_dataclass(cls):
        return None if hasattr(cls, "__pydantic_validator__") else "dataclass"
    return "pydantic" if hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_fields") else None


def is_event(cls: object) -> bool:
    """Whether the class was declared as an event that can be published."""
    declared = _declared(cls)
    return declared is not None and declared.type is not None


def spec_of(cls: type) -> EventSpec:
    """What is known about an event class. Raises `DefinitionError`, with its line, for the first thing wrong."""
    declared = _declared(cls)
    if declared is not None and declared.spec is not None:
        return declared.spec
    for problem in problems_of(cls):
        raise problem
    assert declared is not None
    declared.spec = _build(cls, declared)
    return declared.spec


def problems_of(cls: type) -> list[DefinitionError]:
    """Everything that is wrong with an event class."""
    declared = _declared(cls)
    name = getattr(cls, "__qualname__", repr(cls))
    if declared is None:
        remedy = "derive it from Event, or decorate a dataclass or pydantic model with @event(type=…, topic=…)"
        return [DefinitionError(f"{name} is not an event class", remedy=remedy)]
    found: list[tuple[str, str]] = [*_wrong_words(declared), *_wrong_upcasters(declared)]
    kind = kind_of(cls)
    if kind is None:
        found.append(("is no struct, dataclass or pydantic model", "put @event above @dataclass, or derive from Event"))
    else:
        try:
            fields = fidelity.fields_of(cls)
        except Exception as error:
            found.append((f"has a field that cannot be sent: {error}", "use types that JSON has a place for"))
        else:
            found += _wrong_key(declared.key, fields)
            found += fidelity.misfits(cls, fields)
    return [DefinitionError(f"{name} {what}", where=declared.where, remedy=remedy) for what, remedy in found]


def _declared(cls: object) -> Declaration | None:
    return cls.__dict__.get(MARK) if isinstance(cls, type) else None


def _wrong_words(declared: Declaration) -> list[tuple[str, str]]:
    found = []
    name, version = declared.type, declared.version
    if name is None:
        found.append(("has no type of its own, so it cannot be published or handled", 'add type="…" to the class'))
    elif not isinstance(name, str) or not ids.is_name(name):
        found.append((f"has type={name!r}, which cannot be used", f"use {ids.NAME_RULE}"))
    if not isinstance(declared.topic, Topic):
        wrong = "has no topic" if declared.topic is None else f"has topic={declared.topic!r}, which is no Topic"
        found.append((wrong, 'write topic=Topic("…")'))
    if type(version) is not int or not 1 <= version < 2**31:
        found.append((f"has version={version!r}", "count versions from 1"))
    return found


def _wrong_upcasters(declared: Declaration) -> list[tuple[str, str]]:
    upcasters, version = declared.upcasters, declared.version
    if not upcasters or type(version) is not int:
        return []
    if not isinstance(upcasters, Mapping) or not all(callable(each) for each in upcasters.values()):
        return [("has upcasters that are no mapping of functions", "write upcasters={1: v1_to_v2}")]
    needed = set(range(min((n for n in upcasters if type(n) is int), default=1), version))
    missing, surplus = sorted(needed - set(upcasters)), [n for n in upcasters if n not in needed]
    found = [(f"has no upcaster from version {n} to {n + 1}", f"add {n}: … to upcasters") for n in missing]
    return found + [
        (f"has an upcaster from version {n!r}, but is at version {version}", "raise version=, or drop the upcaster")
        for n in surplus
    ]


def _wrong_key(key: Any, fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    if key is None:
        return []
    names = key if isinstance(key, tuple) else (key,)
    if not names or not all(isinstance(name, str) for name in names):
        return [(f"has key={key!r}", "name one field, or several in a tuple")]
    found = []
    for name in names:
        if name not in fields:
            close = ", ".join(fields) or "none"
            found.append((f"has key={name!r}, which is no field", f"name one of its fields: {close}"))
        elif not fidelity.may_be_key(fields[name]):
            found.append((f"has key={name!r}, whose type cannot be a key", "use text, an integer or a UUID"))
    return found


def _build(cls: type, declared: Declaration) -> EventSpec:
    kind = kind_of(cls)
    assert kind is not None
    key = declared.key if isinstance(declared.key, tuple) else () if declared.key is None else (declared.key,)
    return EventSpec(
        cls=cls,
        kind=kind,
        type=declared.type,
        topic=declared.topic,
        version=declared.version,
        key=key,
        upcasters=dict(declared.upcasters or {}),
        where=declared.where,
        key_of=_key_reader(cls, key),
        check=checks.checker(cls, kind),
    )


def _key_reader(cls: type, key: tuple[str, ...]) -> Callable[[Any], str | None]:
    if not key:
        return lambda _: None

    fields, as_text = attrgetter(*key), ids.key_part if len(key) == 1 else ids.key_text

    def key_of(event: Any) -> str:
        try:
            text = as_text(fields(event))
            data = text.encode()
        except (TypeError, ValueError) as error:
            raise EventInvalid(
                f"{cls.__qualname__} cannot be published: its key {', '.join(key)} is {_show(event, key)}: {error}",
                remedy="give every event a key of text, an integer or a UUID, or declare key=None for no order",
            ) from error
        if not data or "\x00" in text:
            raise EventInvalid(
                f"{cls.__qualname__} cannot be published: its key {', '.join(key)} is empty or contains a NUL",
                remedy="give it a text that says what stays in order, or declare key=None for no order",
            )
        if len(data) > KEY_LIMIT:
            raise EventTooLarge(
                f"{cls.__qualname__} cannot be published: its key {', '.join(key)} has {len(data)} bytes",
                remedy=f"use a key of at most {KEY_LIMIT} bytes",
            )
        return text

    return key_of


def _show(event: Any, key: tuple[str, ...]) -> str:
    return ", ".join(repr(getattr(event, name, "missing"))[:80] for name in key)
