"""Packs: how the embedded engine keeps a run of envelopes as one row, and a cache of those decoded last."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import msgspec

from evenflow.envelope import Envelope
from evenflow.envelopes import Envelopes, packed, unpack_columns

OFFSET_BITS = 40
OFFSET_MASK = (1 << OFFSET_BITS) - 1
PACK_EVENTS = 256
"""A reader decodes whole packs, so they stay small enough that little is decoded in vain."""
PACK_BYTES = 256 * 1024
_DECODED = 130
"""Roughly what an envelope takes in memory besides its bytes."""

Row = tuple[int, int, bytes | None, bytes]

unpack_offsets = msgspec.msgpack.Decoder(list[int]).decode
pack_offsets = msgspec.msgpack.Encoder().encode


class Pack:
    """One decoded row. `first` is where the row begins; its first event may stand later, after compaction."""

    __slots__ = ("bytes", "envelopes", "first", "last", "offsets")

    def __init__(self, first: int, last: int, offsets: Sequence[int], envelopes: Envelopes, size: int) -> None:
        self.first = first
        self.last = last
        self.offsets = offsets
        self.envelopes = envelopes
        self.bytes = size

    def place(self, offset: int) -> int:
        """The index of the first event at or after this offset."""
        if type(self.offsets) is range:
            return max(0, offset - self.first)
        return bisect_left(self.offsets, offset)


def decode(row: Row) -> Pack:
    """The pack of a row (id, last, offsets, body)."""
    first = row[0] & OFFSET_MASK
    offsets = range(first, row[1] + 1) if row[2] is None else unpack_offsets(row[2])
    return Pack(first, row[1], offsets, unpack_columns(row[3]), len(row[3]))


def bodies(envelopes: list[Envelope]) -> Iterator[tuple[Envelopes, float, bytes]]:
    """Envelopes as runs of a good size, each with the time of its first and its body."""
    for start in range(0, len(envelopes), PACK_EVENTS):
        run = envelopes[start : start + PACK_EVENTS] if len(envelopes) > PACK_EVENTS else envelopes
        made, body = packed(run)
        if len(body) <= PACK_BYTES or len(run) == 1:
            yield made, run[0].time, body
        else:
            half = max(1, len(run) * PACK_BYTES // len(body))
            for part in range(0, len(run), half):
                smaller = run[part : part + half]
                made, body = packed(smaller)
                yield made, smaller[0].time, body


def ids_of(serial: int, first: int = 0, last: int = OFFSET_MASK) -> tuple[int, int]:
    """The ids of rows of a partition that begin between two offsets."""
    base = serial << OFFSET_BITS
    return base | max(0, first), base | min(last, OFFSET_MASK)


class PackCache:
    """Packs by the id of their row, those used last, up to about so many bytes of memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._packs: dict[int, Pack] = {}
        self.bytes = 0
        self.asked = False
        """Whether anybody reads here: what is appended is kept for them, and costs a tenth of publishing."""

    def __contains__(self, row: int) -> bool:
        return row in self._packs

    def get(self, row: int) -> Pack | None:
        found = self._packs.pop(row, None)
        if found is not None:
            self._packs[row] = found
        return found

    def put(self, row: int, new: Pack) -> None:
        self.drop(row)
        self._packs[row] = new
        self.bytes += _weight(new)
        while self.bytes > self._limit and len(self._packs) > 1:
            self.drop(next(iter(self._packs)))

    def drop(self, row: int) -> None:
        old = self._packs.pop(row, None)
        if old is not None:
            self.bytes -= _weight(old)


def _weight(one: Pack) -> int:
    return one.bytes + _DECODED * len(one.envelopes)
