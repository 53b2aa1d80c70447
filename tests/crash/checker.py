"""Was anything lost, doubled, or out of order? Reads the files that a run has left, with nothing of Evenflow's.

`read(folder)` makes a History; `check(history)` is a pure function of it, which is tested with made-up histories.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

TOP = ("charge", "balance", "ledger")
"""Groups that see every order."""
CHAIN = {"ship": "charge", "parcel": "ship"}
"""Groups that see what another group has published, each event of it once."""
POISON = "d-poison"


class Effect(NamedTuple):
    key: str
    seq: int
    uid: str


class Parked(NamedTuple):
    group: str
    uid: str
    head: bool
    due: float | None
    place: tuple[int, int]


class Call(NamedTuple):
    uid: str
    key: str
    pid: int
    phase: str
    at: float


class Fault(NamedTuple):
    what: str
    pid: int
    at: float


@dataclass
class History:
    """Everything that is known of a run. `placed`: what transactions have committed, in order. `left`: in words."""

    tried: dict[str, str] = field(default_factory=dict)
    acked: list[str] = field(default_factory=list)
    placed: list[str] = field(default_factory=list)
    effects: dict[str, list[Effect]] = field(default_factory=dict)
    counters: dict[tuple[str, str], int] = field(default_factory=dict)
    parked: list[Parked] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


class Anomaly(NamedTuple):
    kind: str
    what: str


def line_of(uid: str) -> tuple[str, str]:
    """What is in order together: numbers rise in each such line."""
    key, incarnation, _ = uid.rsplit("/", 2)
    return (key, incarnation if key.startswith("m") else "")


def number_of(uid: str) -> int:
    return int(uid.rsplit("/", 1)[1])


# -- the checks -------------------------------------------------------------------------------------------------------


def check(history: History) -> list[Anomaly]:
    """Every anomaly, of all kinds: lost, doubled, phantom, order, count, parked, call, left."""
    found = [Anomaly("left", text) for text in history.left]
    found += _unacknowledged(history)
    applied = {group: [effect.uid for effect in rows] for group, rows in history.effects.items()}
    parked = {group: {row.uid for row in history.parked if row.group == group} for group in (*TOP, *CHAIN, "notify")}
    orders = set(history.acked) | set(history.placed)
    for group in TOP:  # an order that nobody acknowledged may be there; then it is there for every group
        orders |= set(applied.get(group, ())) | parked[group]
    for group in TOP:
        found += _once(group, applied.get(group, []), orders, parked[group])
    for group, source in CHAIN.items():
        found += _once(group, applied.get(group, []), set(applied.get(source, ())), parked[group])
    for group, rows in history.effects.items():
        found += _order(group, [row.uid for row in rows]) + _counts(group, rows, history.counters)
    found += [Anomaly("phantom", f"cancelled, but came: {uid}") for uid in applied.get("cancelled", ())]
    found += _parking(history) + _waiting(history, set(applied.get("charge", ())))
    return found


def _unacknowledged(history: History) -> list[Anomaly]:
    placed = Counter(history.placed)
    found = [Anomaly("doubled", f"the business row of {uid} is there {n} times") for uid, n in placed.items() if n > 1]
    for group in TOP:
        for effect in history.effects.get(group, ()):
            if effect.uid not in history.tried:
                found.append(Anomaly("phantom", f"{group}: nobody has tried to publish {effect.uid}"))
            elif history.tried[effect.uid] == "tx" and effect.uid not in placed:
                found.append(Anomaly("phantom", f"{group}: the transaction of {effect.uid} was not committed"))
    lost = [uid for uid in history.acked if history.tried.get(uid) == "tx" and uid not in placed]
    return found + [Anomaly("lost", f"{uid} was acknowledged, and its transaction is not there") for uid in lost]


def _once(group: str, applied: list[str], wanted: set[str], parked: set[str]) -> list[Anomaly]:
    counts = Counter(applied)
    found = [Anomaly("lost", f"{group}: {uid} is not applied") for uid in sorted(wanted - counts.keys() - parked)]
    found += [Anomaly("doubled", f"{group}: {uid} is applied {n} times") for uid, n in counts.items() if n > 1]
    found += [Anomaly("phantom", f"{group}: {uid} has no cause") for uid in sorted(counts.keys() - wanted)]
    return found + [
        Anomaly("doubled", f"{group}: {uid} is applied and parked") for uid in sorted(parked & counts.keys())
    ]


def _order(group: str, uids: list[str]) -> list[Anomaly]:
    last: dict[tuple[str, str], int] = {}
    found = []
    for uid in uids:
        line, number = line_of(uid), number_of(uid)
        if number < last.get(line, 0):
            found.append(Anomaly("order", f"{group}: {uid} after number {last[line]}"))
        last[line] = max(number, last.get(line, 0))
    return found


def _counts(group: str, rows: list[Effect], counters: dict[tuple[str, str], int]) -> list[Anomaly]:
    """Per key the sequence numbers are 1, 2, 3, … and the counter says how many there are."""
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        seen[row.key] += 1
        if row.seq != seen[row.key]:
            found.append(Anomaly("count", f"{group}: effect {seen[row.key]} of {row.key} has number {row.seq}"))
    for key, n in seen.items():
        if counters.get((group, key), 0) != n:
            found.append(
                Anomaly("count", f"{group}: {key} has {n} effects, its counter says {counters.get((group, key))}")
            )
    return found


def _parking(history: History) -> list[Anomaly]:
    """Only the poisoned key is parked, in the ledger alone: its dead letter first, and everything after it behind."""
    found = [
        Anomaly("parked", f"{row.group}: {row.uid} is still parked")
        for row in history.parked
        if row.group != "ledger" or not row.uid.startswith(POISON + "/")
    ]
    rows = sorted((row for row in history.parked if row.group == "ledger"), key=lambda row: row.place)
    if rows and not (rows[0].head and rows[0].due is None and number_of(rows[0].uid) % 10_000_000 == 5):
        found.append(Anomaly("parked", f"ledger: {rows[0].uid} heads its key, and is not the dead letter"))
    found += [Anomaly("parked", f"ledger: {row.uid} is a second head") for row in rows[1:] if row.head]
    passed = [number_of(e.uid) for e in history.effects.get("ledger", ()) if e.key == POISON]
    found += _order("ledger, parked", [row.uid for row in rows])
    if rows and passed and max(passed) > number_of(rows[0].uid):
        found.append(Anomaly("order", f"ledger: {max(passed)} of {POISON} went past its dead letter"))
    return found


def _waiting(history: History, wanted: set[str]) -> list[Anomaly]:
    """Calls outside of any transaction: all made, in order, side by side for no key, repeated across faults only."""
    found = []
    starts: dict[str, list[Call]] = {}
    ended: dict[str, Call] = {}
    end_of = _ends(history.calls)
    for call in history.calls:
        if call.phase == "start":
            starts.setdefault(call.uid, []).append(call)
        elif call.phase == "end":
            ended.setdefault(call.uid, call)
    found += [Anomaly("lost", f"notify: {uid} was not called to its end") for uid in sorted(wanted - ended.keys())]
    found += [Anomaly("phantom", f"notify: {uid} has no cause") for uid in sorted(starts.keys() - wanted)]
    found += _order("notify", [call.uid for call in sorted(ended.values(), key=lambda call: call.at)])
    failed = {call.uid for call in history.calls if call.phase == "failed"}
    for uid, calls in starts.items():
        for first, again in zip(calls, calls[1:], strict=False):
            if uid not in failed and not _fault(history, first.at, again.at):
                found.append(Anomaly("doubled", f"notify: {uid} was called again with no fault between"))
    by_key: dict[str, Call] = {}
    for call in sorted((call for calls in starts.values() for call in calls), key=lambda call: call.at):
        before = by_key.get(call.key)
        by_key[call.key] = call
        if before is None:
            continue
        late = _fault(
            history, call.at, call.at, call.pid
        )  # frozen until now, it does not know yet that it lost its place
        if end_of.get(before, float("inf")) > call.at and not (late or _fault(history, before.at, call.at, before.pid)):
            found.append(Anomaly("order", f"notify: {call.uid} began while {before.uid} was running"))
    return found


def _ends(calls: list[Call]) -> dict[Call, float]:
    """When each call that has come to an end did so."""
    ends: dict[Call, float] = {}
    running: dict[tuple[str, int], Call] = {}
    for call in calls:
        if call.phase == "start":
            running[call.uid, call.pid] = call
        else:
            ends[running.pop((call.uid, call.pid))] = call.at
    return ends


def _fault(history: History, start: float, end: float, pid: int | None = None) -> bool:
    """Whether a process (this one) was killed or frozen in this time. A clean stop is no fault."""
    return any(
        start - 1.0 <= fault.at <= end and fault.what in ("kill", "freeze", "thaw") and pid in (None, fault.pid)
        for fault in history.faults
    )


# -- reading ----------------------------------------------------------------------------------------------------------


def read(folder: Path) -> History:
    """What a run has left in its folder. All its processes have ended."""
    history = History()
    for line in _lines(folder / "tried.jsonl"):
        history.tried[line["uid"]] = line["via"]
    history.acked = [uid for line in _lines(folder / "acked.jsonl") for uid in line]
    history.calls = [Call(**line) for line in _lines(folder / "calls.jsonl")]
    history.faults = [Fault(line["what"], line["pid"], line["at"]) for line in _lines(folder / "faults.jsonl")]
    history.placed = [uid for (uid,) in _rows(folder / "orders.db", "select uid from placed order by id")]
    for service in ("orders", "billing", "shipping"):
        _read_store(history, folder / f"{service}.db", folder / "log.db")
    return history


def _read_store(history: History, path: Path, log: Path) -> None:
    for group, *effect in _rows(path, "select grp, key, seq, uid from effects order by id"):
        history.effects.setdefault(group, []).append(Effect(*effect))
    for group, key, n in _rows(path, "select grp, key, n from counters"):
        history.counters[group, key] = n
    sql = 'select group_name, envelope, head, due, generation, "offset" from evenflow_parked'
    for name, envelope, head, due, generation, offset in _rows(path, sql):
        group = name.partition(".")[2]
        history.parked.append(Parked(group, _uid_in(envelope), bool(head), due, (generation, offset)))
    for table in ("evenflow_outbox", "evenflow_due"):
        ((count,),) = _rows(path, f"select count(*) from {table}")
        if count:
            history.left.append(f"{path.name}: {count} rows in {table}")
    stopped = _rows(path, "select group_name, reason from evenflow_group where state != 'running'")
    history.left += [f"{group} is stopped: {reason}" for group, reason in stopped]
    ends = {
        (t, g, n): end for t, g, n, end in _rows(log, "select topic, generation, number, next from evenflow_partitions")
    }
    sql = 'select group_name, topic, generation, partition, next from evenflow_position where topic != ""'
    for group, topic, generation, number, at in _rows(path, sql.replace('""', "''")):
        if ends[topic, generation, number] != at:
            history.left.append(f"{group}: {ends[topic, generation, number] - at} events of {topic}/{number} unread")


def _uid_in(envelope: bytes) -> str:
    """The uid in the JSON of a packed event: a checker needs no decoder of ours for that."""
    start = envelope.index(b'"uid":"') + 7
    return envelope[start : envelope.index(b'"', start)].decode()


def _rows(path: Path, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def _lines(path: Path) -> list:
    """The facts of a file; a last line without its end was being written at a kill."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def summary(history: History, anomalies: list[Anomaly]) -> str:
    """One line for a person."""
    kinds = Counter(anomaly.kind for anomaly in anomalies)
    kills = sum(1 for fault in history.faults if fault.what == "kill")
    events = len(set(history.acked) | set(history.placed))
    others = "".join(f", {kinds[kind]} {kind}" for kind in ("phantom", "count", "parked", "left") if kinds[kind])
    return (
        f"crash: {kills} kills, {events} events, {kinds['lost']} lost, {kinds['doubled']} doubled, "
        f"{kinds['order']} out of order{others}"
    )
