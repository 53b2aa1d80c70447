"""conformance."""

from __future__ import annotations

import asyncio
import logging
import sys
from argparse import Namespace
from collections import Counter

from evenflow.cli.failures import Code, UsageError
from evenflow.cli.output import confirm, out, out_json, paint, say
from evenflow.settings_sources import masked
from evenflow.testing.conformance import REMOVED, Result, Wanted, conform
from evenflow.testing.harms import Commands

_COLOURS = {"stated": "dim", "passed": "green", "failed": "red", "does not apply": "dim"}


def conformance(options: Namespace) -> int:
    """A line for each check, as it is known."""
    logging.getLogger("evenflow").addHandler(logging.NullHandler())  # what is wrong is a result
    wanted = _wanted(options)
    if any((wanted.commands.restart, wanted.commands.kill, wanted.commands.freeze)):
        confirm(f"harm the server of {masked(wanted.url)}, and all who use it, by these commands?", yes=options.yes)
    results = asyncio.run(_all(wanted, options))
    counts = Counter(each.outcome for each in results)
    if not any(each.outcome != "stated" and each.check != REMOVED for each in results):
        raise UsageError(f"no check has {' or '.join(map(repr, wanted.only))} in its name",
                         remedy="a name is as the report shows it: section, colon, check")  # fmt: skip
    if options.json:
        out_json([each._asdict() for each in results])
    failed = counts["failed"]
    said = f"{counts['passed']} passed, {failed} failed, {counts['does not apply']} do not apply"
    say()
    say(paint(said, "red" if failed else "green", sys.stderr))
    return Code.FOUND if failed else Code.DONE


def _wanted(options: Namespace) -> Wanted:
    if bool(options.freeze) != bool(options.thaw):
        raise UsageError("--freeze and --thaw belong together", remedy="give both")
    if options.start and not options.kill:
        raise UsageError("--start is what follows --kill", remedy="give --kill too; or --restart alone")
    commands = Commands(
        restart=options.restart, kill=options.kill, start=options.start, freeze=options.freeze, thaw=options.thaw
    )
    return Wanted(
        url=options.url, kind=options.kind, store=options.store, only=options.only or (), commands=commands,
        through=options.through or (),
    )  # fmt: skip


async def _all(wanted: Wanted, options: Namespace) -> list[Result]:
    found = []
    async for result in conform(wanted):
        found.append(result)
        if not options.json:
            _show(result)
    return found


def _show(result: Result) -> None:
    outcome = paint(result.outcome.ljust(14), _COLOURS[result.outcome])
    seconds = f"  {result.seconds:.2f} s" if result.outcome in ("passed", "failed") else ""
    out(f"{outcome}  {result.name}{seconds}")
    for line in result.reason.splitlines():
        out(f"                  {line}")
