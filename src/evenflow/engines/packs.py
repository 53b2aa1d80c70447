"""Packs: how an engine that is a log of ours keeps a run of envelopes as one row, and a cache of those decoded last."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from evenflow.engine import Batch, Partition
from evenflow.envelope import Envelope
from evenflow.envelopes import Envelopes, Given, joined, packed

PACK_EVENTS = 256
"""A reader decodes whole packs, so they stay small enough that little is decoded in vain."""
PACK_BYTES = 256 * 1024
_DECODED = 130
"""Roughly what an envelope takes in memory besides its bytes."""

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

    def move(self, first: int) -> None:
        """Say where it begins, once that is known."""
        self.first, self.last = first, first + len(self.envelopes) - 1
        self.offsets = range(first, self.last + 1)

    def place(self, offset: int) -> int:
        """The index of the first event at or after this offset."""
        if type(self.offsets) is range:
            return max(0, offset - self.first)
        return bisect_left(self.offsets, offset)


Slice = tuple[Pack, int, int]
"""A pack, from one of its places to another."""


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


def batch_from(
    key: Partition, packs: Iterable[Pack], offset: int, limit: int, size: int, end: int
) -> tuple[Batch, int]:
    """Events of packs in order from an offset on, at least one if there is any, and their bytes.

    Whole packs are given without a copy. Where the packs are exhausted, nothing else is kept before `end`.
    """
    slices: list[Slice] = []
    taken, at = 0, offset
    for pack in packs:
        start, total = pack.place(at), len(pack.envelopes)
        each = pack.bytes // total or 1
        count = min(total - start, limit, max((size - taken) // each, 0 if slices else 1))
        stop = start + count
        if count > 0:
            slices.append((pack, start, stop))
            taken += count * each
            limit -= count
        if stop < total:
            at = pack.offsets[stop - 1] + 1 if count > 0 else at
            break
        at = pack.last + 1
        if limit <= 0 or taken >= size:
            break
    else:
        at = max(at, end)
    return _joined(key, slices, at), taken


def _joined(key: Partition, slices: list[Slice], at: int) -> Batch:
    if not slices:
        return Batch(key, (), Given(()), at)
    envelopes = joined([(pack.envelopes, start, stop) for pack, start, stop in slices])
    offsets = [pack.offsets[start:stop] for pack, start, stop in slices]
    if len(offsets) == 1:
        return Batch(key, offsets[0], envelopes, at)
    first, last = offsets[0][0], offsets[-1][-1]
    if last - first + 1 == len(envelopes):
        return Batch(key, range(first, last + 1), envelopes, at)
    return Batch(key, [each for run in offsets for each in run], envelopes, at)


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

    def clear(self) -> None:
        self._packs.clear()
        self.bytes = 0

    def drop(self, row: int) -> None:
        old = self._packs.pop(row, None)
        if old is not None:
            self.bytes -= _weight(old)


def _weight(one: Pack) -> int:
    return one.bytes + _DECODED * len(one.envelopes)
