"""Runs of envelopes as columns: whatever is cut and joined, the same envelopes come out."""

from __future__ import annotations

import random

import msgspec
import pytest

from evenflow.envelope import Envelope
from evenflow.envelopes import Envelopes, Given, joined, packed, unpack_columns


def some(count: int, seed: int) -> list[Envelope]:
    """Envelopes that differ in many ways, and in few."""
    pick, few = random.Random(seed), random.Random(seed).random() < 0.5
    return [
        Envelope(
            id=f"id-{seed}-{n:04d}" if few else "x" * pick.randint(0, 5) + str(n),
            source="shop" if few else pick.choice(["shop", "mail"]),
            type="placed" if few else pick.choice(["placed", "paid"]),
            version=1 if few else pick.randint(1, 2),
            key=None if few else pick.choice([None, "", "k", "ö" * 3]),
            slot=pick.randint(0, 255),
            time=1.5 if few else pick.random(),
            data=pick.randbytes(pick.randint(0, 20)),
            producer="p" if few else pick.choice(["", "p", "q"]),
            number=n,
            correlation="" if few else pick.choice(["", "c"]),
            causation="" if few else pick.choice(["", "a"]),
            content_type="application/json" if few else pick.choice(["application/json", "text/plain"]),
            headers=None if few else pick.choice([None, {}, {"traceparent": "00-1"}]),
        )
        for n in range(count)
    ]


def as_given(envelopes: list[Envelope]) -> Envelopes:
    return Given(envelopes)


def as_packed(envelopes: list[Envelope]) -> Envelopes:
    return packed(envelopes)[0]


def as_read(envelopes: list[Envelope]) -> Envelopes:
    return unpack_columns(packed(envelopes)[1])


MADE = pytest.mark.parametrize("made", [as_given, as_packed, as_read])


@MADE
@pytest.mark.parametrize("seed", range(12))
def test_what_goes_in_comes_out(made: object, seed: int) -> None:
    envelopes = some(1 + seed * 3, seed)
    run: Envelopes = made(envelopes)  # type: ignore[operator]
    assert list(run) == envelopes == run
    assert [run[place] for place in range(-len(run), 0)] == envelopes
    assert [run.id_at(place) for place in range(len(run))] == [each.id for each in envelopes]
    assert run.data == [each.data for each in envelopes]
    with pytest.raises(IndexError):
        run[len(envelopes)]
    start, stop = sorted(random.Random(seed).choices(range(len(run) + 1), k=2))
    assert list(run[start:stop]) == envelopes[start:stop]
    assert run[::2] == envelopes[::2]


@pytest.mark.parametrize("seed", range(30))
def test_parts_of_runs_as_one(seed: int) -> None:
    pick = random.Random(seed)
    parts, expected = [], []
    for n in range(pick.randint(1, 4)):
        envelopes = some(pick.randint(1, 9), seed * 10 + n)
        start, stop = sorted(pick.choices(range(len(envelopes) + 1), k=2))
        parts.append((pick.choice([as_given, as_packed, as_read])(envelopes), start, stop))
        expected += envelopes[start:stop]
    run = joined(parts)
    again = joined([(run, 0, len(run)), (run, 0, len(run))])
    assert list(run) == expected
    assert list(again) == expected * 2
    assert [again.id_at(place) for place in range(len(again))] == [each.id for each in expected * 2]
    for name, field in (("types", "type"), ("versions", "version"), ("producers", "producer"), ("slots", "slot")):
        column = getattr(again, name)
        shown = column if isinstance(column, list) else [column] * len(again)
        assert shown == [getattr(each, field) for each in expected * 2]


def test_what_all_share_is_kept_once() -> None:
    alike = [Envelope(f"{n:036d}", "shop", "placed", 1, f"k{n}", 1, 1.5, b"d", "p", n + 1) for n in range(256)]
    run, body = packed(alike)
    assert (run.types, run.versions, run.producers, run.content_types) == ("placed", 1, "p", "application/json")
    assert len(body) < 256 * (36 + 20), "besides the id, an event takes a few bytes"


def test_columns_of_different_lengths_are_refused() -> None:
    _, body = packed(some(3, 1))
    read = msgspec.msgpack.decode(body)
    read[1].pop()
    with pytest.raises(msgspec.ValidationError):
        unpack_columns(msgspec.msgpack.encode(read))
