"""A run of envelopes as columns: what all of them share is kept once, and an `Envelope` is made when one is asked for.

The runner reads columns, since most events are handled without anybody asking for their envelope.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any, TypeVar, overload

import msgspec

from evenflow.envelope import Envelope

T = TypeVar("T")


class Envelopes(Sequence[Envelope]):
    """The columns that handling an event needs. One that is not a list holds for every envelope."""

    __slots__ = ("content_types", "data", "numbers", "producers", "slots", "types", "versions")

    data: list[bytes]
    slots: list[int]
    numbers: list[int]
    types: str | list[str]
    versions: int | list[int]
    content_types: str | list[str]
    producers: str | list[str]

    def __len__(self) -> int:
        return len(self.data)

    @overload
    def __getitem__(self, place: int) -> Envelope: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Envelope]: ...
    def __getitem__(self, place: int | slice) -> Envelope | Sequence[Envelope]:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            return joined([(self, start, max(start, stop))]) if step == 1 else list(self)[place]
        count = len(self)
        if not -count <= place < count:
            raise IndexError(place)
        place %= count
        return next(self.between(place, place + 1))

    def __iter__(self) -> Iterator[Envelope]:
        return self.between(0, len(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    @abstractmethod
    def id_at(self, place: int) -> str:
        """The id of one of them."""

    @abstractmethod
    def keys(self) -> list[str | None]:
        """Their keys."""

    @abstractmethod
    def between(self, start: int, stop: int) -> Iterator[Envelope]:
        """The envelopes themselves, made as they are asked for."""


class Given(Envelopes):
    """Envelopes that somebody has made already."""

    __slots__ = ("_envelopes",)

    def __init__(self, envelopes: Sequence[Envelope]) -> None:
        self._envelopes = envelopes
        self.data = [each.data for each in envelopes]
        self.slots = [each.slot for each in envelopes]
        self.numbers = [each.number for each in envelopes]
        self.types = shared([each.type for each in envelopes])
        self.versions = shared([each.version for each in envelopes])
        self.content_types = shared([each.content_type for each in envelopes])
        self.producers = shared([each.producer for each in envelopes])

    def between(self, start: int, stop: int) -> Iterator[Envelope]:
        return iter(self._envelopes[start:stop])

    def id_at(self, place: int) -> str:
        return self._envelopes[place].id

    def keys(self) -> list[str | None]:
        return [each.key for each in self._envelopes]


class _Body(msgspec.Struct, array_like=True, gc=False):
    """How a run is kept. Ids of the same length stand in one text. `rest` is a `_Rest`, packed: most do without.

    Fields are only ever added at the end.
    """

    data: list[bytes]
    slots: list[int]
    numbers: list[int]
    types: str | list[str]
    versions: int | list[int]
    content_types: str | list[str]
    producers: str | list[str]
    ids: str | list[str]
    rest: bytes


class _Rest(msgspec.Struct, array_like=True, gc=False):
    """The columns that few ask for. Fields are only ever added at the end."""

    sources: str | list[str]
    keys: str | list[str | None] | None
    times: float | list[float]
    correlations: str | list[str]
    causations: str | list[str]
    headers: dict[str, str] | list[dict[str, str] | None] | None


_encode = msgspec.msgpack.Encoder().encode
_read_body = msgspec.msgpack.Decoder(_Body).decode
_read_rest = msgspec.msgpack.Decoder(_Rest).decode


class Packed(Envelopes):
    """Envelopes as a log keeps them."""

    __slots__ = ("_columns", "_ids", "_rest")

    def __init__(self, body: _Body) -> None:
        self.data = body.data
        self.slots = body.slots
        self.numbers = body.numbers
        self.types = body.types
        self.versions = body.versions
        self.content_types = body.content_types
        self.producers = body.producers
        self._ids = body.ids
        self._rest = body.rest
        self._columns: _Rest | None = None

    def between(self, start: int, stop: int) -> Iterator[Envelope]:
        rest = self._read()
        columns: tuple[Any, ...] = (
            rest.sources, self.types, self.versions, rest.keys, self.slots, rest.times, self.data,
            self.producers, self.numbers, rest.correlations, rest.causations, self.content_types, rest.headers,
        )  # fmt: skip
        parts = (each[start:stop] if type(each) is list else repeat(each) for each in columns)
        return map(Envelope, self._some_ids(start, stop), *parts)

    def keys(self) -> list[str | None]:
        keys = self._read().keys
        return keys if isinstance(keys, list) else [keys] * len(self.data)

    def _read(self) -> _Rest:
        rest = self._columns
        if rest is None:
            rest = self._columns = _read_rest(self._rest)
        return rest

    def _some_ids(self, start: int, stop: int) -> list[str]:
        ids = self._ids
        if not isinstance(ids, str):
            return ids[start:stop]
        width = len(ids) // len(self.data)
        return [ids[place : place + width] for place in range(start * width, stop * width, width)]

    def id_at(self, place: int) -> str:
        ids = self._ids
        if not isinstance(ids, str):
            return ids[place]
        width = len(ids) // len(self.data)
        return ids[place * width : (place + 1) * width]


class _Joined(Envelopes):
    """Parts of other runs, one after another."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[tuple[Envelopes, int, int]]) -> None:
        self._parts = parts
        if len(parts) == 1:
            ((whole, start, stop),) = parts
            for name in Envelopes.__slots__:
                column = getattr(whole, name)
                setattr(self, name, column[start:stop] if type(column) is list else column)
            return
        for name in Envelopes.__slots__:
            setattr(self, name, _together([(getattr(run, name), start, stop) for run, start, stop in parts]))

    def between(self, start: int, stop: int) -> Iterator[Envelope]:
        return chain.from_iterable(self._between(start, stop))

    def _between(self, start: int, stop: int) -> Iterator[Iterator[Envelope]]:
        begin = 0
        for run, first, last in self._parts:
            end = begin + last - first
            low, high = max(start, begin), min(stop, end)
            if low < high:
                yield run.between(first + low - begin, first + high - begin)
            begin = end

    def keys(self) -> list[str | None]:
        return [key for run, first, last in self._parts for key in run.keys()[first:last]]

    def id_at(self, place: int) -> str:
        for run, first, last in self._parts:
            if place < last - first:
                return run.id_at(first + place)
            place -= last - first
        raise IndexError(place)


def joined(parts: Sequence[tuple[Envelopes, int, int]]) -> Envelopes:
    """Several runs, each from one place to another, as one. A whole run is given as it is."""
    if len(parts) == 1 and parts[0][1] == 0 and parts[0][2] == len(parts[0][0]):
        return parts[0][0]
    return _Joined(parts)


def packed(envelopes: Iterable[Envelope]) -> tuple[Packed, bytes]:
    """Envelopes as columns, and as bytes to be kept. There must be at least one."""
    (
        ids, sources, types, versions, keys, slots, times, data, producers, numbers, correlations, causations,
        content_types, headers,
    ) = map(list, zip(*map(msgspec.structs.astuple, envelopes), strict=True))  # fmt: skip
    width = len(ids[0])
    alike = set(map(len, ids)) == {width}
    rest = _Rest(
        shared(sources), shared(keys), shared(times), shared(correlations), shared(causations), shared(headers)
    )
    body = _Body(
        data, slots, numbers, shared(types), shared(versions), shared(content_types), shared(producers),
        "".join(ids) if alike and width else ids, _encode(rest),
    )  # fmt: skip
    return Packed(body), _encode(body)


def unpack_columns(body: bytes) -> Packed:
    """The inverse of `packed`. Raises `msgspec.MsgspecError` for anything else."""
    read = _read_body(body)
    if not len(read.data) == len(read.slots) == len(read.numbers):
        raise msgspec.ValidationError("its columns are not of one length")
    return Packed(read)


def shared(column: list[T]) -> T | list[T]:
    """A column, or its one value where it has no other."""
    if column and column[0] == column[-1] and column.count(column[0]) == len(column):
        return column[0]
    return column


def _together(parts: list[tuple[Any, int, int]]) -> Any:
    """Columns of several runs as one."""
    first = parts[0][0]
    if type(first) is not list and all(type(column) is not list and column == first for column, _, _ in parts):
        return first
    found: list[Any] = []
    for column, start, stop in parts:
        found += column[start:stop] if type(column) is list else [column] * (stop - start)
    return found
