"""`python -m tests.crash --faults 300 --seed N`: the long run. Keeps its folder when anything is wrong."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from . import proving
from .nemesis import Options
from .pair import ENGINES, STORES, Pair, missing
from .planted import PLANTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="crash", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of faults; then it drains and is checked")
    parser.add_argument("--faults", type=int, default=0, help="go on until there were so many, if they take longer")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--pace", type=float, default=1.1, help="seconds between two faults, about")
    parser.add_argument("--rate", type=int, default=1500, help="events published per second, about")
    parser.add_argument("--folder", type=Path, help="an empty folder to run in, which is kept")
    parser.add_argument("--check", type=Path, help="only check a folder that an earlier run has left")
    parser.add_argument("--engine", choices=ENGINES, default="sqlite", help="on a server of the run's own")
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--planted", choices=sorted(PLANTS), help="with this bug in the program: it has to be found")
    parser.add_argument("--all-planted", action="store_true", help="the same with each of them")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and disks are not left behind
    if options.check:
        return proving.report(options.check, [])
    pair = Pair(options.engine, options.store)
    if why := missing(pair):
        parser.error(why)
    if options.planted or options.all_planted:
        return proving.with_bugs(list(PLANTS) if options.all_planted else [options.planted], options.seed, pair)
    chosen = Options(seed=options.seed, pace=options.pace, rate=options.rate, pair=pair)
    return proving.clean(chosen, options.seconds, options.faults, options.folder)


if __name__ == "__main__":
    sys.exit(main())
