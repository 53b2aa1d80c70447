"""Python values in SQLite: how each is kept, and by which declared type of the column it comes back.

| Python             | kept as                                        | comes back from a column declared as         |
|--------------------|------------------------------------------------|----------------------------------------------|
| None               | null                                           | any                                          |
| bool               | 0, 1                                           | boolean, bool (otherwise int)                |
| int                | integer of 64 bits                             | any                                          |
| float              | real; NaN and infinities are refused           | real, double, float, ...                     |
| Decimal            | decimal text, at most 15 significant digits    | decimal, numeric                             |
| str                | text                                           | text, varchar, ...                           |
| bytes              | blob                                           | blob                                         |
| UUID               | text with dashes                               | uuid                                         |
| datetime with zone | 2026-01-31T12:00:00.000000Z, so that it sorts  | timestamptz, timestamp, datetime (UTC)       |
| date               | 2026-01-31                                     | date                                         |
| dict, list         | JSON text                                      | json, jsonb                                  |
| Enum               | its value                                      | as the value                                 |

The type is what the column was declared with, up to its first blank or bracket. An expression (`sum(total)`,
`max(at)`) has none: it comes back as SQLite computed it. A time without a zone that SQLite or other software has
written is UTC, and a number is Unix time. Beside an expression a Decimal is text: cast it (`sum(total) > cast($1 as
numeric)`). A value that does not fit its column's type is an error that names it.
"""

from __future__ import annotations

import json
import math
import re
from collections import namedtuple
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import lru_cache, partial
from typing import Any
from uuid import UUID

import apsw
import msgspec

from evenflow.store import Row

Description = tuple[tuple[str, str | None], ...]
DIGITS = 15
NATIVE = frozenset({type(None), bool, int, float, str, bytes})
_encode = msgspec.msgpack.Encoder().encode
_odd_float = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]", re.DOTALL).search


def bound(value: Any) -> Any:
    """The value as SQLite keeps it. Raises `ValueError` or `TypeError` for one that it would change or cannot keep."""
    if isinstance(value, Enum):
        return bound(value.value)
    for kind, keep in _KEEP:
        if isinstance(value, kind):
            return keep(value)
    raise TypeError(f"a {type(value).__name__} cannot be kept: {value!r}")


def misfit(values: Sequence[tuple[Any, ...]]) -> int:
    """The index of the first arguments with a float that is NaN or infinite (SQLite would keep null), or -1.

    All arguments are encoded as MessagePack in one go, and the bytes searched for a float whose exponent is all ones:
    a quarter of the time that a look at each of them takes. A false alarm costs that look, no more.
    """
    try:
        if _odd_float(_encode(values)) is None:
            return -1
    except Exception:  # noqa: S110  # a type that MessagePack has not, an integer of more than 64 bits: look at each
        pass
    return next((index for index, args in enumerate(values) if not finite(args)), -1)


def finite(args: Iterable[Any]) -> bool:
    return all(math.isfinite(value) for value in args if isinstance(value, float))


def _float(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"the float {value} cannot be kept")
    return value


def _decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise ValueError(f"the Decimal {value} cannot be kept")
    significant = "".join(map(str, value.as_tuple().digits)).strip("0")
    if len(significant) > DIGITS:
        raise ValueError(f"the Decimal {value} has more than {DIGITS} significant digits; SQLite would round it")
    if significant and not -290 <= value.adjusted() <= 290:
        raise ValueError(f"the Decimal {value} is too large or too small for SQLite")
    return str(value) if significant else "0"


def _moment(value: datetime) -> str:
    if value.utcoffset() is None:
        raise ValueError(f"the datetime {value.isoformat()} has no zone")
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


_KEEP: tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...] = (
    (float, _float),
    ((type(None), int, str, bytes, bytearray, memoryview), lambda value: value),
    (Decimal, _decimal),
    (UUID, str),
    (datetime, _moment),
    (date, date.isoformat),
    ((dict, list), _json),
)


def _to_decimal(value: Any) -> Decimal:
    return Decimal(f"{value:.15g}") if isinstance(value, float) else Decimal(value)


def _to_moment(value: Any) -> datetime:
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    moment = datetime.fromisoformat(value)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes) and apsw.jsonb_detect(value):
        return apsw.jsonb_decode(value)
    return json.loads(value) if isinstance(value, str | bytes) else value


def _to_bool(value: Any) -> bool:
    if value not in {0, 1}:
        raise ValueError(value)
    return bool(value)


_GIVE: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "boolean": (bool, _to_bool),
    "bool": (bool, _to_bool),
    "decimal": (Decimal, _to_decimal),
    "numeric": (Decimal, _to_decimal),
    "uuid": (UUID, UUID),
    "timestamptz": (datetime, _to_moment),
    "timestamp": (datetime, _to_moment),
    "datetime": (datetime, _to_moment),
    "date": (date, date.fromisoformat),
    "json": (dict, _to_json),
    "jsonb": (dict, _to_json),
}


class Rows:
    """Makes named tuples with the declared types out of a statement's plain rows."""

    __slots__ = ("_converters", "_new", "description")

    def __init__(self, description: Description) -> None:
        self.description = description
        self._new = partial(tuple.__new__, _row_class(tuple(name for name, _ in description)))
        self._converters = [
            (place, name, *_GIVE[word])
            for place, (name, declared) in enumerate(description)
            if declared and (word := declared.split("(")[0].split(" ")[0].lower()) in _GIVE
        ]

    def __call__(self, rows: Iterable[tuple[Any, ...]]) -> list[Row]:
        return list(map(self._new, map(self._converted, rows) if self._converters else rows))

    def _converted(self, row: tuple[Any, ...]) -> list[Any]:
        values = list(row)
        for place, name, kind, convert in self._converters:
            value = values[place]
            if value is not None and type(value) is not kind:
                try:
                    values[place] = convert(value)
                except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
                    declared = self.description[place][1]
                    raise ValueError(
                        f"column {name!r} is declared {declared} and holds {value!r}; "
                        f"read it as it is with cast({name} as text)"
                    ) from error
        return values


@lru_cache(maxsize=2000)
def rows_of(description: Description) -> Rows:
    """Cached per column names and declared types."""
    return Rows(description)


@lru_cache(maxsize=2000)
def _row_class(names: tuple[str, ...]) -> type[tuple[Any, ...]]:
    return namedtuple("Row", names, rename=True)
