"""Measure Evenflow beside the same work by hand, and beside others: in one run, in turns, with medians and spread.

python -m bench                   all cases; writes bench/results/latest.json and the tables of docs/bench.md anew
python -m bench --short           the same with two rounds at most: a quarter of an hour instead of twenty minutes
python -m bench --keep            the same, though a case fails (the page says which) or control-C ends it early
python -m bench CASE …            these cases; the last line is the ratio of the last one. Writes nothing
python -m bench CASE … --keep     these cases; what was found joins the figures of the others
python -m bench CASE … --anew     these cases; the figures of all others are dropped
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
from bench.servers import held


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
    plan = Plan(quick=wanted.quick, rounds=wanted.rounds, short=wanted.short)
    fresh = wanted.anew or not wanted.cases
    keeps = not wanted.quick and (wanted.keep or fresh)
    if keeps and not fresh:
        results.refuse_strangers()  # before minutes are spent on figures that cannot be kept
    with held():
        found = _all(chosen, plan, list(known), loud=not wanted.json)
    if wanted.json:
        print(json.dumps(found, indent=1))
    failed = [each.name for each in chosen if "failed" in found.get(each.name, {"failed": ""})]
    keeps = keeps and (wanted.keep or not failed)
    if keeps:
        results.keep(found, fresh=fresh)
    if failed:
        print(f"failed: {', '.join(failed)}{'' if keeps else '; nothing was kept'}", file=sys.stderr)
    return 1 if failed else 0


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="its name, as --list tells")
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round, in this process")
    parser.add_argument("--keep", action="store_true", help="write what these cases find beside the others' figures")
    parser.add_argument("--anew", action="store_true", help="write what these cases find, and drop the others' figures")
    parser.add_argument("--short", action="store_true", help="two rounds of each side at most")
    parser.add_argument("--rounds", type=int, help="how often each side is measured")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON, and nothing else")
    return parser.parse_args(given)


def _all(chosen: list[Case], plan: Plan, places: list[str], *, loud: bool) -> dict[str, Any]:
    """What each case has found. One that fails is told, and says so; the others are measured all the same."""
    if loud:
        print(f"{_words(machine())}; load {moment(1)['load']}", flush=True)
    began = time.perf_counter()
    found: dict[str, Any] = {}
    try:
        for case in chosen:
            found[case.name] = _measured(case, plan, places.index(case.name), loud=loud)
    except KeyboardInterrupt:
        print(f"interrupted; not measured: {', '.join(case.name for case in chosen[len(found) :])}", file=sys.stderr)
    if loud and len(chosen) > 1:
        print(f"{len(chosen)} cases took {time.perf_counter() - began:.0f} seconds", flush=True)
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
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        found = {"failed": f"{type(error).__name__}: {error}"}
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
