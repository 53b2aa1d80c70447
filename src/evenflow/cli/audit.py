"""audit list."""

from __future__ import annotations

import re
import shutil
import textwrap
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict

import msgspec

from evenflow import operate
from evenflow.cli.failures import Code, UsageError
from evenflow.cli.looking import looking
from evenflow.cli.moment import moment
from evenflow.cli.output import out, out_json, paint, say, stamp
from evenflow.operate import Entry
from evenflow.running import Running

_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|m|h|d)")


def list_audit(options: Namespace) -> int:
    """One line per record, the newest first."""
    since = _since(options.since) if options.since else None

    async def work(running: Running) -> list[Entry]:
        begin = 0.0 if since is None else since if since >= 0 else running.clock.now() + since
        return await operate.audit(
            running, service=options.service, since=begin, subject=options.subject or "", limit=options.limit
        )

    found = looking(options, work)
    if options.json:
        out_json([{**asdict(each), "at": stamp(each.at)} for each in found])
    elif found:
        several = len({each.service for each in found}) > 1
        recorded([(e.at, e.who, e.what, f"{e.service}: {_said(e)}" if several else _said(e), e.detail) for e in found])
    else:
        say("nothing was done by hand" + (" that is meant here" if options.since or options.subject else ""))
    if len(found) == options.limit:
        say(f"these are the last {options.limit:,}; --limit N shows more")
    return Code.DONE


def recorded(rows: Sequence[tuple[float, str, str, str, str]]) -> None:
    """Lines of (when, who, what, to what, detail); the detail below, in up to three lines."""
    width = max(20, shutil.get_terminal_size().columns - 4)
    whos, whats = max(len(row[1]) for row in rows), max(len(row[2]) for row in rows)
    for at, who, what, subject, detail in rows:
        out(f"{paint(stamp(at, short=True) or '', 'dim')}  {who.ljust(whos)}  {what.ljust(whats)}  {subject}".rstrip())
        for line in textwrap.wrap(_brief(detail), width, max_lines=3, placeholder=" …"):
            out(f"    {line}")


def _said(entry: Entry) -> str:
    """What it was done to, as a person says it: a group, and the key of a lane of it."""
    return entry.subject.replace(" k", " ", 1) if entry.what.startswith("parked ") else entry.subject


def _brief(detail: str) -> str:
    """A detail for a person: of an edit the reason, and which fields differ."""
    try:
        found = msgspec.json.decode(detail)
        changes = ", ".join(f"{field} {before} → {after}" for field, (before, after) in found["changes"].items())
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError):
        return detail
    return f"{found.get('reason')}: {changes}" if found.get("reason") else changes


def _since(text: str) -> float:
    """A Unix time, or, below 0, seconds before now."""
    if span := _SPAN.fullmatch(text):
        return -float(span[1]) * _UNITS[span[2]]
    found = moment(text, "--since")
    if found is None:
        raise UsageError(f"--since {text!r} is no time", remedy="use 2h, 3d, or a time such as 2026-03-01T12:00:00Z")
    return found
