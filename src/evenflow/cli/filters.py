"""Which events a person wants to see: by type, by key, and by what stands in their fields."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import msgspec

from evenflow.cli.failures import UsageError
from evenflow.envelope import Envelope
from evenflow.event import EventSpec

_CONDITION = re.compile(r"\s*([A-Za-z_][\w.\-]*)\s*(!=|>=|<=|=|>|<)(.*)", re.DOTALL)
_TESTS: dict[str, Callable[[int], bool]] = {
    "=": lambda order: order == 0,
    "!=": lambda order: order != 0,
    ">": lambda order: order > 0,
    "<": lambda order: order < 0,
    ">=": lambda order: order >= 0,
    "<=": lambda order: order <= 0,
}
_MISSING = object()


class Condition(NamedTuple):
    """`path` may go into objects and lists ("customer.city", "lines.0.article"; "lines.article": of any line)."""

    path: tuple[str, ...]
    operator: str
    value: str

    def holds(self, data: Any) -> bool:
        """A field that is not there differs from everything, and is neither more nor less."""
        found = _at(data, self.path)
        if not found:
            return self.operator == "!="
        orders = [_compared(each, self.value) for each in found]
        if self.operator == "!=":
            return all(order != 0 for order in orders)
        return any(order is not None and _TESTS[self.operator](order) for order in orders)


def condition(text: str) -> Condition:
    """Read `field=value`. Raises `UsageError`."""
    found = _CONDITION.fullmatch(text)
    if found is None or (found[2] not in ("=", "!=") and not found[3].strip()):
        raise UsageError(
            f"--where {text!r} is no condition",
            remedy="write field=value, for example --where customer=Ada, 'total>=100', address.city!=Bonn",
        )
    return Condition(tuple(found[1].split(".")), found[2], found[3].strip())


def fields_of(spec: EventSpec) -> list[str] | None:
    """The names of an event's fields as they are stored, None where nobody can tell."""
    if spec.kind == "pydantic":
        return None  # its fields have aliases
    if spec.kind == "struct":
        return [each.encode_name for each in msgspec.structs.fields(spec.cls)]
    return [each.name for each in dataclasses.fields(spec.cls)]


class Filter(NamedTuple):
    """All of it has to hold; of several types or keys one."""

    types: Sequence[str] = ()
    keys: Sequence[str] = ()
    conditions: Sequence[Condition] = ()

    def wants(self, envelope: Envelope) -> bool:
        """Decodes the event only where its fields are asked for."""
        if self.types and not any(fnmatchcase(envelope.type, each) for each in self.types):
            return False
        if self.keys and envelope.key not in self.keys:
            return False
        if not self.conditions:
            return True
        data = content(envelope)
        return all(each.holds(data) for each in self.conditions)


def content(envelope: Envelope) -> Any:
    """The event's fields as plain values; the bytes as text where nobody knows their form."""
    decode = msgspec.msgpack.decode if "msgpack" in envelope.content_type else msgspec.json.decode
    try:
        return decode(envelope.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return envelope.data.decode(errors="replace")


def _at(data: Any, path: Sequence[str]) -> list[Any]:
    if not path:
        return [data]
    first, rest = path[0], path[1:]
    if isinstance(data, list):
        if first.isdigit():
            return _at(data[int(first)], rest) if int(first) < len(data) else []
        return [value for each in data for value in _at(each, path)]
    if not isinstance(data, dict):
        return []
    value = data.get(first, _MISSING)
    return [] if value is _MISSING else _at(value, rest)


def _compared(value: Any, given: str) -> int | None:
    """-1, 0 or 1; None where they cannot be compared, as objects cannot. Amounts stand in JSON as text, so text that
    is a number counts as one where the other is a number too.
    """
    if isinstance(value, bool) or value is None:
        return 0 if given == {True: "true", False: "false", None: "null"}[value] else None
    if isinstance(value, (dict, list)):
        return None
    number, other = _number(value), _number(given)
    if number is not None and other is not None:
        return (number > other) - (number < other)
    text = str(value)
    return (text > given) - (text < given)


def _number(value: object) -> Decimal | None:
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        return None
    return found if found.is_finite() else None
