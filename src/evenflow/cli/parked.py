"""parked list, parked redrive, parked discard."""

from __future__ import annotations

import sys
from argparse import Namespace
from datetime import UTC, datetime
from typing import Any

from evenflow import operate
from evenflow.cli.failures import Code
from evenflow.cli.looking import looking, who
from evenflow.cli.output import confirm, duration, out_json, paint, say, table
from evenflow.parking import Parked
from evenflow.running import Running

_HEAD = ("GROUP", "LANE", "TYPE", "ID", "STATE", "ATTEMPTS", "SINCE", "ERROR")
_ERROR = 80


def list_parked(options: Namespace) -> int:
    """One line per parked event."""

    async def work(running: Running) -> tuple[list[Parked], float]:
        return await operate.parked(running, options.group, options.limit), running.clock.now()

    found, now = looking(options, work)
    if options.json:
        out_json([_document(each) for each in found])
        return Code.DONE
    if not found:
        say("nothing is parked")
        return Code.DONE
    rows = [
        (
            each.group, each.key if each.key is not None else each.lane, each.envelope.type, each.envelope.id,
            _state(each, now), str(each.attempts), duration(max(0.0, now - (each.first_failed or each.parked))),
            _first_line(each.error),
        )
        for each in found
    ]  # fmt: skip
    table(_HEAD, rows, ["red" if each.dead else "" for each in found])
    if len(found) == options.limit:
        say(f"these are the first {options.limit}; --limit N shows more")
    return Code.DONE


def _state(parked: Parked, now: float) -> str:
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


def _document(parked: Parked) -> dict[str, Any]:
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
        "due": _time(parked.due),
        "attempts": parked.attempts,
        "error": parked.error,
        "error_type": parked.error_type,
        "first_failed": _time(parked.first_failed),
        "failed": _time(parked.failed),
        "parked": _time(parked.parked),
        "content_type": envelope.content_type,
        "data": envelope.data.decode(errors="replace"),
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def redrive(options: Namespace) -> int:
    """Ask for dead letters to be tried again."""
    count = looking(options, lambda running: operate.redrive(running, options.group, options.lane, who()))
    _told(count, "tried again")
    return Code.DONE


def discard(options: Namespace) -> int:
    """Ask for dead letters to be given up."""
    what = "all dead letters" if options.all else f"the dead letter of {options.lane!r}"
    confirm(f"give up {what} of {options.group}?", yes=options.yes)
    count = looking(options, lambda running: operate.discard(running, options.group, options.lane, who()))
    _told(count, "given up")
    return Code.DONE


def _told(count: int, what: str) -> None:
    if not count:
        say("there is no dead letter")
        return
    said = f"{count} dead letter{'' if count == 1 else 's'} will be {what} by the process that owns the partition"
    say(paint(said, "green", sys.stderr))
