"""groups list, groups seek."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from datetime import datetime

from evenflow import operate
from evenflow.cli.failures import Code, UsageError
from evenflow.cli.looking import looking, who
from evenflow.cli.output import confirm, duration, out, out_json, paint, say, table
from evenflow.running import Running

_HEAD = ("GROUP", "KIND", "STATE", "OWNERS", "WAITING", "AGE", "PARKED", "DEAD")
_COLOURS = {"stopped": "red", "no process": "yellow"}


def list_groups(options: Namespace) -> int:
    """One line per group."""
    found = looking(options, operate.groups)
    if options.json:
        out_json(found)
        return Code.DONE
    states = [_state(each) for each in found]
    rows = [
        (g.group, g.kind, state, ", ".join(g.owners) or "-", f"{g.waiting:,}", duration(g.age) or "-", g.parked, g.dead)
        for g, state in zip(found, states, strict=True)
    ]
    table(_HEAD, rows, [_COLOURS.get(state, "") for state in states])
    for each in found:
        if each.reason:
            out(f"\n{paint(f'{each.group} is stopped', 'red')}: {each.reason}")
    return Code.DONE


def _state(group: operate.GroupStatus) -> str:
    return "no process" if group.state == "running" and not group.owners else group.state


def seek(options: Namespace) -> int:
    """Show what would come, ask, do it."""
    to = where(options.to)

    async def work(running: Running) -> None:
        plans = await operate.plan_seek(running, options.group, to)
        for line in preview(plans):
            say(line)
        confirm(f"let {options.group} go on there?", yes=options.yes)
        await operate.carry_out(running, options.group, plans, options.to, who())
        say(paint(f"{options.group} goes on there", "green", sys.stderr))

    looking(options, work)
    return Code.DONE


def preview(plans: Sequence[operate.Plan]) -> list[str]:
    """What a seek would do, a line for each partition and one for all."""
    lines, again, skipped = [], 0, 0
    for plan in plans:
        for partition in sorted(plan.before):
            before, after = plan.before[partition], plan.positions.get(partition)
            named = f"  {partition.topic}/{partition.number}"
            if partition.generation > plan.generation:
                lines.append(
                    f"{named} of generation {partition.generation}: from {before}, is read again after the others"
                )
                again += before or 0
            elif after is not None and after != before:
                lines.append(f"{named}: {'from ' + str(before) if before is not None else 'new'} to {after}")
                again += max(0, (before or 0) - after)
                skipped += max(0, after - before) if before is not None else 0
    if not lines:
        return ["  it stands there already"]
    return [*lines, f"  at most {again:,} events come again, at most {skipped:,} are skipped"]


def where(text: str) -> operate.To:
    """A word, a time with its zone, or offsets by partition. Raises `UsageError`."""
    if text == "beginning":
        return "beginning"
    if text == "end":
        return "end"
    try:
        if "=" in text:
            pairs = [part.split("=") for part in text.split(",")]
            return {int(number): int(offset) for number, offset in pairs}
        if text.replace(".", "", 1).isdigit():
            return float(text)
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--to {text!r} is no place in a log",
            remedy="use beginning, end, a time such as 2026-03-01T12:00:00Z, or offsets such as 0=1200,3=900",
        ) from None
    if time.tzinfo is None:
        raise UsageError(f"--to {text!r} has no zone", remedy=f"add it: {text}Z, or {text}+01:00")
    return time.timestamp()
