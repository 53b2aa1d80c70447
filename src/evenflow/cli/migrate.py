"""migrate plan, migrate apply."""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import Namespace
from collections.abc import Sequence

from evenflow import operate
from evenflow.app import App
from evenflow.cli.failures import Code, UsageError, relative
from evenflow.cli.load import load_app
from evenflow.cli.output import out, out_json, paint, say, stamp, table
from evenflow.cli.remedies import runnable
from evenflow.clock import SystemClock
from evenflow.settings import Settings
from evenflow.settings_sources import suggestion

_HEAD = ("MIGRATION", "OF", "STATE", "CHECKSUM", "APPLIED")
_COLOURS = {"pending": "yellow", "changed": "red", "gone": "red"}
_WRONG = ("changed", "gone")


def plan(options: Namespace) -> int:
    """What each store has, and what is pending."""
    if options.app and ":" not in options.app:
        near = suggestion(options.app, ("plan", "apply"))
        raise UsageError(f"there is no command 'migrate {options.app}'", remedy=near.replace("mean ", "mean migrate "))
    app = load_app(options.app)
    plans = asyncio.run(operate.plan_migrations(app, Settings.load(), SystemClock(), options.service))
    if options.json:
        out_json([_document(each) for each in plans])
    elif options.sql:
        _sql(plans)
    else:
        _table(plans, options.app)
    return Code.FOUND if any(each.in_state(state) for each in plans for state in _WRONG) else Code.DONE


def _table(plans: Sequence[operate.StorePlan], app: str | None) -> None:
    for place, each in enumerate(plans):
        out(f"{chr(10) if place else ''}{paint(each.service, 'bold')}  {each.url}")
        rows = [(f"  {s.migration.name}", s.migration.owner, s.state, (s.applied_checksum or s.checksum)[:12],
                 stamp(s.at, short=True) or "-") for s in each.steps]  # fmt: skip
        table(("  MIGRATION", *_HEAD[1:]), rows, [_COLOURS.get(step.state, "") for step in each.steps])
        for step in each.steps:
            if step.state == "changed":
                now, then = step.checksum[:12], (step.applied_checksum or "")[:12]
                out(f"  {paint(relative(step.migration.file), 'red')} is {now} now, and was {then} when it was applied")
                out("    → put its text back, and write the change as a new migration")
            elif step.state == "gone":
                out(f"  {paint(step.migration.name, 'red')} was applied, and its file is gone\n    → put it back")
    count = sum(len(each.in_state("pending")) for each in plans)
    if count:
        out(runnable(f"\n{count} pending\n  → evenflow migrate apply, or they are applied at the next start", app))
    elif not any(each.in_state(state) for each in plans for state in _WRONG):
        say(paint("nothing is pending", "green", sys.stderr))


def _sql(plans: Sequence[operate.StorePlan]) -> None:
    for each in plans:
        out(f"-- {each.service}: {each.url}")
        pending = each.in_state("pending")
        if not pending:
            out("-- nothing is pending\n")
        for step in pending:
            migration = step.migration
            out(f"-- {migration.name} of {migration.owner}, sha256 {step.checksum}\n{migration.sql.strip()}\n")


def _document(plan: operate.StorePlan) -> dict[str, object]:
    return {
        "service": plan.service,
        "url": plan.url,
        "migrations": [
            {"owner": s.migration.owner, "number": s.migration.number, "name": s.migration.name, "state": s.state,
             "file": s.migration.file or None, "applied": stamp(s.at), "checksum": s.checksum or None,
             "applied_checksum": s.applied_checksum}
            for s in plan.steps
        ],
    }  # fmt: skip


def apply(options: Namespace) -> int:
    """Apply what is pending, telling each as it is done."""
    app = load_app(options.app)
    count = asyncio.run(_apply(app, options.service))
    say(paint(f"{count} applied" if count else "nothing was pending", "green", sys.stderr))
    return Code.DONE


async def _apply(app: App, services: Sequence[str] | None) -> int:
    count, began = 0, time.perf_counter()
    async for service, migration in operate.apply_migrations(app, Settings.load(), SystemClock(), services):
        now = time.perf_counter()
        say(f"{service}: {migration.name} of {migration.owner} ({now - began:.2f} s)")
        count, began = count + 1, now
    return count
