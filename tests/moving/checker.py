"""What the stores say after a run: each key of each group once, in order, without a gap (a compacted topic may have
some), to the last one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from evenflow.store import Row


def violations(seen: Iterable[Row], expected: Mapping[str, tuple[int, int]], readers: Mapping[str, str]) -> list[str]:
    """What is wrong with what groups have done: rows of reader, key, number, in their order.

    expected  by key, how many events there are at least and at most
    readers   by reader, the first letters of the keys that it has to have
    """
    done: dict[tuple[str, str], list[int]] = {}
    for reader, key, number in seen:
        done.setdefault((reader, key), []).append(number)
    wrong = []
    for (reader, key), numbers in done.items():
        if reader in LATEST and numbers == sorted(set(numbers)):
            continue
        if numbers != list(range(1, len(numbers) + 1)):
            place = next(n for n, number in enumerate(numbers) if number != n + 1)
            wrong.append(f"{reader} has done {key} as … {numbers[max(0, place - 3) : place + 4]} …")
    for reader, letters in readers.items():
        for key, (least, most) in expected.items():
            numbers = done.get((reader, key), [])
            count = numbers[-1] if numbers and reader in LATEST else len(numbers)
            if key[0] in letters and not least <= count <= most:
                wrong.append(f"{reader} has done {count} of {key}, which has {least} to {most}")
    return wrong


LATEST = frozenset({"state"})
"""Readers of a compacted topic: of what they have not read in time they get the latest of each key."""

READERS = {"count": "td", "state": "s", "batch": "td", "both-step": "td", "both-echo": "td"}
"""Of `program`: which keys each reader has to have."""
