"""Which of the parked a person means, as a value, and as a condition on the columns of the parking lot."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Literal, NamedTuple

State = Literal["dead", "retrying", "behind"]
_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """All that is given has to hold; nothing given means everything.

    group        of this group alone, else of all
    fingerprint  of the error, or its beginning
    type         of the event
    key          of the event, in any topic
    lane         as `Parked.lane` has it: a key, or one event without one
    error_type   name of the exception
    before       failed for the first time (or, never failed, parked) before this Unix time
    since        … at this time or later
    state        dead: a dead letter; retrying: has a due time; behind: waits for an earlier one of its key
    """

    group: str | None = None
    fingerprint: str | None = None
    type: str | None = None
    key: str | None = None
    lane: str | None = None
    error_type: str | None = None
    before: float | None = None
    since: float | None = None
    state: State | None = None

    def document(self) -> dict[str, str]:
        """What is given, as text."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: _text(name, value) for name, value in given.items() if value is not None}


def _text(name: str, value: object) -> str:
    if name in ("before", "since") and isinstance(value, float):
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%SZ}"
    return str(value)


class Condition(NamedTuple):
    """SQL, and the values of its placeholders; `way` names the index to what it means, where that is not all."""

    sql: str
    args: tuple[object, ...]
    way: str = ""

    def into(self, statement: str, *args: object) -> tuple[str, tuple[object, ...]]:
        """The statement with this in the place of `:filter`, its own values first."""
        return statement.replace(":filter", self.sql).replace(":index", self.way), (*args, *self.args)


_EQUAL = {"type": "p.type = ${n}", "error_type": "p.error_type = ${n}", "lane": "p.lane = ${n}"}
_STATES = {
    "dead": "p.head = 1 and p.due is null", "retrying": "p.head = 1 and p.due is not null", "behind": "p.head = 0",
}  # fmt: skip
_WAYS = {"dead": "indexed by evenflow_parked_letters", "retrying": "indexed by evenflow_parked_heads"}
"""Where few of many are meant, the planner would read all."""
_TOPICS = "p.topic in (select topic from evenflow_group where group_name = ${group})"


def condition(wanted: Filter, place: int, group: int = 1) -> Condition:
    """For a statement on `evenflow_parked as p` that has `place` values of its own; its group is the `group`-th."""
    parts: list[str] = []
    args: list[object] = []

    def add(sql: str, *values: object) -> None:
        parts.append(sql.replace("${group}", f"${group}").replace("${n}", f"${place + len(args) + 1}"))
        args.extend(values)

    for name, sql in _EQUAL.items():
        if getattr(wanted, name) is not None:
            add(sql, getattr(wanted, name))
    if wanted.key is not None:
        add("p.lane = ${n}", f"k{wanted.key}")
    if wanted.key is not None or wanted.lane is not None:
        add(_TOPICS)  # so that the primary key finds it
    if wanted.fingerprint is not None:
        add("p.fingerprint >= ${n}", wanted.fingerprint)
        add("p.fingerprint < ${n}", wanted.fingerprint + _LAST)
    if wanted.before is not None:
        add("coalesce(p.first_failed, p.parked) < ${n}", wanted.before)
    if wanted.since is not None:
        add("coalesce(p.first_failed, p.parked) >= ${n}", wanted.since)
    if wanted.state is not None:
        add(_STATES[wanted.state])
    narrow = wanted.key is None and wanted.lane is None
    way = _WAYS.get(wanted.state or "", "") if narrow else ""
    return Condition(" and ".join(parts) or "true", tuple(args), way)
