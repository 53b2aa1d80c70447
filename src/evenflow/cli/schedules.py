"""schedules list, schedules cancel."""

from __future__ import annotations

import sys
from argparse import Namespace

from evenflow import operate
from evenflow.cli.failures import Code
from evenflow.cli.looking import looking, who
from evenflow.cli.output import confirm, out_json, paint, say, stamp, table, when
from evenflow.running import Running

_HEAD = ("DUE", "SERVICE", "TYPE", "KEY", "NAME")


def list_scheduled(options: Namespace) -> int:
    """One line per event that is due later."""

    async def work(running: Running) -> tuple[list[operate.Scheduled], list[operate.Later], float]:
        found = await operate.scheduled(running, options.service, options.limit)
        return found, await operate.later(running), running.clock.now()

    found, later, now = looking(options, work)
    if options.json:
        out_json([_document(each) for each in found])
    elif found:
        rows = [
            (f"{stamp(each.due, short=True)}  {when(each.due, now)}", each.service, each.envelope.type,
             each.envelope.key or "-", each.name or "-")
            for each in found
        ]  # fmt: skip
        table(_HEAD, rows)
    else:
        say("nothing is scheduled for later")
    total = sum(each.count for each in later if options.service in (None, each.service))
    if total > len(found):
        say(f"these are the next {len(found):,} of {total:,}; --limit N shows more")
    return Code.DONE


def _document(each: operate.Scheduled) -> dict[str, object]:
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


def cancel(options: Namespace) -> int:
    """Take back what waits under a name."""
    confirm(f"cancel {options.name!r}?", yes=options.yes)
    gone = looking(options, lambda running: operate.cancel(running, options.name, who(), options.service))
    was = f"{gone.envelope.type} of {gone.service}, which was due {stamp(gone.due, short=True)}"
    said = f"{options.name} is cancelled: {was}"
    say(paint(said, "green", sys.stderr))
    return Code.DONE
