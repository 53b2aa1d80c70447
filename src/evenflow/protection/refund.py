"""Attempts that are given back: of events whose failures have opened the breaker of their group."""

from __future__ import annotations

from collections.abc import Sequence

from evenflow.errors import FenceLost
from evenflow.group import GroupLoop
from evenflow.unit_of_work import UnitOfWork
from evenflow.window import Job


async def refund(loop: GroupLoop, jobs: Sequence[Job]) -> None:
    """Take back the last attempt of these, as far as nothing has happened to them since. A dead letter is due again.

    Their history keeps it. Call it while no other transaction of the positions is written.
    """
    work = loop.work
    for owned in list(loop.owned.values()):
        unit = UnitOfWork(work.outbox, loop.lineage)
        for job in jobs:
            if job.owned is owned and job.failure is not None:
                topic, generation, _ = owned.partition
                if job.row is not None:  # it may be of an earlier generation of the topic
                    generation = job.row.generation
                place = (loop.name, topic, job.lane, generation, job.offset)
                args = (*place, job.failure.counted, job.failure.at, work.clock.now())
                unit.hand_over(work.store.sql["parked_refund"], args)
        if unit.statements:
            try:
                loop.guard(unit, owned)
                await unit.commit()
            except FenceLost:
                continue  # another process has it, and knows of the attempt
