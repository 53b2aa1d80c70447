"""What a run has not done yet, read from its files by `sqlite3`, in a process that never loads Evenflow."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

SERVICES = ("orders", "billing", "shipping")
DEAD = (
    "select group_name, count(*) from evenflow_parked where head = 1 "
    "and (group_name, lane) != ('billing.ledger', 'kd-poison') group by group_name"
)
OPERATIONS = "select id || ' is ' || state from evenflow_operation where state in ('gathering', 'running', 'paused')"


def amount(folder: Path) -> int:
    """How many events are left to be done, in numbers: while it falls, the system is at work."""
    found = 0
    for service in SERVICES:
        for table in ("evenflow_outbox", "evenflow_due", "evenflow_parked"):
            ((count,),) = query(folder / f"{service}.db", f"select count(*) from {table}")
            found += count
        found += sum(int(each.rsplit(" ", 2)[1]) for each in behind(folder, service))
    return found


def left(folder: Path) -> str:
    """What is left to be done, in words; empty when nothing is."""
    found = []
    for service in SERVICES:
        path = folder / f"{service}.db"
        for table in ("evenflow_outbox", "evenflow_due", "evenflow_pause"):
            ((count,),) = query(path, f"select count(*) from {table}")
            if count:
                found.append(f"{service}.{table} {count}")
        found += [f"operation {each}" for (each,) in query(path, OPERATIONS)]
        found += behind(folder, service)
        found += [f"{group}: {count} parked lanes to be tried again" for group, count in query(path, DEAD)]
    return ", ".join(found)


def behind(folder: Path, service: str) -> list[str]:
    """Partitions that a group of this service has not read to their end."""
    sql = (
        "select group_name, topic, generation, partition, next from evenflow_position "
        "where group_name != 'evenflow.relay'"
    )
    rows = query(folder / f"{service}.db", sql)
    sql = "select topic, generation, number, next from evenflow_partitions"
    ends = {(topic, generation, number): end for topic, generation, number, end in query(folder / "log.db", sql)}
    return [f"{group} {t}/{n} {end - at} behind" for group, t, g, n, at in rows if (end := ends[t, g, n]) != at]


def query(path: Path, sql: str) -> list[tuple]:
    """Rows, through a connection that cannot write."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)) as connection:
        return connection.execute(sql).fetchall()
