"""Envelopes: an event as bytes, and the facts about it. The names are those of CloudEvents 1.0."""

from __future__ import annotations

import msgspec

BY_PLACE = -1
"""The number of a stranger's record that has no identity but its place: it comes once, as the position passes it."""


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One event in transit. Fields are only ever added at the end: logs keep envelopes as MessagePack arrays.

    `(source, id)` is the identity of the event. `producer` and `number` say where it came from: numbers of one
    producer are gapless per (topic, slot) and rise in publish order; a record of a stranger has producer "", and number
    0 or, where it is known by its place in its log alone, `BY_PLACE`. `time` is Unix time in seconds. `correlation` ""
    stands for its own id: it is the first of a conversation. `headers` are extension attributes and the trace context
    of the origin.
    """

    id: str
    source: str
    type: str
    version: int
    key: str | None
    slot: int
    time: float
    data: bytes
    producer: str = ""
    number: int = 0
    correlation: str = ""
    causation: str = ""
    content_type: str = "application/json"
    headers: dict[str, str] | None = None

    @property
    def size(self) -> int:
        """What it counts for in limits, in bytes: data, and a flat sum for the rest."""
        return len(self.data) + 200


_pack = msgspec.msgpack.Encoder()
_unpack = msgspec.msgpack.Decoder(list[Envelope])


def pack(envelopes: list[Envelope]) -> bytes:
    """Many envelopes as one MessagePack array, as logs and outboxes keep them."""
    return _pack.encode(envelopes)


def unpack(data: bytes | memoryview) -> list[Envelope]:
    """The inverse of `pack`. Raises `msgspec.MsgspecError` for anything else."""
    return _unpack.decode(data)
