"""`python -m replay`: all purchases go through the shop, and then its books are compared with the file.

Exit code 0 when they agree, 1 when they differ or a process ended, 2 for wrong use, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from replay.chart import chart, months
from replay.folder import Asked, Folder, InUse
from replay.places import Places
from replay.processes import HOME, Ended
from replay.purchases import read
from replay.reconcile import Report, reconcile
from replay.run import Replay, Stuck

SHOWN = 5
WIDEST = 100


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m replay", description="Replay purchases through the shop.")
    parser.add_argument("--purchases", type=int, metavar="N", help="only the first N of them")
    parser.add_argument("--resume", action="store_true", help="go on where the last replay was stopped or killed")
    parser.add_argument("--split", action="store_true", help="a process for each service, not one for all")
    parser.add_argument(
        "--faults", action="store_true", help="a supplier is away for a while, an order is wrong, and both is mended"
    )
    parser.add_argument("--engine", default="", metavar="URL", help="a server for the events, not a file")
    parser.add_argument("--store", default="", metavar="URL", help="a server of PostgreSQL for the data, not files")
    parser.add_argument("--window", type=float, default=8.0, metavar="SECONDS", help="the time to pay (%(default)g)")
    parser.add_argument(
        "--ahead",
        type=int,
        default=1500,
        metavar="N",
        help="place no more while so many events wait (%(default)d)",
    )
    parser.add_argument("--folder", type=Path, default=HOME / ".evenflow", help="where all of it is kept")
    given = parser.parse_args(arguments)
    if given.purchases is not None and given.purchases < 1:
        parser.error("--purchases needs a number from 1 on")
    return given


def main(arguments: list[str] | None = None) -> int:
    given = options(arguments)
    console = Console()
    try:
        with Folder(given.folder.absolute()) as folder:
            places = Places(given.engine, given.store, f"shop-{secrets.token_hex(4)}")
            asked = folder.begin(Asked(given.purchases, given.faults, places), resume=given.resume)
            purchases = read(asked.purchases)
            how = {"split": given.split, "faults": asked.faults, "window": given.window, "ahead": given.ahead}
            asyncio.run(Replay(folder, purchases, console, places=asked.places, **how).run())
            report = reconcile(folder.path, purchases, asked.places)
            return show(report, months(folder.path, asked.places), console)
    except InUse as error:
        print(error, file=sys.stderr)
        return 2
    except (Ended, Stuck) as error:
        print(f"{error}\n`make run RESUME=1` goes on from here", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped; `make run RESUME=1` goes on from here", file=sys.stderr)
        return 130


def show(report: Report, revenue: Sequence[tuple[str, int]], console: Console) -> int:
    """Revenue, what each database holds, what differs, and the last line."""
    width = min(console.width, WIDEST)
    blocks = (sys.stdout.encoding or "").lower().startswith("utf")
    print("\nrevenue per month\n")
    for line in chart(revenue, width, blocks=blocks):
        print(line)
    print("\nwhat they hold\n")
    for name, text in report.facts:
        print(f"{name:14} {text}")
    print()
    kinds = defaultdict[tuple[str, str], list[str]](list)
    for each in report.differences:
        kinds[each.kind, each.where].append(each.what)
    for (kind, where), found in kinds.items():
        more = f"; and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
        print(f"{kind}: {where}: {'; '.join(found[:SHOWN])}{more}")
    print(report.last_line)
    return 1 if report.differences else 0


if __name__ == "__main__":
    sys.exit(main())
