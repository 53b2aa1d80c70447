"""Packs in the embedded engine's file: the ids of their rows."""

from __future__ import annotations

from evenflow.engines.packs import Pack, unpack_offsets
from evenflow.envelopes import unpack_columns

OFFSET_BITS = 40
OFFSET_MASK = (1 << OFFSET_BITS) - 1

Row = tuple[int, int, bytes | None, bytes]


def decode(row: Row) -> Pack:
    """The pack of a row (id, last, offsets, body)."""
    first = row[0] & OFFSET_MASK
    offsets = range(first, row[1] + 1) if row[2] is None else unpack_offsets(row[2])
    return Pack(first, row[1], offsets, unpack_columns(row[3]), len(row[3]))


def ids_of(serial: int, first: int = 0, last: int = OFFSET_MASK) -> tuple[int, int]:
    """The ids of rows of a partition that begin between two offsets."""
    base = serial << OFFSET_BITS
    return base | max(0, first), base | min(last, OFFSET_MASK)
