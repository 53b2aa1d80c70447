"""Python values in PostgreSQL: how each is sent, for the type that the server infers.

| Python             | sent to                                         | comes back from                          |
|--------------------|-------------------------------------------------|------------------------------------------|
| None               | any                                             | null                                     |
| bool               | boolean; a number as 0, 1                       | boolean                                  |
| int                | any number, of at most 64 bits                  | smallint, integer, bigint                |
| float              | any number; NaN and infinities are refused      | real, double precision                   |
| Decimal            | any number; no NaN, no infinity                 | numeric (also `sum` of a bigint)         |
| str                | anything, as the server reads it                | text, varchar, char, enums, ...          |
| bytes              | bytea                                           | bytea                                    |
| UUID               | uuid, text                                      | uuid                                     |
| datetime with zone | timestamptz; timestamp and text as UTC          | timestamptz, timestamp (UTC)             |
| date               | date                                            | date                                     |
| dict, list         | json, jsonb, text as JSON; a list for an array  | json, jsonb; arrays of the types above   |
| Enum               | as its value                                    | as the value                             |

What a placeholder is, the server infers from the statement. Where it has nothing to go by (`select $1`) the Python
type decides. Every other type of PostgreSQL comes back as its text.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

BOOL, BYTEA, INT8, INT2, INT4, TEXT, OID = 16, 17, 20, 21, 23, 25, 26
JSON, FLOAT4, FLOAT8, UNKNOWN, BPCHAR, VARCHAR = 114, 700, 701, 705, 1042, 1043
DATE, TIMESTAMP, TIMESTAMPTZ, NUMERIC, UUID_, JSONB, VOID = 1082, 1114, 1184, 1700, 2950, 3802, 2278
NAME = 19
TEXTS = frozenset({TEXT, BPCHAR, VARCHAR, NAME})
ARRAYS = {
    1000: BOOL,
    1001: BYTEA,
    1005: INT2,
    1007: INT4,
    1009: TEXT,
    1014: BPCHAR,
    1015: VARCHAR,
    1016: INT8,
    1021: FLOAT4,
    1022: FLOAT8,
    1115: TIMESTAMP,
    1182: DATE,
    1185: TIMESTAMPTZ,
    1231: NUMERIC,
    2951: UUID_,
    199: JSON,
    3807: JSONB,
}
Encoder = Callable[[Any], bytes | None]
Columns = Callable[[Sequence[Any]], Iterable[bytes | None]]


class TooWide(ValueError):
    """An integer of more bits than the server has inferred."""


_double, _single, _long = struct.Struct(">d").pack, struct.Struct(">f").pack, struct.Struct(">q").pack
_int, _short = struct.Struct(">i").pack, struct.Struct(">h").pack
_WIDTHS = {INT2: 1 << 15, INT4: 1 << 31}


def _bool_text(value: bool) -> bytes:
    return b"t" if value else b"f"


def _bool_number(value: bool) -> bytes:
    return b"1" if value else b"0"


def _int_text(value: int) -> bytes:
    if -0x8000000000000000 <= value <= 0x7FFFFFFFFFFFFFFF:
        return b"%d" % value
    raise ValueError(f"the integer {value} has more than 64 bits")


def _int_within(limit: int) -> Encoder:
    def encode(value: int) -> bytes:
        if -limit <= value < limit:
            return b"%d" % value
        _int_text(value)
        raise TooWide(f"the integer {value} is out of range")

    return encode


_WITHIN = {oid: _int_within(limit) for oid, limit in _WIDTHS.items()}


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"the float {value} cannot be kept")
    return value


def _float_text(value: float) -> bytes:
    return repr(float(_finite(value))).encode()


def _float_binary(value: float) -> bytes:
    if -1.7976931348623157e308 <= value <= 1.7976931348623157e308:  # neither NaN nor infinite
        return _double(value)
    raise ValueError(f"the float {value} cannot be kept")


def _decimal_text(value: Decimal) -> bytes:
    if not value.is_finite():
        raise ValueError(f"the Decimal {value} cannot be kept")
    return str(value).encode()


def _str_text(value: str) -> bytes:
    """As text, which ends at a zero byte: such a string is refused rather than cut."""
    data = value.encode()
    if 0 in data:
        raise ValueError("a text holds the character zero, which PostgreSQL cannot keep")
    return data


def _bytes_hex(value: bytes) -> bytes:
    return b"\\x" + bytes(value).hex().encode()


def _uuid_text(value: UUID) -> bytes:
    return str(value).encode()


def _uuid_binary(value: UUID) -> bytes:
    return value.bytes


def _moment_text(value: datetime) -> bytes:
    if value.utcoffset() is None:
        raise ValueError(f"the datetime {value.isoformat()} has no zone")
    return (value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z").encode()


def _date_text(value: date) -> bytes:
    return value.isoformat().encode()


def _json_text(value: object) -> bytes:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def _none(_: None) -> None:
    return None


def _bytes(value: bytes) -> bytes:
    return bytes(value)


KINDS: tuple[type, ...] = (type(None), bool, int, float, str, bytes, Decimal, UUID, datetime, date, dict, list)
_NATURAL = {
    bool: BOOL,
    int: INT8,
    float: FLOAT8,
    str: TEXT,
    bytes: BYTEA,
    Decimal: NUMERIC,
    UUID: UUID_,
    datetime: TIMESTAMPTZ,
    date: DATE,
    dict: JSONB,
    list: JSONB,
}
_TEXT_ENCODERS: dict[type, Encoder] = {
    type(None): _none,
    bool: _bool_text,
    int: _int_text,
    float: _float_text,
    str: _str_text,
    bytes: _bytes_hex,
    Decimal: _decimal_text,
    UUID: _uuid_text,
    datetime: _moment_text,
    date: _date_text,
    dict: _json_text,
    list: _json_text,
}


def kind_of(type_: type) -> type:
    """The kind of value that a class is. Raises `TypeError` for one that cannot be kept."""
    if type_ in _TEXT_ENCODERS:
        return type_
    if issubclass(type_, bytearray | memoryview):
        return bytes
    for kind in (bool, int, float, str, bytes, Decimal, UUID, datetime, date, dict, list):
        if issubclass(type_, kind):
            return kind
    raise TypeError(f"a {type_.__name__} cannot be kept")


def plain(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with an enum's member as its value."""
    return tuple(value.value if isinstance(value, Enum) else value for value in args)


def natural(type_: type) -> int:
    """The type that a placeholder is where the server cannot tell."""
    return _NATURAL.get(kind_of(type_), 0)


def encoder(type_: type, oid: int) -> tuple[Encoder, int]:
    """How a value of this class is sent for this type, and in which format: 0 text, 1 binary."""
    kind = kind_of(type_)
    if kind is type(None):
        return _none, 0
    if oid in TEXTS:
        if kind is str:
            return str.encode, 1
        if kind is bool:
            return (lambda value: b"true" if value else b"false"), 1
        return _TEXT_ENCODERS[kind], 1
    if kind is float and oid == FLOAT8:
        return _float_binary, 1
    if kind is bytes and oid in (BYTEA, 0):
        return _bytes, 1
    if kind is UUID and oid == UUID_:
        return _uuid_binary, 1
    if kind is bool and oid in (INT2, INT4, INT8, NUMERIC, FLOAT4, FLOAT8):
        return _bool_number, 0
    if kind is int and oid in _WIDTHS:
        return _WITHIN[oid], 0
    if kind is list and oid in ARRAYS:
        return _array_encoder(ARRAYS[oid]), 1
    return _TEXT_ENCODERS[kind], 0


def in_columns(encode: Encoder) -> Columns:
    """The same for many values of one class at once. Raises `ValueError` where one of them cannot be sent."""
    return _MANY.get(encode) or partial(map, encode)


def _ints(limit: int) -> Columns:
    def encode(values: Sequence[int]) -> Iterable[bytes]:
        if min(values) < -limit or max(values) >= limit:
            raise TooWide("an integer is out of range")
        return map(b"%d".__mod__, values)

    return encode


def _floats(values: Sequence[float]) -> Iterable[bytes]:
    if not all(map(math.isfinite, values)):
        raise ValueError("a float cannot be kept")
    return map(_double, values)


_MANY: dict[Encoder, Columns] = {
    _float_binary: _floats,
    _int_text: _ints(1 << 63),
    **{_WITHIN[oid]: _ints(limit) for oid, limit in _WIDTHS.items()},
}


def _array_encoder(element: int) -> Encoder:
    """A list as a one-dimensional array, in binary."""
    if element not in _BINARY:
        raise TypeError("a list cannot be sent as an array of this type; send JSON, and take it apart in SQL")
    binary = _BINARY[element]

    def encode(values: list[Any]) -> bytes:
        parts = [struct.pack(">iii", 1 if values else 0, int(None in values), element)]
        if values:
            parts.append(struct.pack(">ii", len(values), 1))
        for value in values:
            if value is None:
                parts.append(b"\xff\xff\xff\xff")
                continue
            data = binary(value)
            parts += _int(len(data)), data
        return b"".join(parts)

    return encode


def _checked(pack: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def encode(value: Any) -> bytes:
        try:
            return pack(value)
        except struct.error as error:
            raise ValueError(f"{value!r} in a list: {error}") from None

    return encode


EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
DAY_ZERO = date(2000, 1, 1).toordinal()


def _moment_binary(value: datetime) -> bytes:
    if value.utcoffset() is None:
        raise ValueError(f"the datetime {value.isoformat()} has no zone")
    since = value - EPOCH
    return _long((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds)


_BINARY: dict[int, Callable[[Any], bytes]] = {
    BOOL: lambda value: b"\1" if value else b"\0",
    BYTEA: bytes,
    INT2: _checked(_short),
    INT4: _checked(_int),
    INT8: _checked(_long),
    TEXT: str.encode,
    VARCHAR: str.encode,
    BPCHAR: str.encode,
    FLOAT4: _checked(lambda value: _single(_finite(value))),
    FLOAT8: _checked(lambda value: _double(_finite(value))),
    UUID_: _uuid_binary,
    TIMESTAMPTZ: _moment_binary,
    TIMESTAMP: _moment_binary,
    DATE: lambda value: _int(value.toordinal() - DAY_ZERO),
    JSON: _json_text,
    JSONB: lambda value: b"\1" + _json_text(value),
}
