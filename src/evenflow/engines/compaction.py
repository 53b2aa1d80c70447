"""What compaction keeps of a log: the latest event of each key."""

from __future__ import annotations

from collections.abc import Sequence

from evenflow.envelope import Envelope

Kept = dict[str, tuple[int, float]]
"""By producer the highest number that is kept of a key, and its time."""
Seen = dict[str, Kept]


def latest(envelopes: Sequence[Envelope], seen: Seen) -> list[int]:
    """The places of events that no later one of the same key follows; `seen` tells of those behind, and is added to.

    A repeat that a producer has appended late does not replace what stands between it and the first: readers drop the
    repeat, and would be left with nothing. So what may be one replaces no newer event of its own producer, nor one of
    another that is younger; where it is one for sure, the first of the two stays, so that a new reader drops it too.
    """
    kept = []
    for place in range(len(envelopes) - 1, -1, -1):
        each = envelopes[place]
        if each.key is None:
            kept.append(place)
            continue
        behind = seen.setdefault(each.key, {})
        if _stays(each, behind):
            behind[each.producer] = each.number, each.time
            kept.append(place)
    kept.reverse()
    return kept


def _stays(each: Envelope, behind: Kept) -> bool:
    """Whether an event stays before those that are kept of its key behind it."""
    own = behind.get(each.producer)
    if own is None:
        return all(each.time > time for _, time in behind.values())
    return each.number > own[0] or (each.number == own[0] and bool(each.producer) and len(behind) > 1)
