"""python -m bench [CASE … | all] [--full] [--json]   Without a case it lists them.

Results are kept in bench/results/latest.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import consume, memory_backlog, pair, publishing, quiet, table
from bench.measuring import machine

RESULTS = Path(__file__).parent / "results" / "latest.json"
CASES: dict[str, tuple[Callable[..., dict[str, Any]], str]] = {
    "consume-transactional": (consume.transactional, "a handler with two writes per event, beside the same by hand"),
    "consume-batch-two-processes": (pair.two_processes, "one process appends, one handles lists of 1000"),
    "memory-backlog": (memory_backlog.waiting, "memory while 500,000 events wait (5 million with --full)"),
    "flatness": (consume.flatness, "cost by backlog, keys and partitions (--full: 5 million waiting, too)"),
    "publish": (publishing.publish, "one at a time, many at once, in transactions, in lists"),
    "idle-cpu": (quiet.idle, "CPU of an app with nothing to do"),
    "latency": (quiet.latency, "from publish to the effect in another process"),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure. Without a case: list them.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="one or more of them, or all")
    parser.add_argument("--full", action="store_true", help="longer, and with 5 million events where that matters")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    given = parser.parse_args()
    chosen = list(CASES) if given.cases == ["all"] else given.cases
    if unknown := [case for case in chosen if case not in CASES]:
        print(f"there is no case {unknown[0]!r}; there are: {', '.join(CASES)}", file=sys.stderr)
        return 2
    if not chosen:
        print("\n".join(f"  {case:28s} {what}" for case, (_, what) in CASES.items()))
        return 0
    return _measure(chosen, full=given.full, as_json=given.json)


def _measure(chosen: list[str], *, full: bool, as_json: bool) -> int:
    found: dict[str, Any] = {}
    for case in chosen:
        on = machine()
        if not as_json:
            print(f"{case}: {CASES[case][1]}", flush=True)
            print(f"  {on['cpu']}, {on['cores']} cores, load {on['load']:.1f}, fdatasync {on['fsync_ms']} ms, "
                  f"Python {on['python']}, SQLite {on['sqlite']}", flush=True)  # fmt: skip
        found[case] = {"machine": on, "full": full, **CASES[case][0](full=full)}
        _keep(case, found[case])
        if not as_json:
            shown = {key: value for key, value in found[case].items() if key not in ("machine", "full")}
            print("\n".join(table.lines(case, shown)), flush=True)
    if as_json:
        print(json.dumps(found, indent=2))
    return 0


def _keep(case: str, result: dict[str, Any]) -> None:
    """Beside what other cases have found before."""
    RESULTS.parent.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**known, case: result}, indent=2, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
