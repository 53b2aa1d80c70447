"""parked list, parked redrive, parked discard."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from evenflow import operate
from evenflow.cli.failures import Code
from evenflow.cli.looking import looking, who
from evenflow.cli.output import confirm, duration, out_json, paint, say, stamp, table
from evenflow.cli.remedies import runnable
from evenflow.parking import Parked
from evenflow.running import Running

_HEAD = ("GROUP", "LANE", "TYPE", "ID", "STATE", "ATTEMPTS", "SINCE", "ERROR")
_ERROR = 80


def list_parked(options: Namespace) -> int:
    """One line per parked event."""
    group = options.group or options.named

    async def work(running: Running) -> tuple[list[Parked], float]:
        return await operate.parked(running, group, options.limit + 1), running.clock.now()

    found, now = looking(options, work)
    more, found = len(found) > options.limit, found[: options.limit]
    if options.json:
        out_json([document(each) for each in found])
    elif found:
        _table(found, now)
    else:
        say("nothing is parked")
    if more:
        say(f"these are the first {options.limit:,}; --limit N shows more")
    return Code.DONE


def _table(found: Sequence[Parked], now: float) -> None:
    rows = [
        (
            each.group, each.key if each.key is not None else each.lane, each.envelope.type, each.envelope.id,
            state_of(each, now), str(each.attempts), duration(max(0.0, now - (each.first_failed or each.parked))),
            _first_line(each.error),
        )
        for each in found
    ]  # fmt: skip
    table(_HEAD, rows, ["red" if each.dead else "" for each in found])


def state_of(parked: Parked, now: float) -> str:
    if parked.behind:
        return "behind"
    if parked.due is None:
        return "dead letter"
    if parked.wish:
        return f"{parked.wish} asked"
    return f"due in {duration(max(0.0, parked.due - now))}" if parked.due > now else "due"


def _first_line(error: str | None) -> str:
    line = (error or "").partition("\n")[0]
    return line if len(line) <= _ERROR else f"{line[: _ERROR - 1]}…"


def document(parked: Parked) -> dict[str, Any]:
    envelope = parked.envelope
    return {
        "group": parked.group,
        "topic": parked.topic,
        "key": parked.key,
        "lane": parked.lane,
        "partition": parked.partition,
        "offset": parked.offset,
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
        "version": envelope.version,
        "dead": parked.dead,
        "behind": parked.behind,
        "due": stamp(parked.due),
        "attempts": parked.attempts,
        "error": parked.error,
        "error_type": parked.error_type,
        "first_failed": stamp(parked.first_failed),
        "failed": stamp(parked.failed),
        "parked": stamp(parked.parked),
        "content_type": envelope.content_type,
        "data": envelope.data.decode(errors="replace"),
    }


def redrive(options: Namespace) -> int:
    """Ask for dead letters to be tried again."""
    _told(*looking(options, lambda running: _asked(running, operate.redrive, options)), "tried again", options.app)
    return Code.DONE


def discard(options: Namespace) -> int:
    """Show how much is lost, ask, and ask for dead letters to be given up."""

    async def work(running: Running) -> tuple[int, operate.GroupStatus]:
        status = (await operate.group(running, options.group)).status
        letters = "1 dead letter" if status.dead == 1 else f"{status.dead:,} dead letters"
        if not options.all:
            head = (await operate.lane(running, options.group, options.lane)).events[0]
            letters = f"{head.envelope.type} {head.envelope.id} of {options.lane!r}"
        if status.dead:
            confirm(f"give up {letters} of {status.group} for good?", yes=options.yes)
        return await _asked(running, operate.discard, options)

    _told(*looking(options, work), "given up", options.app)
    return Code.DONE


async def _asked(
    running: Running, ask: Callable[[Running, str, str | None, str], Awaitable[int]], options: Namespace
) -> tuple[int, operate.GroupStatus]:
    """How many dead letters were asked for, and how the group stands that is to take it up."""
    count = await ask(running, options.group, options.lane, who())
    return count, (await operate.group(running, options.group)).status


def _told(count: int, group: operate.GroupStatus, what: str, app: str | None) -> None:
    if not count:
        say("there is no dead letter")
        return
    said = f"{count} dead letter{'' if count == 1 else 's'} will be {what} by the process that owns the partition"
    say(paint(said, "green", sys.stderr))
    if group.state == "paused":
        hint = runnable(f"evenflow groups resume {group.group}", app)
        say(f"{paint('the group is paused', 'yellow', sys.stderr)}: it is done when it goes on\n  → {hint}")
    elif not group.owners:
        hint = runnable("evenflow run", app)
        say(f"{paint('no process runs this group now', 'yellow', sys.stderr)}: it is done when one starts\n  → {hint}")
