"""What compaction keeps of a log: the latest event of each key."""

from __future__ import annotations

from collections.abc import Sequence

from evenflow.envelope import Envelope

Seen = dict[str, tuple[str, int]]
"""By key the producer and the number of what is kept of it, so far."""


def latest(envelopes: Sequence[Envelope], seen: Seen) -> list[int]:
    """The places of events that no later one of the same key follows; `seen` tells of those behind, and is added to.

    A repeat that a producer has appended late, behind a newer event of its own, does not replace that: readers drop
    the repeat, and would be left with nothing.
    """
    kept = []
    for place in range(len(envelopes) - 1, -1, -1):
        each = envelopes[place]
        if each.key is None:
            kept.append(place)
            continue
        producer, number = seen.get(each.key, (each.producer, -1))
        if each.producer == producer and each.number > number:
            seen[each.key] = each.producer, each.number
            kept.append(place)
    kept.reverse()
    return kept
