"""groups show."""

from __future__ import annotations

import shutil
import textwrap
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import msgspec

from evenflow import operate
from evenflow.cli.failures import Code, relative
from evenflow.cli.groups import number, state_of
from evenflow.cli.looking import looking
from evenflow.cli.output import duration, out, out_json, paint, stamp, table, when
from evenflow.cli.remedies import runnable
from evenflow.protection.limiting import Limit
from evenflow.running import Running

_HEAD = ("PARTITION", "STATE", "POSITION", "END", "WAITING", "AGE", "OWNER", "FENCE", "PARKED")
_COLOURS = {"stopped": "red", "running": "green"}
_KINDS = {
    "transactional": "many events in one transaction",
    "batch": "lists of events, each in one transaction",
    "waiting": "events of different keys side by side",
}
"""In the place of the kind's own name, which beside a count of waiting events says something else."""


def show(options: Namespace) -> int:
    """All of one group."""

    async def work(running: Running) -> tuple[operate.GroupDetail, float]:
        return await operate.group(running, options.group), running.clock.now()

    found, now = looking(options, work)
    if options.json:
        out_json(_document(found))
        return Code.DONE
    state = state_of(found.status)
    out(f"{paint(found.status.group, 'bold')}  {paint(state, _COLOURS.get(state, 'yellow'))}")
    for name, text in _facts(found, now):
        first, *others = [line for each in runnable(text, options.app).splitlines() for line in _wrapped(each)]
        out(f"  {paint(name.ljust(8), 'dim')}  {first}")
        for line in others:
            out(f"            {line}")
    if found.partitions:
        out()
        table(_HEAD, [_row(each) for each in found.partitions])
        for each in found.partitions:
            if each.state in ("lost", "waits"):
                out(f"  {_named(each)} {each.state}: {each.why}")
    return Code.DONE


def _wrapped(line: str) -> list[str]:
    """Fitted to the terminal; a command stays in one piece."""
    width = min(100, shutil.get_terminal_size().columns) - 12
    return [line] if "→" in line else textwrap.wrap(line, width, break_on_hyphens=False) or [""]


def _facts(found: operate.GroupDetail, now: float) -> Iterator[tuple[str, str]]:
    status, promise = found.status, found.promise
    if found.where:
        yield "handler", f"{found.handler}, {relative(found.where)}"
        yield "", _KINDS.get(status.kind, status.kind)
    else:
        yield "handler", "none: the code does not have this group (any more)"
        yield "", f"→ evenflow groups rename {status.group} NEW\n→ evenflow groups drop {status.group}"
    if promise is not None:
        yield "promise", str(promise).partition(": ")[2]
    for topic, reason in found.stopped.items():
        yield "stopped", f"at {topic}: {reason}"
    for pause in found.pauses:
        yield "paused", f"{str(pause).removeprefix('paused ')} ({when(pause.at, now)})"
    if found.pauses:
        yield "", f"→ evenflow groups resume {status.group}"
    if found.limit is not None:
        yield "limit", _limit(found.limit)
    if status.breaker is not None:
        yield "breaker", status.breaker.told.removeprefix("breaker ")
        yield "", f"→ evenflow groups resume {status.group}, to try at once"
    age = f", the oldest {duration(status.age)} old" if status.age is not None else ""
    yield "waiting", f"{number(status.waiting)} event{'' if status.waiting == 1 else 's'}{age}"
    if status.parked:
        yield "parked", f"{status.parked:,}, of them {status.dead:,} dead → evenflow parked list --group {status.group}"
    if status.full:
        yield "", "as many as its policy allows: a partition whose next event fails waits"
    if found.lineage != status.group:
        yield "ids", f"of what it publishes derive from {found.lineage}, its name before"


def _limit(limit: Limit) -> str:
    of_all = [f"{limit.per_second:g} calls a second in all processes"] if limit.per_second is not None else []
    of_key = [f"{limit.per_key:g} a second of one key"] if limit.per_key is not None else []
    return f"{', '.join([*of_all, *of_key])}; what is over it waits"


def _row(each: operate.PartitionStatus) -> tuple[object, ...]:
    return (
        _named(each), each.state, f"{each.position:,}", f"{each.end:,}", f"{each.waiting:,}", duration(each.age) or "-",
        each.owner or "-", each.fence, f"{each.parked:,}",
    )  # fmt: skip


def _named(each: operate.PartitionStatus) -> str:
    return f"{each.topic}/{each.partition}" + (f" gen {each.generation}" if each.generation > 1 else "")


def _document(found: operate.GroupDetail) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(found)
    document["pauses"] = [
        {"topic": p.partition.topic or None, "generation": p.partition.generation or None,
         "partition": None if p.partition.number < 0 else p.partition.number, "at": stamp(p.at), "who": p.who,
         "reason": p.reason} for p in found.pauses
    ]  # fmt: skip
    return document
