"""doctor."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import textwrap
from argparse import Namespace
from collections.abc import AsyncGenerator

from evenflow import __version__
from evenflow.checkup import Finding
from evenflow.cli.failures import Code, UsageError
from evenflow.cli.load import load_app
from evenflow.cli.output import out, out_json, paint, say
from evenflow.cli.remedies import runnable
from evenflow.clock import SystemClock
from evenflow.operate.doctor import examine
from evenflow.operate.doctor_url import examine_url
from evenflow.places import ENGINES, LATER, STORES
from evenflow.settings import Settings

_COLOURS = {"ok": "green", "warn": "yellow", "wrong": "red"}


def doctor(options: Namespace) -> int:
    """A line for each thing that was looked at, as it is found."""
    logging.getLogger("evenflow").addHandler(logging.NullHandler())  # what is wrong is a finding
    found = asyncio.run(_all(options))
    if options.json:
        out_json([each._asdict() for each in found])
    wrong = sum(1 for each in found if each.level == "wrong")
    warn = sum(1 for each in found if each.level == "warn")
    say()
    if wrong:
        say(paint(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong", "red", sys.stderr))
    elif warn:
        say(paint(f"nothing is wrong; {warn} {'thing' if warn == 1 else 'things'} to look at", "yellow", sys.stderr))
    else:
        say(paint("all is well", "green", sys.stderr))
    return Code.FOUND if wrong else Code.DONE


async def _all(options: Namespace) -> list[Finding]:
    app = None if _is_url(options.app) else options.app
    found = []
    async for finding in _findings(options):
        found.append(finding)
        if not options.json:
            _show(finding, app)
    return found


def _show(finding: Finding, app: str | None) -> None:
    width = max(40, shutil.get_terminal_size().columns - 7) if sys.stdout.isatty() else 10_000
    text = f"{finding.about}: {runnable(finding.message, app)}"
    first, *others = [line for each in text.splitlines() for line in textwrap.wrap(each, width) or [""]]
    out(f"{paint(finding.level.ljust(5), _COLOURS[finding.level])}  {first}")
    for line in others:
        out(f"       {line}")
    for line in finding.remedy.splitlines():
        out(f"       → {runnable(line, app)}")


async def _findings(options: Namespace) -> AsyncGenerator[Finding]:
    yield Finding("ok", "version", f"Evenflow {__version__}, Python {sys.version.split()[0]}")
    if _is_url(options.app):
        async for finding in examine_url(options.app, SystemClock(), deep=not options.fast, kind=options.kind):
            yield finding
        return
    if options.kind:
        raise UsageError("--as is for a URL", remedy="leave it away, or give the URL of an engine or a store")
    app, settings = load_app(options.app), Settings.load()
    async for finding in examine(app, settings, SystemClock(), deep=not options.fast):
        yield finding


def _is_url(text: str | None) -> bool:
    scheme, colon, rest = (text or "").partition(":")
    return bool(colon) and scheme in {*ENGINES, *STORES, *LATER} and (rest.startswith("/") or not rest.isidentifier())
