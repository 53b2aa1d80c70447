"""Partitions of a group that a person's action concerns: who reads them, how far, and that they are claimed anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evenflow.engine import Log, Partition
from evenflow.errors import Refused
from evenflow.operate.finding import Home, has_transactions
from evenflow.store import Row, Session


def reads(rows: Sequence[Row], topic: str, slot: int) -> tuple[int, int, int] | None:
    """Generation, partition and position where a group reads what is of this slot now, by rows of `position_list`."""
    ours = [row for row in rows if row[0] == topic]
    current = [row for row in ours if row[2] == max(each[2] for each in ours)]
    return next(((row[2], row[3], row[4]) for row in current if row[3] == slot % len(current)), None)


async def hand_on(
    session: Session, found: Home, rows: Sequence[Row], slots: Iterable[tuple[str, int]]
) -> list[Partition]:
    """Let the partitions of these slots, by topic, be claimed anew, since owners remember which lanes are parked."""
    places = {Partition(topic, *place[:2]) for topic, slot in slots if (place := reads(rows, topic, slot)) is not None}
    for each in sorted(places):
        await session.execute(found.store.sql["position_hand_on"], (found.group, *each))
    return sorted(places)


async def refuse_in_flight(found: Home, what: str) -> None:
    """What a waiting group has in flight would be done twice, when its partition is taken away."""
    if found.spec is None or has_transactions(found.spec):
        return
    rows = await found.store.read(found.store.sql["position_list"], (found.group,))
    if any(row[7] is not None for row in rows):
        raise Refused(
            f"{found.group!r} is at work, and to {what} would let it do again what it has in flight",
            remedy=f"evenflow groups pause {found.group}, then this, then evenflow groups resume {found.group}",
        )


async def logs_of(found: Home) -> dict[str, Log]:
    """The logs of its topics, those that are there."""
    logs = {topic: await engine.log(topic) for topic, engine in found.engines}
    return {topic: log for topic, log in logs.items() if log is not None}
