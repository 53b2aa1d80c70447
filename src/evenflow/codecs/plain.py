"""Between events and plain content: dicts, lists, text, numbers, times, as codecs with schemas of others take them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import msgspec

from evenflow.checks import zone_test

if TYPE_CHECKING:
    from evenflow.event import EventSpec

NO_ZONE = "a time in it has no zone, or a number is not finite"
KEPT = (bytes, dt.datetime, dt.date, dt.time, Decimal, UUID)
"""What stays a Python value, where a codec has a form of its own for it."""


def converter(spec: EventSpec, *, values: bool = False) -> Callable[[Any], Any]:
    """A function from plain content of the present version to an event.

    `values`: it holds bytes, times and the like as Python values, rather than as JSON writes them.
    """
    zoned, model = zone_test(spec.cls), cast("Any", spec.cls)

    def convert(content: Any) -> Any:
        event: Any
        if spec.kind == "pydantic":
            event = model.model_validate(content) if values else model.model_validate_json(msgspec.json.encode(content))
        else:
            event = msgspec.convert(content, spec.cls, str_keys=True)
        if zoned is not None and not zoned(event):
            raise ValueError(NO_ZONE)
        return event

    return convert


def plainer(spec: EventSpec, kept: tuple[type, ...] = ()) -> Callable[[Any], Any]:
    """A function from an event to plain content as in JSON; values of `kept` types stay as they are."""
    if spec.kind == "pydantic":
        return lambda event: msgspec.to_builtins(
            event.model_dump(by_alias=True, warnings="error"), builtin_types=kept, str_keys=True
        )
    return lambda event: msgspec.to_builtins(event, builtin_types=kept, str_keys=True)
