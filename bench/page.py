"""The tables of docs/bench.md, made from the figures: the page cannot say anything else than they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bench.text import number

BEGIN, END = "<!-- figures: made by `python -m bench`, not by hand -->", "<!-- end of the figures -->"
Column = tuple[str, str, Callable[[dict[str, Any], dict[str, Any]], str]]
KINDS = {
    "publish": "Publishing",
    "consume": "Handling",
    "flat": "What changes with partitions, keys and backlog",
    "latency": "From publish to effect",
    "later": "What waits for its time",
    "parked": "While keys are parked",
    "rest": "At rest and at the start",
    "broker": "On PostgreSQL and Kafka",
    "rival": "Beside others",
}


def filled(text: str, found: dict[str, Any]) -> str:
    """The page with its figures; what stands around them stays. Raises `ValueError` where the page has no place."""
    if not text.count(BEGIN) == text.count(END) == 1 or text.index(BEGIN) > text.index(END):
        raise ValueError("the page has no place for the figures, or several")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    return f"{before}{BEGIN}\n\n{tables(found)}\n\n{after}"


def tables(found: dict[str, Any]) -> str:
    parts = [_measured_on(found)]
    for kind, title in KINDS.items():
        cases = [case for case in found["cases"].values() if case["kind"] == kind and "lines" in case]
        if cases:
            parts += [f"### {title}", "\n".join(_table(sorted(cases, key=lambda case: case["place"])))]
    for what, title in (("left_out", "Left out here:"), ("failed", "Failed here, so there are no figures:")):
        told = [f"- `{name}`: {case[what]}" for name, case in found["cases"].items() if what in case]
        if told:
            parts += [title, "\n".join(told)]
    return "\n\n".join(parts)


def _measured_on(found: dict[str, Any]) -> str:
    machine, versions = found["machine"], found["versions"]
    times = [case["at"]["time"] for case in found["cases"].values()]
    syncs = sorted(case["at"]["fsync_ms"] for case in found["cases"].values())
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Measured {min(times)[:10]} on {machine['cores']} cores ({machine['cpu']}), {machine['system']}, "
        f"Python {machine['python']}, SQLite {machine['sqlite']}, {packages}. Making 4 KiB durable took "
        f"{syncs[len(syncs) // 2]:.2f} ms there (between {syncs[0]:.2f} and {syncs[-1]:.2f} ms)."
    )


def _table(cases: list[dict[str, Any]]) -> Iterator[str]:
    rows = [(line, case) for case in cases for line in case.get("lines", ())]
    beside = {line.get("beside", "") for line, _ in rows}
    columns = [column for column in _columns(beside) if any(column[2](line, case) for line, case in rows)]
    yield f"| {' | '.join(title for title, _, _ in columns)} |"
    yield f"|{'|'.join(rule for _, rule, _ in columns)}|"
    for line, case in rows:
        yield f"| {' | '.join(cell(line, case) for _, _, cell in columns)} |"


def _columns(beside: set[str]) -> list[Column]:
    """Title, rule, and what stands there. A column that nothing stands in is left out."""
    label = next(iter(beside)) if len(beside) == 1 else ""
    return [
        ("", "---", lambda line, _: line["name"] + (f" (goal: {line['goal']})" if "goal" in line else "")),
        ("ours", "---:", lambda line, _: _figure(line, "ours")),
        (label or "beside it", "---:", lambda line, _: _figure(line, "twin")),
        ("which is", "---", lambda line, _: "" if label else line.get("beside", "")),
        ("ratio", "---:", lambda line, _: f"**{line['ratio']:.2f}**" if "ratio" in line else ""),
        ("from, to", "---:", lambda line, _: ", ".join(f"{each:.2f}" for each in line.get("ratios", ()))),
        ("CPU, us", "---:", lambda line, _: _both(line, "cpu_us")),
        ("CPU more, us", "---:", lambda line, case: _more(line, case)),
        ("MiB", "---:", lambda line, _: _both(line, "memory")),
        ("publishing alone", "---:", lambda _, case: _part(case.get("published_per_second"))),
        ("handling alone", "---:", lambda _, case: _part(case.get("handled_per_second"))),
        ("cores busy, of them the workers'", "---:", lambda line, _: _cores(line.get("cores"))),
        ("until the commits", "---:", lambda _, case: _part(case.get("committed_per_second"))),
    ]


def _figure(line: dict[str, Any], side: str) -> str:
    unit = "/s" if line["unit"] == "events/s" else f" {line['unit']}"
    return number(line[side]["median"]) + unit if side in line else ""


def _both(line: dict[str, Any], name: str) -> str:
    return " / ".join(number(line[side][name]) for side in ("ours", "twin") if name in line.get(side, ()))


def _more(line: dict[str, Any], case: dict[str, Any]) -> str:
    """What ours takes for an event more than the twin."""
    share = case.get("own_share_us")
    return "" if share is None or line is not case["lines"][0] else f"{share:.1f}"


def _cores(sides: list[list[float]] | None) -> str:
    return ", ".join(f"{all_of_them:.1f}: {own:.1f}" for all_of_them, own in sides or ())


def _part(sides: dict[str, float] | None) -> str:
    return " / ".join(number(each) for each in sides.values()) + "/s" if sides else ""
