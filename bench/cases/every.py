"""All cases, in the order in which they are measured, and shown where they stand in one table."""

from __future__ import annotations

from bench.cases import (
    broker_flow,
    broker_rivals,
    brokers,
    consuming,
    flow,
    later,
    parked,
    publishing,
    rivals,
    starting,
)
from bench.catalogue import Case


def every() -> dict[str, Case]:
    found = [
        *publishing.cases(),
        *consuming.cases(),
        *flow.cases(),
        *starting.cases(),
        *brokers.cases(),
        *broker_flow.cases(),
        *broker_rivals.cases(),
        *rivals.cases(),
        *parked.cases(),
        *later.cases(),
    ]
    return {case.name: case for case in found}
