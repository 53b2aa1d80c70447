"""Test vectors of names, keys, slots and ids. They stand in logs and stores: a change here is a break."""

from __future__ import annotations

import enum
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenflow import ids

SLOT_VECTORS = [
    ("", 0),
    ("a", 67),
    ("1", 183),
    ("order-1", 239),
    ("customer-42", 21),
    ("Größe", 21),
    ("日本語", 229),
    ("😀", 68),
    ('["a","bc"]', 205),
    ('["ab","c"]', 152),
    ("550e8400-e29b-41d4-a716-446655440000", 241),
]


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(("key", "slot"), SLOT_VECTORS)
def test_slot_vectors(key: str, slot: int) -> None:
    assert ids.slot_of(key) == slot


@pytest.mark.parametrize("partitions", [1, 2, 4, 8, 16, 32, 64, 128, 256])
def test_partition_is_the_slot_modulo_the_count(partitions: int) -> None:
    found = [ids.slot_of(key) % partitions for key, _ in SLOT_VECTORS]
    assert found == [slot & (partitions - 1) for _, slot in SLOT_VECTORS]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (("a",), "a"),
        (("",), ""),
        ((7,), "7"),
        ((-(2**63),), "-9223372036854775808"),
        ((uuid.UUID("550E8400-E29B-41D4-A716-446655440000"),), "550e8400-e29b-41d4-a716-446655440000"),
        ((Colour.RED,), "red"),
        (("a", "bc"), '["a","bc"]'),
        (("ab", "c"), '["ab","c"]'),
        (("a", 1, uuid.UUID(int=0)), '["a","1","00000000-0000-0000-0000-000000000000"]'),
        (('q"\\', "ü/\n"), '["q\\"\\\\","ü/\\n"]'),
        (("[", "]"), '["[","]"]'),
    ],
)
def test_key_vectors(values: tuple[object, ...], text: str) -> None:
    assert ids.key_text(values) == text


@pytest.mark.parametrize("value", [None, True, 1.0, b"a", [], ("a",)])
def test_what_is_no_key(value: object) -> None:
    with pytest.raises(TypeError, match="a key is text, an integer or a UUID"):
        ids.key_text((value,))
    with pytest.raises(TypeError, match="a key is text, an integer or a UUID"):
        ids.key_text(("a", value))


@given(st.lists(st.text(), min_size=2, max_size=4), st.lists(st.text(), min_size=2, max_size=4))
def test_keys_of_several_fields_differ_when_a_field_differs(left: list[str], right: list[str]) -> None:
    assert (ids.key_text(tuple(left)) == ids.key_text(tuple(right))) == (left == right)
    assert json.loads(ids.key_text(tuple(left))) == left


@given(st.text())
def test_slots_are_bytes(key: str) -> None:
    assert 0 <= ids.slot_of(key) < ids.SLOTS


@pytest.mark.parametrize("name", ["a", "orders", "order.placed", "billing.charge", "a-b_c.d", "v2", "a1.2b", "a" * 100])
def test_names(name: str) -> None:
    assert ids.is_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "A", "Orders", "1a", ".a", "a.", "a..b", "a._b", "a b", "a/b", "ä", "a\n", "a:b", "-a", "a-", "a*", "a" * 101],
)
def test_what_is_no_name(name: str) -> None:
    assert not ids.is_name(name)


def test_new_id_is_a_uuid_of_version_7() -> None:
    made = ids.new_id(lambda: 1_700_000_000.123, lambda count: bytes(range(count)))
    assert made == "018bcfe5-687b-7001-8203-040506070809"
    parsed = uuid.UUID(made)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == 1_700_000_000_123


@given(st.floats(0, 2**40 / 1000), st.binary(min_size=10, max_size=10))
def test_new_ids_sort_by_time(now: float, tail: bytes) -> None:
    early, late = (ids.new_id(lambda each=each: each, lambda _: tail) for each in (now, now + 1))
    assert early < late
    assert uuid.UUID(early).version == 7


@given(st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_new_ids_use_their_randomness(left: bytes, right: bytes) -> None:
    """74 of the 80 bits count."""
    made = {ids.new_id(lambda: 1.0, lambda _, tail=tail: tail) for tail in (left, right)}
    mask = 0x0FFF_3FFFFFFFFFFFFFFF
    kept = {int.from_bytes(tail, "big") & mask for tail in (left, right)}
    assert len(made) == len(kept)


DERIVED = [
    (("billing.charge", "orders", "e1", "0"), "58fc3ee4-b283-83a2-a014-28944feb4ea2"),
    (("billing.charge", "orders", "e1", "1"), "6438b910-50c0-8618-8b99-f8c8e68e6c3d"),
    (("",), "cae66941-d9ef-8d40-8e4d-88758ea67670"),
    (("schedule", "dunning", "1700000000"), "1fb77576-ea2a-893c-b18f-7a8bd1145cd1"),
]


@pytest.mark.parametrize(("parts", "text"), DERIVED)
def test_derived_id_vectors(parts: tuple[str, ...], text: str) -> None:
    assert ids.derived_id(*parts) == text
    parsed = uuid.UUID(text)
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00")), min_size=1, max_size=4))
def test_derived_ids_keep_their_parts_apart(parts: list[str]) -> None:
    assert ids.derived_id(*parts) == ids.derived_id(*parts)
    assert ids.derived_id(*parts) != ids.derived_id(*parts, "")
    if len(parts) > 1 and parts[1]:
        moved = [parts[0] + parts[1][0], parts[1][1:], *parts[2:]]
        assert ids.derived_id(*parts) != ids.derived_id(*moved)
