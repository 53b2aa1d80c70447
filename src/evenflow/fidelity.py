"""What would not survive the trip through JSON: NaN, times without a zone, wrong types, bottomless nesting.

Here by looking at a value, or at the fields of a class; `checks` compiles it per class.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, get_type_hints
from uuid import UUID

import msgspec
from msgspec import inspect as node

from evenflow.errors import EventInvalid, EventTooLarge

DEPTH_LIMIT = 32
INT_MIN, INT_MAX = -(2**63), 2**63 - 1

TOO_DEEP = f"is nested deeper than {DEPTH_LIMIT} levels"
_NOT_FINITE = "is not a finite number, which JSON has no place for"
_TOO_WIDE = "is an integer of more than 64 bits"
_NO_ZONE = "has no time zone"
_ODD_ZONE = "has a zone whose offset is no whole minute, which would change it"
REMEDY = {
    TOO_DEEP: "flatten it, or keep the large part elsewhere and send a reference",
    _NOT_FINITE: "send None, or leave the field out",
    _TOO_WIDE: "send it as text",
    _NO_ZONE: "use a time with a zone, such as datetime.now(UTC)",
    _ODD_ZONE: "convert it with .astimezone(UTC)",
}
HARMLESS = frozenset({type(None), bool, str, bytes, UUID, dt.date, dt.timedelta})

Flaw = tuple[str, str]
"""Where, below the value, and what."""


def flaw(value: Any, depth: int = 0) -> Flaw | None:
    """The first thing in a value that would be changed or refused on the way, by its own types."""
    kind = type(value)
    if kind in HARMLESS:
        return None
    if isinstance(value, (int, float, Decimal, dt.time, dt.date)):
        reason = _scalar_flaw(value)
        return ("", reason) if reason else None
    if isinstance(value, dict):
        parts: Any = value.items()
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = enumerate(value)
    else:
        parts = _attributes(value)
        if parts is None:
            return None
    if depth >= DEPTH_LIMIT:
        return ("", TOO_DEEP)
    for name, part in parts:
        found = flaw(part, depth + 1) or (flaw(name) if kind is dict else None)
        if found is not None:
            return (f"[{name!r}]{found[0]}", found[1])
    return None


def _scalar_flaw(value: Any) -> str:
    if isinstance(value, int):
        return "" if INT_MIN <= value <= INT_MAX else _TOO_WIDE
    if isinstance(value, float):
        return "" if math.isfinite(value) else _NOT_FINITE
    if isinstance(value, Decimal):
        return "" if value.is_finite() else _NOT_FINITE
    if isinstance(value, (dt.datetime, dt.time)):
        offset = value.utcoffset()
        return _NO_ZONE if offset is None else _ODD_ZONE if offset % dt.timedelta(minutes=1) else ""
    return ""


def _attributes(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return [(name, getattr(value, name)) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value):
        return [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value)]
    if hasattr(type(value), "__pydantic_validator__"):
        return [*value.__dict__.items(), *(getattr(value, "__pydantic_extra__", None) or {}).items()]
    return None


def fields_of(cls: type) -> dict[str, Any]:
    """The fields of an event class and their types, as `msgspec.inspect` nodes. Raises `TypeError` or `NameError`."""
    if issubclass(cls, msgspec.Struct) or dataclasses.is_dataclass(cls):
        info: Any = node.type_info(cls)
        return {each.name: each.type for each in info.fields}
    hints = get_type_hints(cls, include_extras=True)
    return {name: _loose(hints.get(name, Any)) for name in cls.model_fields}  # type: ignore[attr-defined]


def _loose(hint: Any) -> Any:
    """A pydantic field's type; what msgspec does not know is pydantic's business."""
    try:
        return node.type_info(hint)
    except TypeError:
        return node.AnyType()


def may_be_key(kind: Any) -> bool:
    """Whether values of this type can be a key."""
    if isinstance(kind, node.UnionType):
        return any(may_be_key(each) for each in kind.types if not isinstance(each, node.NoneType))
    if isinstance(kind, node.LiteralType):
        return all(isinstance(each, (str, int)) for each in kind.values)
    if isinstance(kind, node.EnumType):
        return issubclass(kind.cls, str)
    return isinstance(kind, (node.StrType, node.IntType, node.UUIDType, node.CustomType, node.AnyType))


def misfits(cls: type, fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Fields whose type cannot make the trip: what is wrong, and the remedy."""
    if hasattr(cls, "__pydantic_validator__"):
        return [
            (f"has the field {name!r}, which is excluded and would be lost", "drop exclude=True")
            for name, each in cls.model_fields.items()  # type: ignore[attr-defined]
            if each.exclude is True
        ]
    found = [
        (f"has the field {name!r}: {wrong}", remedy)
        for name, each in fields.items()
        for wrong, remedy in _unfit(each, ())
    ]
    if dataclasses.is_dataclass(cls):
        lost = [each.name for each in dataclasses.fields(cls) if not each.init]
        found += [
            (f"has the field {name!r} with init=False, which would be lost", "make it a property") for name in lost
        ]
    return found


def _unfit(kind: Any, seen: tuple[type, ...]) -> list[tuple[str, str]]:
    if isinstance(kind, (node.RawType, node.ExtType, node.CustomType)):
        name = getattr(getattr(kind, "cls", None), "__qualname__", type(kind).__name__.removesuffix("Type"))
        return [
            (
                f"values of {name} have no place in JSON",
                "use a struct, a dataclass, or a built-in type; Any for free-form data",
            )
        ]
    if isinstance(kind, (node.DateTimeType, node.TimeType)) and kind.tz is False:
        return [("it asks for times without a zone", "use times with a zone: Meta(tz=True), or no Meta")]
    if isinstance(kind, node.DictType) and isinstance(
        kind.key_type, (node.FloatType, node.TupleType, node.VarTupleType, node.StructType)
    ):
        return [("JSON has no place for such keys of a dict", "use keys of text or integers")]
    if isinstance(kind, (node.StructType, node.DataclassType)):
        if kind.cls in seen:
            return []
        seen = (*seen, kind.cls)
    return [each for part in parts_of(kind) for each in _unfit(part, seen)]


def parts_of(kind: Any) -> list[Any]:
    """The types within a type."""
    if isinstance(kind, (node.ListType, node.SetType, node.FrozenSetType, node.VarTupleType)):
        return [kind.item_type]
    if isinstance(kind, node.DictType):
        return [kind.key_type, kind.value_type]
    if isinstance(kind, node.UnionType):
        return list(kind.types)
    if isinstance(kind, node.TupleType):
        return list(kind.item_types)
    if isinstance(kind, (node.StructType, node.DataclassType, node.TypedDictType, node.NamedTupleType)):
        return [each.type for each in kind.fields]
    return []


def refuse_flaw(cls: type, name: str, value: Any) -> None:
    """Raise `EventInvalid` or `EventTooLarge` for what `flaw` finds in a field."""
    found = flaw(value)
    if found is not None:
        path, reason = found
        error = EventTooLarge if reason is TOO_DEEP else EventInvalid
        raise error(f"{cls.__qualname__} cannot be published: {name}{path} {reason}", remedy=REMEDY[reason])
