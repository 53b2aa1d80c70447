"""Runs of the lab: clean ones, and those with a bug planted, which have to find it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from . import checker
from .checker import Verdict
from .nemesis import Nemesis, Options
from .pair import Pair
from .planted import PLANTS
from .reading import read

EMBEDDED = Pair()
SHOWN = 10
LIMIT = 120.0
"""Seconds within which a planted bug must be found."""
FIRST = 6.0
"""Seconds of faults in the first run with a bug; each later one is longer."""


def clean(options: Options, seconds: float, faults: int, folder: Path | None) -> int:
    """One run, for so long and with so many faults. The folder is kept when anything is wrong, or when it was named."""
    place = folder or Path(tempfile.mkdtemp(prefix="evenflow-crash-"))
    nemesis = Nemesis(place, options)
    if options.disk and options.pair.files and not nemesis.system.disk.mounted:
        print("the disk is never full in this run: only root can mount a small one")
    failed = 1
    try:
        nemesis.run(seconds, faults)
        counts = ", ".join(f"{n} {what}" for what, n in nemesis.record.counts.items())
        print(f"seed {options.seed}: {counts}; drained in {nemesis.drained:.1f} s")
        failed = report(place, nemesis.record.complaints)
        if failed or folder:
            nemesis.system.disk.keep()
            print(f"kept for a look: {place}")
    finally:
        nemesis.close()
    if not failed and not folder:
        shutil.rmtree(place)
    return failed


def report(folder: Path, complaints: list[str]) -> int:
    """Say what is wrong with a run, and the one line."""
    history = read(folder)
    verdict = checker.check(history)
    for text in complaints[:SHOWN]:
        print(f"  {text}")
    if len(complaints) > SHOWN:
        print(f"  and {len(complaints) - SHOWN} more of that")
    shown: Counter[str] = Counter()
    for anomaly in verdict.anomalies:
        shown[anomaly.kind] += 1
        if shown[anomaly.kind] <= SHOWN:
            print(f"  {anomaly.kind}: {anomaly.what}")
    print(verdict.summary(history.faults))
    return 1 if verdict.anomalies or complaints else 0


def with_bug(name: str, seed: int, seconds: float = FIRST, pair: Pair = EMBEDDED) -> tuple[float, Verdict | None]:
    """Runs until the bug is found, or for two minutes in all: how long it took, and what gave it away."""
    plant, began = PLANTS[name], time.monotonic()
    options = Options(
        seed=seed, pace=0.8, drain=30.0, plant=name, disk=False, rate=800, workers=2, ways=("program",), mix=plant.mix,
        pair=pair,
    )  # fmt: skip
    while time.monotonic() < began + LIMIT:
        verdict, drained = _judged(options, seconds)
        if any(anomaly.kind in plant.kinds and (drained or anomaly.kind != "lost") for anomaly in verdict.anomalies):
            return time.monotonic() - began, verdict
        options, seconds = replace(options, seed=options.seed + 1), seconds * 2
    return time.monotonic() - began, None


def _judged(options: Options, seconds: float) -> tuple[Verdict, bool]:
    """What is found; and whether all was done: what is only late is not lost."""
    with tempfile.TemporaryDirectory(prefix="evenflow-crash-") as folder:
        nemesis = Nemesis(Path(folder), options)
        try:
            nemesis.run(seconds)
            return checker.check(read(Path(folder))), nemesis.done
        finally:
            nemesis.close()


def with_bugs(names: list[str], seed: int, pair: Pair) -> int:
    """A line for each, and one at the end."""
    slowest, missed = 0.0, []
    for name in names:
        seconds, verdict = with_bug(name, seed, pair=pair)
        slowest = max(slowest, seconds)
        if verdict is None:
            missed.append(name)
            print(f"{name:40} NOT FOUND in {seconds:.0f} s: {PLANTS[name].says}", flush=True)
            continue
        kinds = Counter(anomaly.kind for anomaly in verdict.anomalies)
        example = next(each.what for each in verdict.anomalies if each.kind in PLANTS[name].kinds)
        told = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        print(f"{name:40} {seconds:5.1f} s   {told}; {example}", flush=True)
    print(f"planted: {len(names)} bugs, {len(names) - len(missed)} found, the slowest in {slowest:.0f} s (seed {seed})")
    return 1 if missed else 0
