"""parked edit."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from evenflow import operate
from evenflow.cli.failures import Code, Declined, UsageError
from evenflow.cli.looking import looking, who
from evenflow.cli.output import fitted, out_json, paint, say
from evenflow.cli.remedies import runnable
from evenflow.errors import EvenflowError
from evenflow.running import Running


def edit(options: Namespace) -> int:
    """Another payload for a dead letter."""
    given = [name for name in ("set", "file", "editor", "restore") if getattr(options, name)]
    if len(given) != 1:
        raise UsageError(
            "say how: --set, --file, --editor or --restore", remedy="one of them; --set may be given several times"
        )
    make = None if options.restore else _making(options)
    kept: list[Path] = []

    async def work(running: Running) -> operate.Edit:
        where = (running, options.group, options.lane)
        if make is None:
            plan = await operate.plan_restore(*where, options.topic)
        else:
            plan = await operate.plan_edit(*where, lambda before: make(before, kept), options.topic)
        if not options.dry_run:
            await operate.carry_out_edit(running, plan, who(), options.reason or "")
        return plan

    try:
        plan = looking(options, work)
    except EvenflowError as error:
        if kept and not isinstance(error, Declined):
            error.args = (f"{error}\n  → what you wrote is kept in {kept[0]}",)
        raise
    for each in kept:
        each.unlink()
    _told(plan, options)
    return Code.DONE


def _told(plan: operate.Edit, options: Namespace) -> None:
    letter = plan.letter
    if options.json:
        out_json(
            {
                "group": letter.group,
                "lane": letter.lane,
                "id": letter.envelope.id,
                "done": not options.dry_run,
                "changes": [each._asdict() for each in plan.changes],
            }
        )
        return
    fitted(("FIELD", "WAS", "WILL BE" if options.dry_run else "IS"), plan.changes)
    if options.dry_run:
        say("nothing was changed")
        return
    done = "is as it was published" if plan.restores else "is edited; the first payload is kept"
    say(paint(f"{letter.envelope.type} {letter.envelope.id} of {letter.name!r} {done}", "green", sys.stderr))
    for verb in ("rehearse", "redrive"):
        hint = f"  → evenflow parked {verb} {letter.group} --lane {shlex.quote(letter.name)}"
        say(runnable(hint, options.app))


def _making(options: Namespace) -> Callable[[Any, list[Path]], Any]:
    if options.set:
        fields = operate.with_fields(options.set)
        return lambda before, _: fields(before)
    if options.file:
        whole = operate.whole(_read(options.file))
        return lambda before, _: whole(before)
    return _written


def _read(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}", remedy="nothing was changed") from None


def _written(before: Any, kept: list[Path]) -> Any:
    """What a person makes of it in an editor. The file stays, and is noted, until the edit is done."""
    text = msgspec.json.format(msgspec.json.encode(before), indent=2)
    handle, name = tempfile.mkstemp(prefix="evenflow-", suffix=".json")
    path = Path(name)
    with os.fdopen(handle, "wb") as file:
        file.write(text + b"\n")
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        code = subprocess.call([*shlex.split(editor), name])  # noqa: S603  # the user's own editor
    except OSError as error:
        path.unlink()
        raise UsageError(f"the editor {editor!r} cannot be run: {error.strerror}", remedy="set EDITOR") from None
    after = path.read_bytes()
    if code or after.strip() == text.strip():
        path.unlink()
        raise Declined("nothing was changed" if not code else f"the editor ended with {code}: nothing was changed")
    kept.append(path)
    return operate.whole(after)(before)
