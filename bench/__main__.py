"""Measure Evenflow beside the same work by hand, and beside others: in one run, in turns, with medians and spread.

python -m bench                   all cases; writes bench/results/latest.json and the tables of docs/bench.md
python -m bench CASE …            these cases; the last line is the ratio of the last one. Writes nothing
python -m bench CASE … --keep     these cases; what was found joins the figures of the others
python -m bench --list            what there is
python -m bench --quick [CASE …]  each case once with tiny sizes: shows that it works, and no figure worth having
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from typing import Any

from bench import results, text
from bench.cases.every import every
from bench.catalogue import Case, LeftOut
from bench.machine import machine, moment
from bench.processes import Plan


def main(given: list[str] | None = None) -> int:
    wanted = _arguments(given)
    known = every()
    if wanted.list:
        for case in known.values():
            print(f"  {case.name:24s} {case.what}{' (only when it is named)' if case.apart else ''}")
        return 0
    if unknown := [name for name in wanted.cases if name not in known]:
        print(f"there is no case {unknown[0]!r}; `python -m bench --list` lists them", file=sys.stderr)
        return 2
    chosen = [known[name] for name in wanted.cases] or [case for case in known.values() if not case.apart]
    plan = Plan(quick=wanted.quick, rounds=wanted.rounds)
    found = _all(chosen, plan, list(known), loud=not wanted.json)
    if failed := [case.name for case in chosen if case.name not in found]:
        print(f"failed: {', '.join(failed)}; nothing was kept", file=sys.stderr)
        return 1
    if wanted.json:
        print(json.dumps(found, indent=1))
    if not wanted.quick and (wanted.keep or not wanted.cases):
        results.keep(found, fresh=not wanted.cases)
    return 0


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="its name, as --list tells")
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round, in this process")
    parser.add_argument("--keep", action="store_true", help="write what these cases find beside the others' figures")
    parser.add_argument("--rounds", type=int, help="how often each side is measured")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON, and nothing else")
    return parser.parse_args(given)


def _all(chosen: list[Case], plan: Plan, places: list[str], *, loud: bool) -> dict[str, Any]:
    """What each case has found. One that fails is told and missing; the others are measured all the same."""
    if loud:
        print(f"{_words(machine())}; load {moment(1)['load']}", flush=True)
    found: dict[str, Any] = {}
    for case in chosen:
        try:
            found[case.name] = _measured(case, plan, places.index(case.name), loud=loud)
        except (Exception, SystemExit):
            traceback.print_exc()
    return found


def _measured(case: Case, plan: Plan, place: int, *, loud: bool) -> dict[str, Any]:
    if loud:
        print(f"{case.name}: {case.what}", flush=True)
    began = time.perf_counter()
    about = {"kind": case.kind, "what": case.what, "place": place}
    try:
        found = case.measure(plan)
    except LeftOut as why:
        found = {"left_out": str(why)}
    if loud:
        print("\n".join(text.lines(found)), flush=True)
    return {
        **found,
        **about,
        "at": {**moment(1 if plan.quick else 50), "took_seconds": round(time.perf_counter() - began, 1)},
    }


def _words(on: dict[str, Any]) -> str:
    return f"{on['cpu']}, {on['cores']} cores, Python {on['python']}, SQLite {on['sqlite']}"


if __name__ == "__main__":
    sys.exit(main())
