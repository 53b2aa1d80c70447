"""check, describe, config: what can be said without an engine and a store."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import msgspec

from evenflow.cli.failures import Code, UsageError, relative, shown
from evenflow.cli.load import load_app
from evenflow.cli.output import out, out_json, paint, say, table
from evenflow.cli.remedies import runnable
from evenflow.errors import DefinitionError, SettingsError
from evenflow.settings import Settings


def check(options: Namespace) -> int:
    """Everything that is wrong with the definition, and with what was committed of it."""
    problems: list[DefinitionError] = []
    changed: list[str] = []
    try:
        app = load_app(options.app)
    except DefinitionError as error:
        problems = [error, *error.also]
    else:
        problems = app.check()
        if options.contract and not problems:
            from evenflow.cli.contract import differences
            from evenflow.describe import describe

            changed = differences(_committed(Path(options.contract)), describe(app))
    if options.json:
        found = [{"where": relative(e.where), "message": e.plain, "remedy": e.remedy} for e in problems]
        out_json({"problems": found, "changed": changed})
    else:
        for each in problems:
            out(runnable(shown(each), options.app))
        for line in changed:
            out(f"changed: {runnable(line, options.app)}")
    if problems or changed:
        say(runnable(_verdict(len(problems), len(changed), options.contract), options.app))
        return Code.FOUND
    say(paint("nothing is wrong", "green", sys.stderr))
    return Code.DONE


def _verdict(problems: int, changed: int, contract: str | None) -> str:
    if problems:
        return paint(f"{problems} {'thing is' if problems == 1 else 'things are'} wrong", "red", sys.stderr)
    say(paint(f"{changed} {'change' if changed == 1 else 'changes'} against {contract}", "yellow", sys.stderr))
    return f"  → if that is meant: evenflow describe --json > {contract}, and commit it"


def _committed(file: Path) -> Any:
    try:
        found = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"there is no file {file}", remedy=f"evenflow describe --json > {file}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}", remedy=f"evenflow describe --json > {file}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{file} is no description of an app", remedy=f"evenflow describe --json > {file}")
    return found


# -- describe -------------------------------------------------------------------------------------------------------


def describe(options: Namespace) -> int:
    """The app in one of four forms."""
    from evenflow.cli import pictures
    from evenflow.cli.asyncapi import asyncapi
    from evenflow.describe import describe as document_of

    app = load_app(options.app)
    if options.format == "asyncapi":
        out_json(asyncapi(app))
    elif options.format == "json":
        out_json(document_of(app))
    elif options.format == "mermaid":
        out(pictures.mermaid(document_of(app)))
    else:
        out(pictures.text(document_of(app)))
    return Code.DONE


# -- config ---------------------------------------------------------------------------------------------------------


def config(options: Namespace) -> int:
    """Every setting with where it came from; with an app also what they mean for its services and topics."""
    settings = Settings.load()
    try:
        app = load_app(options.app)
    except (UsageError, SettingsError):
        if options.app is not None:
            raise
        app = None
    rows = [(name, value, origin) for name, value, origin in settings.origins()]
    if app is not None:
        from evenflow.describe import describe as document_of
        from evenflow.settings_sources import masked

        topics = list(document_of(app)["topics"])
        for line in settings.check_names([each.name for each in app.services], topics):
            say(f"{paint('warning', 'yellow', sys.stderr)}: {line}")
        rows += [(f"store of {s.name}", masked(settings.store_url(s.name)), "in effect") for s in app.services]
        rows += [(f"engine of {t}", masked(settings.engine_url(t)), "in effect") for t in topics]
    if options.json:
        out_json([{"name": name, "value": value, "origin": origin} for name, value, origin in rows])
    else:
        table(("SETTING", "VALUE", "FROM"), [(name, f"{value}", origin) for name, value, origin in rows])
    return Code.DONE
