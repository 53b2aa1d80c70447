"""Values of PostgreSQL as Python's: see the table in `types`. In binary where all columns of a result are."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from evenflow.drivers.postgres.types import (
    ARRAYS,
    BOOL,
    BPCHAR,
    BYTEA,
    DATE,
    DAY_ZERO,
    EPOCH,
    FLOAT4,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    JSON,
    JSONB,
    NAME,
    NUMERIC,
    OID,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
    UUID_,
    VARCHAR,
    VOID,
)

Decoder = Callable[[bytes], Any]


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _moment(data: bytes) -> datetime:
    return EPOCH + timedelta(microseconds=int.from_bytes(data, "big", signed=True))


def _date(data: bytes) -> date:
    return date.fromordinal(DAY_ZERO + int.from_bytes(data, "big", signed=True))


def _decimal(data: bytes) -> Decimal:
    """Groups of four decimal digits, with the place of the first, the sign, and the digits after the point."""
    count, weight, sign, scale = struct.unpack_from(">HhHH", data)
    if sign & 0xC000 == 0xC000:
        return Decimal({0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}[sign])
    number = 0
    for group in struct.unpack_from(f">{count}H", data, 8):
        number = number * 10000 + group
    shift = scale + 4 * (weight - count + 1)
    number = number * 10**shift if shift >= 0 else number // 10**-shift
    return Decimal(f"{'-' if sign else ''}{number}E-{scale}")


def _array(data: bytes) -> list[Any]:
    dimensions, _, element = struct.unpack_from(">iii", data)
    if dimensions == 0:
        return []
    if dimensions != 1 or element not in FROM_BINARY:
        raise ValueError("an array of several dimensions")
    decode = FROM_BINARY[element]
    (count,), place, values = struct.unpack_from(">i", data, 12), 20, []
    for _ in range(count):
        (size,) = struct.unpack_from(">i", data, place)
        place += 4
        values.append(None if size < 0 else decode(data[place : place + size]))
        place += max(0, size)
    return values


def _bool(data: bytes) -> bool:
    return data == b"\1"


def _jsonb(data: bytes) -> Any:
    return json.loads(data[1:])


FROM_BINARY: dict[int, Decoder] = {
    BOOL: _bool,
    BYTEA: bytes,
    INT2: _signed,
    INT4: _signed,
    INT8: _signed,
    OID: lambda data: int.from_bytes(data, "big"),
    TEXT: bytes.decode,
    BPCHAR: bytes.decode,
    VARCHAR: bytes.decode,
    NAME: bytes.decode,
    UNKNOWN: bytes.decode,
    VOID: lambda _: None,
    FLOAT4: lambda data: struct.unpack(">f", data)[0],
    FLOAT8: lambda data: struct.unpack(">d", data)[0],
    UUID_: lambda data: UUID(bytes=data),
    TIMESTAMPTZ: _moment,
    TIMESTAMP: _moment,
    DATE: _date,
    NUMERIC: _decimal,
    JSON: json.loads,
    JSONB: _jsonb,
    **dict.fromkeys(ARRAYS, _array),
}


def _moment_from_text(data: bytes) -> datetime:
    moment = datetime.fromisoformat(data.decode())
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


FROM_TEXT: dict[int, Decoder] = {
    BOOL: lambda data: data == b"t",
    BYTEA: lambda data: bytes.fromhex(data[2:].decode()),
    INT2: int,
    INT4: int,
    INT8: int,
    OID: int,
    FLOAT4: float,
    FLOAT8: float,
    VOID: lambda _: None,
    NUMERIC: lambda data: Decimal(data.decode()),
    UUID_: lambda data: UUID(data.decode()),
    TIMESTAMPTZ: _moment_from_text,
    TIMESTAMP: _moment_from_text,
    DATE: lambda data: date.fromisoformat(data.decode()),
    JSON: json.loads,
    JSONB: json.loads,
}


def decoders(oids: tuple[int, ...]) -> tuple[int, tuple[Decoder, ...]]:
    """The format to ask for, and how each column is read. All of a result comes in one format."""
    if all(oid in FROM_BINARY for oid in oids):
        return 1, tuple(FROM_BINARY[oid] for oid in oids)
    return 0, tuple(FROM_TEXT.get(oid, bytes.decode) for oid in oids)
