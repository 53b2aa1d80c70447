"""schedules list, pause, resume, run, cancel."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator

from evenflow import operate
from evenflow.cli.failures import Code
from evenflow.cli.looking import looking, who
from evenflow.cli.output import confirm, duration, narrowed, out, out_json, paint, say, stamp, table, when, wide
from evenflow.cli.remedies import runnable
from evenflow.running import Running

_RECURRING = ("SCHEDULE", "TIMES", "STATE", "NEXT", "LAST RUN", "RUNS")
_DUE = ("DUE", "SERVICE", "TYPE", "KEY", "NAME")
_KEEP, _KEEP_DUE = (12, 9, 8, 12, 12, 4), (12, 7, 8, 6, 10)
_COLOURS = {"paused": "yellow", "orphaned": "yellow", "over": "yellow"}


def list_scheduled(options: Namespace) -> int:
    """One line per schedule, then one per event that is due later."""

    async def work(running: Running) -> tuple[list[operate.Recurring], list[operate.Scheduled], int, float]:
        found = await operate.scheduled(running, options.service, options.limit)
        later = await operate.later(running)
        total = sum(each.count for each in later if options.service in (None, each.service))
        return await operate.recurring(running, options.service), found, total, running.clock.now()

    recurring, found, total, now = looking(options, work)
    if options.json:
        out_json({"schedules": [_schedule(each) for each in recurring], "events": [_event(each) for each in found]})
    else:
        _tables(recurring, found, now, options.app)
    if total > len(found):
        say(f"these are the next {len(found):,} of {total:,}; --limit N shows more")
    return Code.DONE


def _tables(recurring: list[operate.Recurring], found: list[operate.Scheduled], now: float, app: str | None) -> None:
    due = _due if wide() else when
    if recurring:
        rows = [
            (f"{each.service}.{each.name}", each.times, each.state,
             "-" if each.next is None or each.state != "running" else due(each.next, now),
             "-" if each.last_run is None else when(each.last_run, now), f"{each.runs:,}")
            for each in recurring
        ]  # fmt: skip
        colours = [_COLOURS.get(each.state, "") for each in recurring]
        table(_RECURRING, narrowed(_RECURRING, rows, _KEEP), colours)
        for each in recurring:
            for line in _remarks(each, now):
                say(f"\n{runnable(line, app)}")
    if found:
        if recurring:
            out()
        events = [
            (due(each.due, now), each.service, each.envelope.type, each.envelope.key or "-", each.name or "-")
            for each in found
        ]
        table(_DUE, narrowed(_DUE, events, _KEEP_DUE))
    if not recurring and not found:
        say("nothing is scheduled for later")


def _due(due: float, now: float) -> str:
    return f"{stamp(due, short=True)}  {when(due, now)}"


def _remarks(each: operate.Recurring, now: float) -> Iterator[str]:
    name = f"{each.service}.{each.name}"
    if each.state == "orphaned":
        yield f"{name}: the code does not have it, so it does not run\n  → evenflow groups drop {each.group}"
    elif each.state == "new":
        yield f"{name}: no process has run it yet"
    elif each.paused_at is not None:
        yield f"{name}: {each.paused}, for {duration(now - each.paused_at)}\n  → evenflow schedules resume {name}"
    if each.pending:
        yield f"{name}: the code says {each.pending}, which counts from the next start on"


def _schedule(each: operate.Recurring) -> dict[str, object]:
    return {
        "service": each.service,
        "name": each.name,
        "group": each.group,
        "state": each.state,
        "times": each.times,
        "missed": each.missed,
        "next": stamp(each.next),
        "last_due": stamp(each.last_due),
        "last_run": stamp(each.last_run),
        "runs": each.runs,
        "paused": each.paused or None,
        "paused_at": stamp(each.paused_at),
        "pending": each.pending or None,
        "handler": each.where or None,
    }


def _event(each: operate.Scheduled) -> dict[str, object]:
    return {
        "service": each.service,
        "due": stamp(each.due),
        "name": each.name,
        "topic": each.topic,
        "type": each.envelope.type,
        "key": each.envelope.key,
        "id": each.envelope.id,
        "published": stamp(each.envelope.time),
        "data": each.envelope.data.decode(errors="replace"),
    }


def pause(options: Namespace) -> int:
    """Let a schedule have no runs for a while."""
    reason = options.reason or ""
    done = looking(
        options, lambda running: operate.pause_schedule(running, options.name, who(), reason, options.service)
    )
    _done(f"{done.service}.{done.name} is {done.paused}")
    return Code.DONE


def resume(options: Namespace) -> int:
    """Let it go on."""

    async def work(running: Running) -> tuple[operate.Recurring, float]:
        found = await operate.resume_schedule(running, options.name, who(), options.service)
        return found, running.clock.now()

    done, now = looking(options, work)
    then = "it has no next time"
    if done.next is not None:
        then = f"its next run is due {_due(done.next, now)}" if done.next > now else _MISSED[done.missed]
    _done(f"{done.service}.{done.name} goes on; {then}")
    return Code.DONE


_MISSED = {
    "one": "one run for the times that were missed",
    "all": "a run for each of the times that were missed",
    "none": "no run for the times that were missed",
}


def run(options: Namespace) -> int:
    """Publish a run now."""
    id_ = looking(options, lambda running: operate.run_schedule(running, options.name, who(), options.service))
    _done(f"a run of {options.name} is published, beside those that are due; its event is {id_}")
    return Code.DONE


def cancel(options: Namespace) -> int:
    """Take back what waits under a name."""
    confirm(f"cancel {options.name!r}?", yes=options.yes)
    gone = looking(options, lambda running: operate.cancel(running, options.name, who(), options.service))
    was = f"{gone.envelope.type} of {gone.service}, which was due {stamp(gone.due, short=True)}"
    _done(f"{options.name} is cancelled: {was}")
    return Code.DONE


def _done(said: str) -> None:
    say(paint(said, "green", sys.stderr))
