"""operations list, show, pause, resume, cancel."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from evenflow import operate
from evenflow.cli.failures import Code
from evenflow.cli.looking import looking, who
from evenflow.cli.output import narrowed, out, out_json, paint, say, stamp, table, when
from evenflow.cli.remedies import runnable
from evenflow.running import Running

_HEAD = ("OPERATION", "KIND", "GROUP", "STATE", "DONE", "FAILED", "BEGUN", "BY")
_KEEP = (9, 7, 10, 9, 5, 6, 8, 6)
_COLOURS = {"stopped": "red", "paused": "yellow", "cancelled": "yellow"}
LOOK = 0.25
TOLD = 1.0


def list_operations(options: Namespace) -> int:
    """One line per operation."""

    async def work(running: Running) -> tuple[list[operate.Asked], float]:
        return await operate.operations(running, options.limit, open_only=options.open), running.clock.now()

    found, now = looking(options, work)
    if options.json:
        out_json([document(each) for each in found])
    elif found:
        rows = [_row(each, now) for each in found]
        table(_HEAD, narrowed(_HEAD, rows, _KEEP), [_COLOURS.get(each.operation.state, "") for each in found])
    else:
        say("there is no operation" + (" that has not ended" if options.open else ""))
    return Code.DONE


def _row(each: operate.Asked, now: float) -> tuple[str, ...]:
    it = each.operation
    done = f"{it.passed + it.failed + it.gone:,}/{it.total:,}"
    return (each.name, it.kind, it.group, it.state, done, f"{it.failed:,}", when(it.at, now), it.who)


def document(each: operate.Asked) -> dict[str, Any]:
    it = each.operation
    return {
        "operation": each.name, "kind": it.kind, "group": it.group, "state": it.state, "filter": it.filter,
        "rate": it.pace.rate, "canary": it.pace.canary, "stop_above": it.pace.stop_above, "batch": it.pace.batch,
        "reason": it.reason, "outcome": it.outcome, "who": it.who, "at": stamp(it.at), "changed": stamp(it.changed),
        "total": it.total, "passed": it.passed, "failed": it.failed, "gone": it.gone,
        "under_way": it.progress.open, "not_asked": it.total - it.asked,
    }  # fmt: skip


def show(options: Namespace) -> int:
    """All of one operation."""

    async def work(running: Running) -> tuple[operate.Detail, operate.GroupStatus | None, float]:
        found = await operate.operation_named(running, options.operation)
        groups = [each for each in await operate.groups(running) if each.group == found.asked.operation.group]
        return found, groups[0] if groups else None, running.clock.now()

    found, group, now = looking(options, work)
    if options.json:
        out_json({**document(found.asked), "failures": [each._asdict() for each in found.failures]})
        return Code.DONE
    it = found.asked.operation
    state = paint(it.state, _COLOURS.get(it.state, "green"))
    out(f"{paint(found.asked.name, 'bold')}  {it.kind} of {it.group}  {state}")
    for name, text in _facts(it, now):
        out(f"  {paint(name.ljust(8), 'dim')}  {text}")
    _failures(found)
    for line in _hints(found.asked, group):
        out(runnable(line, options.app))
    return Code.DONE


def _failures(found: operate.Detail) -> None:
    if not found.failures:
        return
    failed = found.asked.operation.failed
    out("\nfailed again:" if failed <= len(found.failures) else f"\nthe first that have failed again, of {failed:,}:")
    head = ("LANE", "TYPE", "ERROR")
    rows = [
        (each.lane.removeprefix("k"), each.type or "gone since", (each.error or "").partition("\n")[0])
        for each in found.failures
    ]
    table(head, narrowed(head, rows, (8, 8, 16)))


def _facts(it: operate.Operation, now: float) -> Iterator[tuple[str, str]]:
    yield "figures", f"{it.total:,} dead letter{'' if it.total == 1 else 's'}: {it.said()}"
    if it.outcome:
        yield "because", it.outcome
    given = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in it.filter.items() if name != "group")
    yield "of", given or "all of the group"
    yield "asked", f"by {it.who}, {stamp(it.at, short=True)} ({when(it.at, now)})"
    if it.reason:
        yield "reason", it.reason
    pace = [f"{it.pace.rate:g} a second"] if it.pace.rate is not None else []
    pace += [f"the first {it.pace.canary:,} have to pass"] * bool(it.pace.canary)
    pace += [f"stop above {it.pace.stop_above:g} %"] if it.pace.stop_above is not None else []
    yield "pace", ", ".join([*pace, f"{it.pace.batch:,} at once"])
    yield "changed", when(it.changed, now)


def _hints(asked: operate.Asked, group: operate.GroupStatus | None) -> Iterator[str]:
    it = asked.operation
    if it.ended and not it.progress.open:
        if it.failed and it.kind == "redrive":
            yield f"  → evenflow parked list {it.group} --by fingerprint"
            yield f"  → evenflow parked rehearse {it.group}"
        return
    if group is not None and group.state == "paused":
        yield f"the group is paused: it goes on with it\n  → evenflow groups resume {it.group}"
    elif group is not None and group.state == "stopped":
        yield f"the group is stopped: {group.reason}"
    elif group is not None and not group.owners:
        yield "no process runs this group now: it goes on when one starts\n  → evenflow run"
    elif it.state == "paused":
        yield f"  → evenflow operations resume {asked.name}"


# -- hold and end -----------------------------------------------------------------------------------------------------


def pause(options: Namespace) -> int:
    """Let it ask for no more."""
    return _change(options, operate.pause_operation, "is paused; what is under way goes on")


def resume(options: Namespace) -> int:
    """Let it go on."""
    return _change(options, operate.resume_operation, "goes on")


def cancel(options: Namespace) -> int:
    """End it."""
    return _change(options, operate.cancel_operation, "is cancelled; what is under way goes on")


def _change(options: Namespace, do: Callable[[Running, str, str], Awaitable[operate.Asked]], what: str) -> int:
    found = looking(options, lambda running: do(running, options.operation, who()))
    if options.json:
        out_json(document(found))
    say(paint(f"operation {found.name} {what}", "green", sys.stderr))
    say(f"  {found.operation.said()}")
    return Code.DONE


# -- follow -----------------------------------------------------------------------------------------------------------


async def follow(running: Running, begun: Sequence[operate.Asked]) -> list[operate.Asked]:
    """Tell how far they are until all have ended; as they stand then."""
    said, told = "", 0.0
    while True:
        found = [(await operate.operation_named(running, each.name)).asked for each in begun]
        over = all(each.operation.ended and not each.operation.progress.open for each in found)
        text = "\n".join(_line(each) for each in found)
        now = running.clock.monotonic()
        if text != said and (over or now - told >= TOLD):
            say(text)
            said, told = text, now
        if over:
            return found
        await running.clock.sleep(LOOK)


def _line(each: operate.Asked) -> str:
    it = each.operation
    why = f" ({it.outcome})" if it.outcome else ""
    return f"{each.name} {it.state}{why}: {it.said()}"


def verdict(found: Sequence[operate.Asked]) -> int:
    """DONE where all have passed that were there still."""
    well = all(each.operation.state == "done" and not each.operation.failed for each in found)
    return Code.DONE if well else Code.FOUND
