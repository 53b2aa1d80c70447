"""What a run has not done yet, in a process that never loads Evenflow."""

from __future__ import annotations

import time
from collections.abc import Callable

from .looking import SERVICES, Look

PARKED = (
    "select group_name, count(due), count(*) - count(due) from evenflow_parked where head = 1 "
    "and (group_name, lane) != ('billing.ledger', 'kd-poison') group by group_name"
)
OPERATIONS = "select id || ' is ' || state from evenflow_operation where state in ('gathering', 'running', 'paused')"
STOPPED = "select group_name || ' is stopped: ' || reason from evenflow_group where state = 'stopped'"
POSITIONS = (
    "select group_name, topic, generation, partition, next from evenflow_position where group_name != 'evenflow.relay'"
)


def wait_drained(look: Look, patience: float, meanwhile: Callable[[], None]) -> str:
    """Until nothing is left; what is, in words. What has piled up may take its time, as long as it gets less."""
    began = moved = time.monotonic()
    rest, least = left(look), amount(look)
    while rest and time.monotonic() < moved + patience:
        time.sleep(0.2 if time.monotonic() < began + 10.0 else 1.0)  # a look costs the machine something
        meanwhile()
        rest = left(look) or left(look)
        if (now := amount(look)) < least:
            least, moved = now, time.monotonic()
    return rest


def amount(look: Look) -> int:
    """How many events are left to be done, in numbers: while it falls, the system is at work."""
    found = sum(far for *_, far in behind(look))
    for service in SERVICES:
        for table in ("evenflow_outbox", "evenflow_due", "evenflow_parked"):
            ((count,),) = look.rows(service, f"select count(*) from {table}")
            found += count
    return found


def left(look: Look) -> str:
    """What is left to be done, in words; empty when nothing is."""
    found = []
    for service in SERVICES:
        for table in ("evenflow_outbox", "evenflow_due", "evenflow_pause"):
            ((count,),) = look.rows(service, f"select count(*) from {table}")
            if count:
                found.append(f"{service}.{table} {count}")
        found += [f"operation {each}" for (each,) in look.rows(service, OPERATIONS)]
        found += [each for (each,) in look.rows(service, STOPPED)]
        for group, due, dead in look.rows(service, PARKED):
            found += [f"{group}: {due} parked lanes to be tried again"] if due else []
            found += [f"{group}: {dead} dead letters that the operator has not brought back"] if dead else []
    return ", ".join(found + [f"{group} {topic}/{number} {far} behind" for group, topic, number, far in behind(look)])


def behind(look: Look) -> list[tuple[str, str, int, int]]:
    """Partitions that a group has not read to their end, and how far that is."""
    positions = [row for service in SERVICES for row in look.rows(service, POSITIONS)]
    ends = look.ends()
    found = [
        (group, topic, number, ends[topic, generation, number] - at)
        for group, topic, generation, number, at in positions
    ]
    return [each for each in found if each[-1]]
