"""Checks compiled per event class: whether an event would survive the trip, at a few nanoseconds per field.

A test is generated from the annotations; it only says yes or no. Where it says no, the slow way finds the field, or
that the value is harmless after all (an `int` in a float's place).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from msgspec import inspect as node

from evenflow.errors import EventInvalid, EventTooLarge
from evenflow.fidelity import HARMLESS, INT_MAX, INT_MIN, REMEDY, TOO_DEEP, fields_of, flaw, parts_of, refuse_flaw


def checker(cls: type, kind: str) -> Callable[[Any], None] | None:
    """A function that raises for an event that would not survive the trip; None where nothing can be wrong."""
    if kind == "pydantic":
        return _pydantic_checker(cls)
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(cls).decode
    encode = msgspec.json.Encoder().encode
    names = tuple(fields_of(cls))

    def explain(event: Any) -> None:
        for name in names:
            refuse_flaw(cls, name, getattr(event, name))
        try:
            decode(encode(event))
        except RecursionError as error:
            raise EventTooLarge(
                f"{cls.__qualname__} cannot be published: it {TOO_DEEP}", remedy=REMEDY[TOO_DEEP]
            ) from error
        except Exception as error:
            raise EventInvalid(
                f"{cls.__qualname__} cannot be published, since it could not be read back: {error}",
                remedy="give the field a value of its declared type",
            ) from error

    return _Tests().function(cls, explain) if names else None


def _pydantic_checker(cls: type) -> Callable[[Any], None] | None:
    names = tuple(name for name, kind in fields_of(cls).items() if not _harmless(kind))

    def check(event: Any) -> None:
        for name in names:
            refuse_flaw(cls, name, getattr(event, name))

    return check if names else None


def _harmless(kind: Any) -> bool:
    if isinstance(
        kind, (node.UnionType, node.ListType, node.SetType, node.FrozenSetType, node.VarTupleType, node.DictType)
    ):
        return all(_harmless(part) for part in parts_of(kind))
    return isinstance(kind, (node.StrType, node.BoolType, node.NoneType, node.UUIDType, node.DateType, node.BytesType))


def zone_test(cls: type) -> Callable[[Any], bool] | None:
    """Whether all times that were read have a zone; None for a class that has no times."""
    fields = fields_of(cls)
    if hasattr(cls, "__pydantic_validator__"):
        names = tuple(name for name, kind in fields.items() if not _harmless(kind))
        return (lambda event: all(flaw(getattr(event, name)) is None for name in names)) if names else None
    return _Tests(zones=True).predicate(cls) if any(_has_times(kind) for kind in fields.values()) else None


def _has_times(kind: Any, seen: tuple[type, ...] = ()) -> bool:
    if isinstance(kind, (node.DateTimeType, node.TimeType)):
        return not kind.tz
    if isinstance(kind, (node.StructType, node.DataclassType)):
        if kind.cls in seen:
            return False
        return any(_has_times(each, (*seen, kind.cls)) for each in fields_of(kind.cls).values())
    return any(_has_times(each, seen) for each in parts_of(kind))


SMALL = (1 << 30) - 1
"""The largest integer of one digit, which is compared quickest."""

_SIMPLE: dict[type, str] = {
    node.NoneType: "{v} is None",
    node.BoolType: "{v}.__class__ is bool",
    node.StrType: "{v}.__class__ is str",
    node.IntType: (f"({{v}}.__class__ is int and (-{SMALL} <= {{v}} <= {SMALL} or {INT_MIN} <= {{v}} <= {INT_MAX}))"),
    node.FloatType: "({v}.__class__ is float and {v} - {v} == 0.0)",
    node.BytesType: "{v}.__class__ is bytes",
    node.DecimalType: "({v}.__class__ is Decimal and {v}.is_finite())",
    node.UUIDType: "{v}.__class__ is UUID",
    node.DateType: "{v}.__class__ is date",
    node.TimeDeltaType: "{v}.__class__ is timedelta",
    node.DateTimeType: "({v}.__class__ is datetime and ({v}.tzinfo is UTC or flaw({v}) is None))",
    node.TimeType: "({v}.__class__ is time and flaw({v}) is None)",
}
_CONTAINERS: dict[type, str] = {
    node.ListType: "list",
    node.SetType: "set",
    node.FrozenSetType: "frozenset",
    node.VarTupleType: "tuple",
}
_BOUNDS = {
    "gt": "{v} > {x}",
    "ge": "{v} >= {x}",
    "lt": "{v} < {x}",
    "le": "{v} <= {x}",
    "min_length": "len({v}) >= {x}",
    "max_length": "len({v}) <= {x}",
    "multiple_of": "False",  # judged the slow way
    "pattern": "False",
}


INLINE = 8
"""Fields of a plain struct within another that are looked at without a call."""


class _Tests:
    """Writes Python conditions for types. With `zones`, they test only that times have a zone."""

    def __init__(self, *, zones: bool = False) -> None:
        self.zones = zones
        self.scope: dict[str, Any] = {
            "Decimal": Decimal, "UUID": UUID, "date": dt.date, "timedelta": dt.timedelta, "datetime": dt.datetime,
            "time": dt.time, "UTC": dt.UTC, "flaw": flaw, "harmless": HARMLESS,
        }  # fmt: skip
        self.open: list[type] = []
        self.count = 0

    def function(self, cls: type, explain: Callable[[Any], None]) -> Callable[[Any], None]:
        """`check(event)`, which calls `explain` when a condition does not hold."""
        name = self.name("explain", explain)
        made: Callable[[Any], None] = self.write(cls, f"return {name}(e)", "")
        return made

    def predicate(self, cls: type) -> Callable[[Any], bool]:
        made: Callable[[Any], bool] = self.write(cls, "return False", "return True")
        return made

    def write(self, cls: type, otherwise: str, done: str) -> Any:
        self.open.append(cls)
        lines = ["def made(e):"]
        for name, kind in fields_of(cls).items():
            lines += self.field(kind, name, otherwise)
        self.open.pop()
        scope = dict(self.scope)
        exec("\n ".join([*lines, done or "return None"]), scope)  # noqa: S102  # made of field names and our own text
        return scope["made"]

    def field(self, kind: Any, name: str, otherwise: str) -> list[str]:
        """The lines for one field. Structs in a list are looked at in a loop, which costs less than a call for each."""
        item = getattr(kind, "item_type", None)
        if type(kind) in _CONTAINERS and not self.zones and isinstance(item, node.StructType):
            outer = self.bounded(kind, "v", f"type(v) is {_CONTAINERS[type(kind)]}")
            inner = self.condition(item, "x")
            return [f"v = e.{name}", f"if not {outer}: {otherwise}", "for x in v:", f" if not ({inner}): {otherwise}"]
        condition = self.condition(kind, "v")
        return [f"if not ({_put(f'e.{name}', 'v', condition)}): {otherwise}"] if condition else []

    def condition(self, kind: Any, v: str) -> str:
        """A condition on the variable `v`, or "" where everything passes."""
        if self.zones and not _has_times(kind):
            return ""
        if isinstance(kind, node.UnionType):
            return self.union(kind, v)
        if type(kind) in _CONTAINERS:
            return self.container(kind, v)
        if isinstance(kind, node.DictType):
            return self.dictionary(kind, v)
        if isinstance(kind, node.TupleType):
            return self.fixed(kind, v)
        if isinstance(kind, (node.StructType, node.DataclassType)):
            return self.nested(kind.cls, v)
        if self.zones:
            timed = isinstance(kind, (node.DateTimeType, node.TimeType))
            return f"{v}.tzinfo is not None" if timed else f"flaw({v}) is None"
        if type(kind) not in _SIMPLE:
            return self.other(kind, v)
        return self.bounded(kind, v, _SIMPLE[type(kind)].format(v=v))

    def bounded(self, kind: Any, v: str, condition: str) -> str:
        """The condition together with the limits that `msgspec.Meta` gave the type."""
        limits = [
            text.format(v=v, x=repr(x))
            for each, text in _BOUNDS.items()
            if (x := getattr(kind, each, None)) is not None
        ]
        return f"({' and '.join([condition, *limits])})" if limits else condition

    def other(self, kind: Any, v: str) -> str:
        if isinstance(kind, node.EnumType):
            return f"type({v}) is {self.name('enum', kind.cls)}"
        if isinstance(kind, node.LiteralType):
            kinds, values = frozenset(type(x) for x in kind.values), frozenset(kind.values)
            return f"(type({v}) in {self.name('kinds', kinds)} and {v} in {self.name('values', values)})"
        if isinstance(kind, node.AnyType):
            return f"(type({v}) in harmless or flaw({v}) is None)"
        return "False"  # typed dicts, named tuples and the like: the slow way

    def union(self, kind: Any, v: str) -> str:
        if not self.zones:
            return "(" + " or ".join(self.condition(each, v) for each in kind.types) + ")"
        others = [each for each in kind.types if not isinstance(each, node.NoneType)]
        return f"({v} is None or {self.condition(others[0], v)})" if len(others) == 1 else f"flaw({v}) is None"

    def container(self, kind: Any, v: str) -> str:
        item = self.item()
        inner = self.condition(kind.item_type, item)
        loop = f"not [1 for {item} in {v} if not ({inner})]" if inner else ""
        if self.zones:
            return loop
        if isinstance(kind.item_type, node.AnyType):
            loop = f"flaw({v}) is None"
        return self.bounded(kind, v, f"(type({v}) is {_CONTAINERS[type(kind)]} and {loop})")

    def fixed(self, kind: Any, v: str) -> str:
        items = [self.condition(each, f"{v}[{index}]") for index, each in enumerate(kind.item_types)]
        whole = [] if self.zones else [f"type({v}) is tuple and len({v}) == {len(items)}"]
        found = " and ".join([*whole, *(each for each in items if each)])
        return f"({found})" if found else ""

    def dictionary(self, kind: Any, v: str) -> str:
        key, item = self.item(), self.item()
        inner = [each for each in (self.condition(kind.key_type, key), self.condition(kind.value_type, item)) if each]
        loop = f"not [1 for {key}, {item} in {v}.items() if not ({' and '.join(inner)})]" if inner else ""
        if self.zones:
            return loop
        if isinstance(kind.value_type, node.AnyType):
            loop = f"flaw({v}) is None"
        return self.bounded(kind, v, f"(type({v}) is dict and {loop})")

    def nested(self, cls: type, v: str) -> str:
        if cls in self.open:  # a type within itself: walked by value, with the limit of depth
            return f"(type({v}) is {self.name('type', cls)} and flaw({v}) is None)"
        fields = fields_of(cls)
        if not self.zones and len(fields) <= INLINE and all(type(kind) in _SIMPLE for kind in fields.values()):
            known = self.name("type", cls)
            tests = [_put(f"{v}.{name}", "n", self.condition(kind, "n")) for name, kind in fields.items()]
            return "(" + " and ".join([f"{v}.__class__ is {known}", *tests]) + ")"
        test = self.name("test", self.predicate(cls))
        return f"{test}({v})" if self.zones else f"(type({v}) is {self.name('type', cls)} and {test}({v}))"

    def item(self) -> str:
        self.count += 1
        return f"x{self.count}"

    def name(self, stem: str, value: Any) -> str:
        self.count += 1
        name = f"{stem}{self.count}"
        self.scope[name] = value
        return name


def _put(value: str, v: str, condition: str) -> str:
    """A condition on a variable as one on an expression, which is worked out once."""
    uses = re.compile(rf"\b{v}\b")
    first = value if len(uses.findall(condition)) == 1 else f"({v} := {value})"
    return uses.sub(first, condition, count=1)
