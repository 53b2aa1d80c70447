"""parked export, parked import."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from evenflow import operate
from evenflow.cli.failures import Code, UsageError
from evenflow.cli.letters_meant import meant, narrowed
from evenflow.cli.looking import looking, who
from evenflow.cli.output import confirm, out, paint, say
from evenflow.errors import Refused
from evenflow.operate.carried import Line, read, written
from evenflow.running import Running

SHOWN = 20
ALL = 2**31


def export(options: Namespace) -> int:
    """Write parked events as lines of JSON."""
    if options.remove and not options.to:
        raise UsageError("--remove needs a file that keeps what is removed", remedy="--to FILE")

    async def work(running: Running) -> operate.Exported:
        found = await operate.home(running, options.group)
        with ExitStack() as stack:
            paper = _Paper(options.to, stack)
            if not options.remove:
                return await operate.export(running, found.group, meant(options) if narrowed(options) else None, paper)
            count = len(await operate.dead_lanes(found, meant(options), ALL))
            if count:
                letters = "1 dead letter" if count == 1 else f"{count:,} dead letters"
                confirm(f"move {letters} of {found.group} out, with all that waits behind?", yes=options.yes)
            return await operate.move_out(running, found.group, meant(options), paper, who())

    done = looking(options, work)
    what = "moved out" if options.remove else "written"
    say(paint(f"{what}: {_events(done.events)} of {_lanes(done.lanes)}", "green", sys.stderr))
    if done.left:
        say(f"{done.left:,} stay: they have changed meanwhile; what the file holds of them is a copy")
    return Code.DONE


class _Paper:
    """Where lines go: stdout, or a new file, for its owner alone, since payloads may be personal."""

    def __init__(self, name: str | None, stack: ExitStack) -> None:
        self._name = name
        self._stack = stack
        self._file: BinaryIO | None = None
        if name is not None and Path(name).exists():
            raise Refused(f"there is a file {name} already", remedy="give another name")

    async def __call__(self, lines: Sequence[Line]) -> None:
        if self._name is None:
            sys.stdout.buffer.write(written(lines))
            return
        if self._file is None:
            self._file = self._created(self._name)
        self._file.write(written(lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _created(self, name: str) -> BinaryIO:
        try:
            handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except OSError as error:
            raise UsageError(f"{name} cannot be written: {error.strerror}", remedy="nothing was changed") from None
        return self._stack.enter_context(os.fdopen(handle, "wb"))


def bring_back(options: Namespace) -> int:
    """Take back what was moved out."""
    lines = [each for each in _lines(options.file) if options.named in (None, each.group)]
    if not lines:
        of = f" of {options.named}" if options.named else ""
        raise Refused(f"there is no event{of} in {options.file}", remedy="nothing was changed")

    async def work(running: Running) -> tuple[operate.Import, int]:
        plan = await operate.plan_import(running, lines, late=options.late)
        if options.dry_run or (plan.unfit and not options.partly):
            return plan, 0
        return plan, await operate.carry_out_import(running, plan, who())

    plan, done = looking(options, work)
    for each in plan.unfit[:SHOWN]:
        out(f"{each.lane} ({_events(each.events)}) cannot come back: {each.reason}")
    if len(plan.unfit) > SHOWN:
        out(f"… and {_lanes(len(plan.unfit) - SHOWN)} more")
    of = f"{_events(done or plan.events)} of {_lanes(len(plan.lanes))}"
    if done:
        say(paint(f"back in {plan.home.group} as dead letters: {of}", "green", sys.stderr))
    elif options.dry_run:
        say(f"would come back: {of}; nothing was changed")
    elif plan.unfit:
        others = f"; --partly takes back the others: {of}" if plan.lanes and not options.partly else ""
        say(f"nothing was changed{others}")
        if not options.late and any("key has gone on" in each.reason for each in plan.unfit):
            say("  → --late brings back what would come after later events of its key")
    return Code.REFUSED if plan.unfit and not done else Code.DONE


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count:,} events"


def _lanes(count: int) -> str:
    return "1 lane" if count == 1 else f"{count:,} lanes"


def _lines(name: str) -> list[Line]:
    try:
        with ExitStack() as stack:
            file = sys.stdin.buffer if name == "-" else stack.enter_context(Path(name).open("rb"))
            return list(read(file))
    except OSError as error:
        raise UsageError(
            f"{name} cannot be read: {error.strerror}", remedy="give a file that `evenflow parked export` wrote"
        ) from None
