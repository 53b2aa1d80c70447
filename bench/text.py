"""Results as text for a person. The last line of a case is its ratio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

HEAD = f"  {'':44s}{'ours':>15s}{'beside it':>15s}{'ratio':>7s}  {'spread':15s} {'CPU per event':s}"


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What a case has found, readable."""
    for name in ("left_out", "failed"):
        if name in found:
            yield f"  {name.replace('_', ' ')}: {found[name]}"
            return
    yield HEAD
    for line in found["lines"]:
        yield from _line(line)
    for name, value in found.items():
        if name not in ("lines", "at"):
            yield f"    {name.replace('_', ' ')}: {_plain(value)}"
    first = found["lines"][0]
    yield f"ratio {first['ratio']:.2f}" if "ratio" in first else f"{number(first['ours']['median'])} {first['unit']}"


def _line(line: dict[str, Any]) -> Iterator[str]:
    ours, twin = line["ours"], line.get("twin")
    name = f"{line['name']} ({line['unit']})"
    if twin is None:
        yield f"  {name:44s}{number(ours['median']):>15s}"
    else:
        low, high = line["ratios"]
        cpu = f"{ours['cpu_us']:.1f}, {twin['cpu_us']:.1f} us" if "cpu_us" in ours and "cpu_us" in twin else ""
        yield (
            f"  {name:44s}{number(ours['median']):>15s}{number(twin['median']):>15s}"
            f"{line['ratio']:7.2f}  {f'{low:.2f} to {high:.2f}':15s} {cpu}"
        )
        yield f"    beside: {line['beside']}; {line['rounds']} rounds"
    if "cores" in line:
        (two, own_of_two), (one, own_of_one) = line["cores"]
        yield f"    cores busy, of them the workers': {two:.2f}: {own_of_two:.2f}, beside {one:.2f}: {own_of_one:.2f}"
    if "goal" in line:
        yield f"    goal: {line['goal']}"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    if isinstance(value, list):
        return " ".join(_plain(each) for each in value)
    return f"{value:,}" if isinstance(value, int) else number(value) if isinstance(value, float) else str(value)


def number(value: float) -> str:
    """Three digits that count, with commas between thousands."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
