"""Where a measurement runs: a process of its own, or in quick mode this one; and folders and copies of files for it."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LONGEST = 1800.0
Record = dict[str, Any]


def call(function: str, given: dict[str, Any]) -> Any:
    """Call `module:name` of this package; a coroutine is run."""
    module, _, name = function.partition(":")
    found = getattr(importlib.import_module(f"bench.{module}"), name)(**given)
    return asyncio.run(found) if inspect.iscoroutine(found) else found


def start(function: str, **given: Any) -> subprocess.Popen[str]:
    """Start `module:name` in a process of its own; it prints its record as JSON."""
    command = [sys.executable, "-m", "bench.worker", function, json.dumps(given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def result(process: subprocess.Popen[str], seconds: float = LONGEST) -> Any:
    """The record of a process that was started."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise SystemExit(f"a measurement failed: {process.args}")
    return json.loads(output.splitlines()[-1])


@dataclass(frozen=True)
class Plan:
    """How much is measured: everything, or each case once with tiny sizes, in this process where that is possible.

    `short`: two rounds at most.
    """

    quick: bool = False
    rounds: int | None = None
    short: bool = False

    def of(self, usual: int, tiny: int) -> int:
        return tiny if self.quick else usual

    def turns(self, usual: int) -> int:
        rounds = self.rounds or usual
        return 1 if self.quick else min(rounds, 2) if self.short else rounds

    def run(self, function: str, **given: Any) -> Any:
        return call(function, given) if self.quick else result(start(function, **given))


@contextmanager
def folder() -> Iterator[str]:
    """An empty folder on a real disk: `BENCH_FOLDER`, or the system's place for temporary files."""
    made = tempfile.mkdtemp(prefix="evenflow-bench-", dir=os.environ.get("BENCH_FOLDER"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def copied(base: str, *names: str) -> Iterator[str]:
    """A fresh folder with copies of some files, written back to the disk before anything is measured."""
    with folder() as fresh:
        for name in names:
            target = Path(fresh, name)
            shutil.copy(Path(base, name), target)
            with target.open("rb") as file:
                os.fsync(file.fileno())
        yield fresh


def say(folder: str, name: str, text: str = "") -> None:
    """Tell other processes something: a file that is there at once and whole."""
    part = Path(folder, f"{name}.part")
    part.write_text(text, "utf-8")
    part.rename(Path(folder, name))


def said(folder: str, name: str) -> str | None:
    """What was told under that name, or None."""
    try:
        return Path(folder, name).read_text("utf-8")
    except FileNotFoundError:
        return None
