"""What is kept: bench/results/latest.json, and with it the tables of docs/bench.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import page
from bench.machine import machine, versions
from bench.processes import ROOT

LATEST = ROOT / "bench" / "results" / "latest.json"
PAGE = ROOT / "docs" / "bench.md"


def load(path: Path = LATEST) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def keep(cases: dict[str, Any], *, fresh: bool, latest: Path = LATEST, shown: Path = PAGE) -> None:
    """Write the figures and the page. Without `fresh` they join what other cases have found on this machine before.

    Raises `SystemExit` when that was another machine, or other versions: such figures do not belong in one table.
    """
    here = {"machine": machine(), "versions": versions()}
    known: dict[str, Any] = {}
    if not fresh and latest.exists():
        before = load(latest)
        if any(before.get(name) != value for name, value in here.items()):
            raise SystemExit(
                f"{latest} was measured on another machine or with other versions: measure all cases anew (make bench)"
            )
        known = before["cases"]
    found = {**here, "cases": {**known, **cases}}
    latest.parent.mkdir(exist_ok=True)
    latest.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    shown.write_text(page.filled(shown.read_text("utf-8"), load(latest)), "utf-8")
