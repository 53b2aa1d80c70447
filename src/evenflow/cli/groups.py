"""groups list, show, pause, resume, seek."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from evenflow import operate
from evenflow.cli.failures import Code, UsageError, relative
from evenflow.cli.looking import looking, who
from evenflow.cli.moment import moment
from evenflow.cli.output import confirm, duration, out, out_json, paint, say, table
from evenflow.cli.remedies import runnable
from evenflow.running import Running

_HEAD = ("GROUP", "STATE", "OWNERS", "WAITING", "AGE", "PARKED", "DEAD")
_COLOURS = {
    "stopped": "red",
    "orphaned": "yellow",
    "no process": "yellow",
    "paused": "yellow",
    "partly paused": "yellow",
    "breaker open": "red",
    "breaker half-open": "yellow",
}


def list_groups(options: Namespace) -> int:
    """One line per group."""

    async def work(running: Running) -> tuple[list[operate.GroupStatus], list[operate.Later], float]:
        return await operate.groups(running), await operate.later(running), running.clock.now()

    found, later, now = looking(options, work)
    if options.json:
        out_json(found)
        return Code.DONE
    states = [state_of(each) for each in found]
    rows = [
        (g.group, state, _owners(g.owners), number(g.waiting), duration(g.age) or "-", f"{g.parked:,}", f"{g.dead:,}")
        for g, state in zip(found, states, strict=True)
    ]
    table(_HEAD, rows, [_COLOURS.get(state, "") for state in states])
    for line in [*_notes(found, options.app), *(_later(each, now, options.app) for each in later)]:
        out(f"\n{line}")
    return Code.DONE


def _notes(found: Sequence[operate.GroupStatus], app: str | None) -> list[str]:
    notes = []
    for each in found:
        if each.state == "orphaned":
            text = f"{paint(f'{each.group} is orphaned', 'yellow')}: the code does not have it (any more)\n"
            text += f"  → evenflow groups rename {each.group} NEW, if it has another name now\n"
            text += f"  → evenflow groups drop {each.group}, if it has gone for good"
        elif each.state == "stopped":
            text = f"{paint(f'{each.group} is stopped', 'red')}: {each.reason}"
        elif each.reason:
            text = f"{paint(each.group, 'yellow')} is {each.reason}\n  → evenflow groups resume {each.group}"
        elif each.breaker is not None:
            text = f"{paint(each.group, 'red')}: {each.breaker.told}\n"
            text += f"  → evenflow groups resume {each.group}, to try at once"
        elif each.waiting is None:
            text = f"{paint(each.group, 'yellow')} has read another log than the one that is there now\n"
            text += "  → evenflow doctor --fast"
        elif each.full:
            text = f"{paint(each.group, 'red')} has parked as many events as its policy allows: a partition whose next "
            text += f"event fails waits\n  → evenflow parked list --group {each.group}"
        else:
            continue
        notes.append(runnable(text, app))
    return notes


def _later(later: operate.Later, now: float, app: str | None) -> str:
    events = "1 event" if later.count == 1 else f"{later.count:,} events"
    due = "due now" if later.next is None or later.next <= now else f"the next due in {duration(later.next - now)}"
    text = f"the outbox of {later.service} keeps {events} for later, {due}\n  → evenflow schedules list"
    return runnable(text, app)


def _owners(owners: Sequence[str]) -> str:
    return f"{len(owners)} processes" if len(owners) > 2 else ", ".join(owners) or "-"


def state_of(group: operate.GroupStatus) -> str:
    """Its state in a word or two."""
    if group.state == "running" and group.reason:
        return "partly paused"
    if group.state == "running" and group.breaker is not None:
        return f"breaker {group.breaker.state}"
    return "no process" if group.state == "running" and not group.owners else group.state


def number(count: int | None) -> str:
    """A count, or a question mark where nobody can tell."""
    return "?" if count is None else f"{count:,}"


# -- pause and resume -------------------------------------------------------------------------------------------------


def pause(options: Namespace) -> int:
    """Let a group take nothing."""
    looking(
        options,
        lambda running: operate.pause(running, options.group, who(), options.reason or "", options.partition),
    )
    what = _what(options)
    say(paint(f"{what} is paused; what is in flight is finished first", "green", sys.stderr))
    say(runnable(f"  → evenflow groups resume {options.group}, when it is to go on", options.app))
    return Code.DONE


def resume(options: Namespace) -> int:
    """Let it go on, and try at once what its breaker holds."""
    pauses = looking(options, lambda running: operate.resume(running, options.group, who(), options.partition))
    for each in pauses:
        say(f"it was {each}")
    say(paint(f"{_what(options)} goes on", "green", sys.stderr))
    return Code.DONE


def _what(options: Namespace) -> str:
    return options.group if options.partition is None else f"partition {options.partition} of {options.group}"


# -- rename and drop --------------------------------------------------------------------------------------------------


def rename(options: Namespace) -> int:
    """Show what passes, ask, do it."""

    async def work(running: Running) -> None:
        plan = await operate.plan_rename(running, options.old, options.new)
        if plan.where:
            say(
                f"  the code still has {plan.home.group}, at {relative(plan.where)}: it would begin anew as a new group"
            )
        if not plan.fits:
            say(f"  the code does not have {plan.new} yet: nothing handles it before it does")
        confirm(f"rename {plan.home.group} to {plan.new}?", yes=options.yes)
        await operate.carry_out_rename(running, plan, who())
        say(paint(f"{plan.home.group} is {plan.new} now, and goes on where it was", "green", sys.stderr))

    looking(options, work)
    return Code.DONE


def drop(options: Namespace) -> int:
    """Show what is lost, ask, do it."""

    async def work(running: Running) -> None:
        plan = await operate.plan_drop(running, options.group)
        status = plan.status
        waits = "1 event waits" if status.waiting == 1 else f"{number(status.waiting)} events wait"
        say(f"  its position: {waits} that it has not taken")
        if status.parked:
            say(f"  {status.parked:,} parked events, {status.dead:,} of them dead letters")
        if plan.remembered:
            say(f"  {plan.remembered:,} remembered ids of events from elsewhere")
        confirm(f"drop {plan.home.group} for good?", yes=options.yes)
        await operate.carry_out_drop(running, plan, who())
        say(paint(f"{plan.home.group} is dropped", "green", sys.stderr))

    looking(options, work)
    return Code.DONE


# -- seek -------------------------------------------------------------------------------------------------------------


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
                skipped += max(0, after - (plan.low[partition] if before is None else before))
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
        found = moment(text, "--to")
    except ValueError:
        found = None
    if found is None:
        raise UsageError(
            f"--to {text!r} is no place in a log",
            remedy="use beginning, end, a time such as 2026-03-01T12:00:00Z, or offsets such as 0=1200,3=900",
        )
    return found
