"""The history of a run, from the files that it has left: line by line, row by row, nothing held that is not needed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from .calls import Call, Fault
from .checker import GROUPS, Asked, Effect, History, Parked
from .draining import OPERATIONS
from .looking import SERVICES
from .runs import Run


SCHEDULES = "evenflow.schedules."
"""A topic of runs that are due: while the last process ends, another run may come."""


def read(folder: Path) -> History:
    """All processes of the run have ended."""
    files = folder / "files"
    history = History(
        tried=((via, uids) for via, *uids in _lines(folder / "tried.jsonl")),
        acked=_lines(folder / "acked.jsonl"),
        placed=(uid for (uid,) in _rows(files / "orders.db", "select uid from placed order by id")),
        effects={group: _effects(files, group) for group in (*GROUPS, "cancelled")},
        asked=[Asked(*line) for line in _lines(folder / "operator.jsonl")],
        calls=[Call(*line) for line in _lines(folder / "calls.jsonl")],
        faults=[Fault(line["what"], line["pid"], line["at"]) for line in _lines(folder / "faults.jsonl")],
    )
    for service in SERVICES:
        _read_store(history, files / f"{service}.db", files / "log.db")
    return history


def _effects(files: Path, group: str) -> Iterator[Effect]:
    for service in SERVICES:
        sql = f"select key, seq, uid, epoch from effects where grp = '{group}' order by id"
        yield from map(Effect._make, _rows(files / f"{service}.db", sql))


def _read_store(history: History, path: Path, log: Path) -> None:
    for group, key, n in _rows(path, "select grp, key, n from counters"):
        history.counters[group, key] = n
    history.runs += [
        Run(name, due, missed, bool(manual), epoch)
        for name, due, missed, manual, epoch in _rows(path, "select name, due, missed, manual, epoch from runs")
    ]
    sql = 'select group_name, envelope, head, due, generation, "offset" from evenflow_parked'
    for name, envelope, head, due, generation, offset in _rows(path, sql):
        group = name.partition(".")[2]
        history.parked.append(Parked(group, _uid_in(envelope), bool(head), due, (generation, offset)))
    for table in ("evenflow_outbox", "evenflow_due", "evenflow_pause"):
        ((count,),) = _rows(path, f"select count(*) from {table}")
        if count:
            history.left.append(f"{path.name}: {count} rows in {table}")
    history.left += [f"{path.name}: operation {each}" for (each,) in _rows(path, OPERATIONS)]
    stopped = _rows(path, "select group_name, reason from evenflow_group where state != 'running'")
    history.left += [f"{group} is stopped: {reason}" for group, reason in stopped]
    ends = {
        (t, g, n): end for t, g, n, end in _rows(log, "select topic, generation, number, next from evenflow_partitions")
    }
    sql = "select group_name, topic, generation, partition, next from evenflow_position where topic != ''"
    for group, topic, generation, number, at in _rows(path, sql):
        if ends[topic, generation, number] != at and not topic.startswith(SCHEDULES):
            history.left.append(f"{group}: {ends[topic, generation, number] - at} events of {topic}/{number} unread")


def _uid_in(envelope: bytes) -> str:
    """The uid in the JSON of a packed event: a checker needs no decoder of ours for that. A schedule's run has none."""
    _, mark, rest = envelope.partition(b'"uid":"')
    return rest[: rest.index(b'"')].decode() if mark else ""


def _rows(path: Path, sql: str) -> Iterator[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        yield from connection.execute(sql)


def _lines(path: Path) -> Iterator[Any]:
    """The facts of a file; a last line without its end was being written at a kill."""
    if path.exists():
        with path.open() as file:
            yield from (json.loads(line) for line in file if line.endswith("\n"))
