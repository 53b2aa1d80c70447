"""parked redrive, parked discard: shown, begun as an operation, and followed where that is wanted."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from evenflow import operate
from evenflow.cli.failures import Code, UsageError
from evenflow.cli.looking import looking, who
from evenflow.cli.operations import document, follow, verdict
from evenflow.cli.output import confirm, out, out_json, paint, say, when
from evenflow.cli.parked_options import chosen, given
from evenflow.cli.remedies import runnable
from evenflow.redrive.operation import BATCH, Kind
from evenflow.running import Running

_DONE = {"redrive": "tried again", "discard": "given up"}


def redrive(options: Namespace) -> int:
    """Ask for dead letters to be tried again."""
    pace = _pace(options, canary=options.canary or 0, stop_above=options.stop_above)
    return _carry(options, "redrive", pace)


def discard(options: Namespace) -> int:
    """Show how much is lost, ask, and ask for dead letters to be given up."""
    return _carry(options, "discard", _pace(options))


def _pace(options: Namespace, **more: Any) -> operate.Pace:
    return operate.Pace(rate=options.rate, batch=options.batch or BATCH, **more)


def _carry(options: Namespace, kind: Kind, pace: operate.Pace) -> int:
    _refuse_vague(options, kind)

    async def work(running: Running) -> int:
        wanted = await operate.dead_head(running, options.group, options.lane) if options.lane else chosen(options)
        found = await operate.preview(running, wanted)
        if options.dry_run:
            return _dry(options, kind, pace, found, running.clock.now())
        if not any(each.lanes for each in found):
            _overlaps(found, running.clock.now(), options.app)
            say("there is no dead letter" + (" that fits" if given(options) else ""))
            return _json(options, [])
        if kind == "discard":
            confirm(f"give up {_letters(options, found)} for good?", yes=options.yes)
        _overlaps(found, running.clock.now(), options.app)
        begun = await operate.ask(running, kind, wanted, who(), pace=pace, reason=options.reason or "")
        for each in begun:
            group = (await operate.group(running, each.operation.group)).status
            _told(each, group, _DONE[kind], options.app, several=len(begun) > 1)
        if options.wait:
            begun = await follow(running, begun)
            _json(options, begun)
            return verdict(begun)
        return _json(options, begun)

    try:
        return looking(options, work)
    except KeyboardInterrupt:
        if options.wait:
            say("what was begun goes on without this command")
        raise


def _refuse_vague(options: Namespace, kind: Kind) -> None:
    """Say exactly which: a command that changes things takes nothing for granted."""
    others = [
        name for name in ("key", "type", "fingerprint", "error", "older", "newer") if getattr(options, name) is not None
    ]
    help_ = f"evenflow parked {kind} --help"
    if not (options.lane or options.all or others):
        raise UsageError("say which dead letters", remedy=f"--lane, --key, --type, --error, … or --all: {help_}")
    if (options.all or options.lane) and others:
        raise UsageError(f"{'--all' if options.all else '--lane'} and --{others[0]} exclude each other", remedy=help_)
    if options.all and options.lane:
        raise UsageError("--all and --lane exclude each other", remedy=help_)
    if options.lane and not options.group:
        raise UsageError("GROUP is missing", remedy=f"a lane is one of a group: {help_}")


def _json(options: Namespace, begun: Sequence[operate.Asked]) -> int:
    if options.json:
        out_json([document(each) for each in begun])
    return Code.DONE


def _letters(options: Namespace, found: Sequence[operate.Preview]) -> str:
    count = sum(each.lanes for each in found)
    groups = ", ".join(each.group for each in found if each.lanes)
    if options.lane:
        head = found[0].first[0]
        return f"{head.type} {head.id} of {options.lane!r} of {groups}"
    return f"{_counted(count)} of {groups}"


def _counted(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


def _told(asked: operate.Asked, group: operate.GroupStatus, what: str, app: str | None, *, several: bool) -> None:
    letters = _counted(asked.operation.total) + (f" of {group.group}" if several else "")
    say(paint(f"{letters} will be {what} by the process that owns the partition", "green", sys.stderr))
    say(runnable(f"  → evenflow operations show {asked.name}", app))
    if group.state == "paused":
        hint = runnable(f"evenflow groups resume {group.group}", app)
        say(f"{paint('the group is paused', 'yellow', sys.stderr)}: it is done when it goes on\n  → {hint}")
    elif not group.owners:
        hint = runnable("evenflow run", app)
        say(f"{paint('no process runs this group now', 'yellow', sys.stderr)}: it is done when one starts\n  → {hint}")


def _overlaps(found: Sequence[operate.Preview], now: float, app: str | None) -> None:
    """What others have asked for of the same: whoever comes first to one does it, for the other it is gone."""
    for each in found:
        for overlap in each.overlaps:
            other = overlap.other.operation
            parts = [f"{overlap.asked:,} under way"] * bool(overlap.asked)
            parts += [f"{overlap.waiting:,} still to come"] * bool(overlap.waiting)
            by = f"by {other.who}, {when(other.at, now)}"
            say(f"operation {overlap.other.name} ({other.kind}, {by}) has {' and '.join(parts)} of these already")
            say(runnable(f"  → evenflow operations show {overlap.other.name}", app))


# -- dry run ----------------------------------------------------------------------------------------------------------


def _dry(options: Namespace, kind: Kind, pace: operate.Pace, found: Sequence[operate.Preview], now: float) -> int:
    if options.json:
        out_json([_preview(each) for each in found])
        return Code.DONE
    _overlaps(found, now, options.app)
    for each in found:
        if each.lanes:
            examples = ", ".join(head.lane.removeprefix("k") for head in each.first)
            more = ", …" if each.lanes > len(each.first) else ""
            out(f"{_counted(each.lanes)} of {each.group} would be {_DONE[kind]}: {examples}{more}")
    count = sum(each.lanes for each in found)
    if not count:
        say("there is no dead letter" + (" that fits" if given(options) else ""))
    elif pace.rate is not None:
        out(f"at {pace.rate:g} a second that takes at least {max(each.lanes for each in found) / pace.rate:,.0f} s")
    if count and pace.canary:
        out(f"the first {min(pace.canary, count):,} of each group alone; the rest when all of them have passed")
    say("nothing was changed")
    return Code.DONE


def _preview(each: operate.Preview) -> dict[str, Any]:
    return {
        "group": each.group,
        "dead": each.lanes,
        "first": [head._asdict() for head in each.first],
        "overlaps": [
            {"operation": over.other.name, "waiting": over.waiting, "asked": over.asked} for over in each.overlaps
        ],
    }
