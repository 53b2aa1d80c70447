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

    Raises `SystemExit` when that was another machine, or other versions.
    """
    if not fresh:
        refuse_strangers(latest)
    known = load(latest)["cases"] if latest.exists() and not fresh else {}
    found = {**_here(), "cases": {**known, **cases}}
    latest.parent.mkdir(exist_ok=True)
    latest.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    shown.write_text(page.filled(shown.read_text("utf-8"), load(latest)), "utf-8")


def refuse_strangers(latest: Path = LATEST) -> None:
    """Raises `SystemExit` when the kept figures are those of another machine, or of other versions than these here.

    Such figures do not belong in one table.
    """
    before, here = load(latest) if latest.exists() else _here(), _here()
    if differ := [_differ(name, before.get(name, {}), here[name]) for name in here if before.get(name) != here[name]]:
        raise SystemExit(
            f"{latest} was measured on another machine or with other versions ({'; '.join(differ)}): measure all cases "
            "anew (python -m bench), or drop the other figures (--anew)"
        )


def _here() -> dict[str, dict[str, Any]]:
    return {"machine": machine(), "versions": versions()}


def _differ(what: str, before: dict[str, Any], here: dict[str, Any]) -> str:
    names = sorted(name for name in {*before, *here} if before.get(name) != here.get(name))
    return f"{what}: " + ", ".join(f"{name} was {before.get(name)}, is {here.get(name)}" for name in names)
