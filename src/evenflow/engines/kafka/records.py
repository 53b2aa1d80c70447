"""Records of Kafka to envelopes and back.

A record's value is the event's data and its key the event's key, as any other client of Kafka expects. All else stands
in one header, `evenflow`: a JSON array, since each header of a record costs every reader half a microsecond. With
`headers=cloudevents` those of CloudEvents 1.0 stand behind it, for readers of other kinds; we do not read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from evenflow.engine import Partition
from evenflow.envelope import Envelope
from evenflow.envelopes import Envelopes, Given, shared
from evenflow.strangers import Record, record_headers
from evenflow.strangers import envelope_of as strangers_envelope
from evenflow.topic import Topic

HEADER = "evenflow"
FLAT = 200
"""Bytes that a record counts for beside its data, as an envelope does."""

Headers = Sequence[tuple[str, bytes | None]]
T = TypeVar("T")


class _Head(msgspec.Struct, array_like=True, gc=False):
    """What handling an event needs of the header. Fields are only ever added at the end of `_Whole`."""

    producer: str
    number: Annotated[int, msgspec.Meta(ge=-1)]
    slot: Annotated[int, msgspec.Meta(ge=0, le=255)]
    version: int
    type: str
    content_type: str


class _Whole(_Head, array_like=True, gc=False):
    """All of it. `keyless`: the record's key only keeps it through compaction, the event has none."""

    id: str
    source: str
    time: float
    correlation: str
    causation: str
    headers: dict[str, str] | None
    keyless: bool = False


_encode = msgspec.json.Encoder().encode
_heads = msgspec.json.Decoder(list[_Head]).decode
_wholes = msgspec.json.Decoder(list[_Whole]).decode


def headers_of(envelope: Envelope, *, keyless: bool = False, shown: Topic | None = None) -> list[tuple[str, bytes]]:
    """The headers of the record that an envelope becomes. `shown`: also those that readers of other kinds look for."""
    fields: tuple[Any, ...] = (
        envelope.producer, envelope.number, envelope.slot, envelope.version, envelope.type, envelope.content_type,
        envelope.id, envelope.source, envelope.time, envelope.correlation, envelope.causation, envelope.headers,
    )  # fmt: skip
    found = [(HEADER, _encode((*fields, True) if keyless else fields))]
    if shown is not None:
        texts = record_headers(envelope, shown)
        found += [(name, text.encode()) for name, text in texts.items() if not name.startswith(HEADER)]
    return found


class Place(NamedTuple):
    """Where a partition is on Kafka, which of ours it is, and what is said about the records of others there."""

    partition: Partition
    topic: str
    incarnation: str
    declared: Topic


class Run(NamedTuple):
    """Records of one partition, one after another, ready to be handed out."""

    place: Place
    offsets: list[int]
    envelopes: Envelopes
    sizes: list[int]

    @property
    def next(self) -> int:
        """The offset behind the last one."""
        return self.offsets[-1] + 1


class Records(Envelopes):
    """Records of ours. Of their headers only what handling needs is read at once.

    The library's messages are let go: thousands of them would be looked through at every collection of garbage.
    """

    __slots__ = ("_keys", "_raw", "_read")

    def __init__(self, keys: list[bytes | None], data: list[bytes], raw: list[bytes]) -> None:
        heads = _heads(_array(raw))
        self.data = data
        self.slots = [each.slot for each in heads]
        self.numbers = [each.number for each in heads]
        self.types = shared([each.type for each in heads])
        self.versions = shared([each.version for each in heads])
        self.content_types = shared([each.content_type for each in heads])
        self.producers = shared([each.producer for each in heads])
        self._keys = keys
        self._raw = raw
        self._read: list[_Whole] | None = None

    def between(self, start: int, stop: int) -> Iterator[Envelope]:
        for head, key, data in zip(
            self._wholes()[start:stop], self._keys[start:stop], self.data[start:stop], strict=True
        ):
            yield _envelope(head, key, data)

    def id_at(self, place: int) -> str:
        if self._read is not None:
            return self._read[place].id
        return _wholes(_array([self._raw[place]]))[0].id

    def keys(self) -> list[str | None]:
        return [_key(head, key) for head, key in zip(self._wholes(), self._keys, strict=True)]

    def _wholes(self) -> list[_Whole]:
        if self._read is None:
            self._read = _wholes(_array(self._raw))
        return self._read


def runs_of(messages: list[Any], places: dict[tuple[str, int], Place]) -> Iterator[Run]:
    """The runs in a list of messages of the client library, none of which is an error."""
    kind = type(messages[0])
    names = list(zip(map(kind.topic, messages), map(kind.partition, messages), strict=True))
    if names[0] == names[-1] and names.count(names[0]) == len(names):
        parts = [(names[0], messages)]
    else:
        numbered = groupby(range(len(names)), names.__getitem__)
        parts = [(name, [messages[n] for n in group]) for name, group in numbered]
    for name, part in parts:
        place = places.get(name)
        if place is not None:
            yield _run(place, part)


def _run(place: Place, messages: list[Any]) -> Run:
    kind = type(messages[0])
    values = [value or b"" for value in map(kind.value, messages)]
    offsets = list(map(kind.offset, messages))
    headers = list(map(kind.headers, messages))
    envelopes: Envelopes
    try:
        ours = {each[0][0] for each in headers} == {HEADER}
        raw = [each[0][1] for each in headers] if ours else []
        envelopes = Records(list(map(kind.key, messages)), values, raw) if ours else Given([])
    except (TypeError, IndexError, msgspec.MsgspecError):  # records without headers, or with a forged one
        ours = False
    if not ours:
        envelopes = Given([envelope_of(place, each) for each in messages])
    return Run(place, offsets, envelopes, [len(each) + FLAT for each in envelopes.data])


def envelope_of(place: Place, message: Any) -> Envelope:
    """The envelope of one message of the client library, ours or a stranger's."""
    headers: Headers = message.headers() or ()
    if headers and headers[0][0] == HEADER and headers[0][1] is not None:
        try:
            return _envelope(_wholes(_array([headers[0][1]]))[0], message.key(), message.value() or b"")
        except msgspec.MsgspecError:
            pass
    record = Record(
        place.topic,
        place.incarnation,
        place.partition.number,
        message.offset(),
        message.timestamp()[1] / 1000,
        message.key(),
        message.value(),
        headers,
    )
    return strangers_envelope(record, place.declared)


def _envelope(head: _Whole, key: bytes | None, data: bytes) -> Envelope:
    return Envelope(
        head.id, head.source, head.type, head.version, _key(head, key), head.slot, head.time, data, head.producer,
        head.number, head.correlation, head.causation, head.content_type, head.headers,
    )  # fmt: skip


def _key(head: _Whole, key: bytes | None) -> str | None:
    return None if key is None or head.keyless else key.decode("utf-8", "replace")


def _array(raw: list[bytes]) -> bytes:
    return b"[" + b",".join(raw) + b"]"
