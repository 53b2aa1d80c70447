"""The small table of figures in the README, from those of the bench: `make docs` writes it, a test compares it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results" / "latest.json"
BEGIN, END = "<!-- figures: made by `make docs`, not by hand -->", "<!-- end of the figures -->"
CHOSEN = (
    "app.publish, 1,000 at once",
    "app.transaction, 100 at once",
    "a handler with two writes",
    "a handler of lists of 1,000",
    "a handler that waits 1 ms, concurrency=100",
    "publish to effect, p50",
    "idle, of one core",
)


def table(results: dict[str, Any]) -> str:
    """The chosen lines, with where they were measured. Raises `KeyError` for one that the bench does not have."""
    lines = {line["name"]: line for case in results["cases"].values() for line in case.get("lines", ())}
    rows = [row(lines[name]) for name in CHOSEN]
    machine = results["machine"]
    where = f"Measured on {machine['cores']} cores ({machine['cpu']}), Python {machine['python']}."
    return "\n".join(["| | Evenflow | beside it | |", "|---|---:|---:|---|", *rows, "", where])


def row(line: dict[str, Any]) -> str:
    """One line of the bench."""
    each = "/s" if line["unit"] == "events/s" else f" {line['unit']}"
    twin = f"{number(line['twin']['median'])}{each}" if "twin" in line else ""
    return f"| {line['name']} | {number(line['ours']['median'])}{each} | {twin} | {line.get('beside', '')} |"


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 1000:
        return f"{round(value, 2 - len(str(int(value))) + 1):,.0f}"
    return f"{value:.3g}"


def filled(text: str, results: dict[str, Any]) -> str:
    """The README with its figures."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the README has no place for the figures")
    return f"{before}{begin}\n\n{table(results)}\n\n{end}{after}"


def main() -> int:
    """Write them."""
    text = README.read_text("utf-8")
    new = filled(text, json.loads(RESULTS.read_text("utf-8")))
    if new != text:
        README.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
