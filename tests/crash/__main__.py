"""`python -m tests.crash --seconds 120 --seed N`: the long run. Keeps its folder when anything is wrong."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from . import checker
from .nemesis import Nemesis

SHOWN = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="crash", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--folder", type=Path, help="an empty folder to run in, which is kept")
    parser.add_argument("--check", type=Path, help="only check a folder that an earlier run has left")
    options = parser.parse_args()
    if options.check:
        return report(options.check, [])
    folder = options.folder or Path(tempfile.mkdtemp(prefix="evenflow-crash-"))
    folder.mkdir(parents=True, exist_ok=True)
    nemesis = Nemesis(folder, options.seed)
    nemesis.run(options.seconds)
    print(f"seed {options.seed}: {nemesis.counts}, drained in {getattr(nemesis, 'drained', float('nan')):.1f} s")
    failed = report(folder, nemesis.complaints)
    if failed:
        print(f"kept for a look: {folder}")
    elif options.folder is None:
        shutil.rmtree(folder)
    return failed


def report(folder: Path, complaints: list[str]) -> int:
    history = checker.read(folder)
    anomalies = checker.check(history)
    for text in complaints:
        print(f"  {text}")
    shown: Counter[str] = Counter()
    for anomaly in anomalies:
        shown[anomaly.kind] += 1
        if shown[anomaly.kind] <= SHOWN:
            print(f"  {anomaly.kind}: {anomaly.what}")
    print(checker.summary(history, anomalies))
    return 1 if anomalies or complaints else 0


sys.exit(main())
