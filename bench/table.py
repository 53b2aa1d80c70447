"""Results as text for a person. The last line of a case is its verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def lines(case: str, found: dict[str, Any]) -> Iterator[str]:
    """What was found, readable."""
    yield from _WAYS[case](found)


def _transactional(found: dict[str, Any]) -> Iterator[str]:
    rounds = f"{found['rounds']} rounds, ours and the twin in turns; medians"
    yield f"  {found['events']:,} events of {found['bytes']} bytes; {rounds}"
    yield f"  {'handler':12s}{'ours':>12s}{'twin':>12s}{'ratio':>7s}{'CPU ours':>11s}{'twin':>8s}{'our share':>12s}"
    for handler in ("two-writes", "empty"):
        each = found[handler]
        ours, twin, best = each["ours"], each["twin"], each["best"]
        low, high = each["ratios"]
        yield (
            f"  {handler:12s}{ours['rate']:10,.0f}/s{twin['rate']:10,.0f}/s{each['ratio']:7.2f}"
            f"{ours['cpu_us']:8.2f} us{twin['cpu_us']:5.2f} us{each['share_us']:9.2f} us"
        )
        yield (
            f"  {'':12s}rounds {low:.2f} to {high:.2f}; by CPU {each['cpu_ratio']:.2f}; least CPU of any round "
            f"{best['ours']:.2f} and {best['twin']:.2f} us; {each['memory']:.0f} MiB"
        )
    yield f"  goals: ratio >= 0.6, share <= 3 us of CPU per event; the share is {found['share_us']:.2f} us"
    yield f"ratio {found['ratio']:.2f}"


def _two_processes(found: dict[str, Any]) -> Iterator[str]:
    appended, handled = found["appended"], found["handled"]
    most = handled["memory"][1]
    yield f"  appended {appended['rate']:,.0f}/s ({appended['cpu_us']:.2f} us of CPU each)"
    yield f"  handled  {handled['rate']:,.0f}/s ({handled['cpu_us']:.2f} us of CPU each), {most:.0f} MiB at most"
    yield f"  rounds: {', '.join(f'{rate:,.0f}' for rate in found['rates'])}"
    yield f"appended, handled and kept: {found['rate']:,.0f} events/s (goal {found['goal']:,})"


def _memory(found: dict[str, Any]) -> Iterator[str]:
    built, rate = found["built_rate"], found["rate"]
    yield f"  backlog of {found['events']:,} (built at {built:,.0f}/s), handled at {rate:,.0f}/s"
    yield f"  MiB on the way: {' '.join(f'{each:.0f}' for each in found['noted'])}"
    yield (
        f"memory {found['memory']:.0f} MiB at most (goal {found['goal']:.0f}), "
        f"growth {found['growth']:+.1f} MiB while it handled"
    )


def _flatness(found: dict[str, Any]) -> Iterator[str]:
    worst = []
    for what, by_value in found.items():
        costs = [each["cpu_us"] for each in by_value.values()]
        worst.append(f"{what} {max(costs) / min(costs):.2f}")
        for value, each in by_value.items():
            cost = f"{each['cpu_us']:6.2f} us of CPU per event, {each['rate']:8,.0f}/s"
            yield f"  {what:10s}{int(value):>10,}: {cost}, {each['memory']:.0f} MiB"
    yield "dearest to cheapest: " + ", ".join(worst)


def _publish(found: dict[str, Any]) -> Iterator[str]:
    yield f"  {'':28s}{'ours':>12s}{'twin':>12s}{'ratio':>7s}{'CPU ours':>13s}"
    for name, each in found.items():
        more = f"   relayed {each['relayed']:,.0f}/s" if "relayed" in each else ""
        rates = f"{each['ours']:10,.0f}/s{each['twin']:10,.0f}/s"
        yield f"  {name:28s}{rates}{each['ratio']:7.2f}{each['cpu_us']:10.1f} us{more}"


def _idle(found: dict[str, Any]) -> Iterator[str]:
    yield f"idle: {found['percent']:.2f} % of a core (goal {found['goal']:.0f}), {found['memory']:.0f} MiB"


def _latency(found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"publish to effect in another process: p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms, "
        f"most {found['max_ms']:.1f} ms (goal p99 {found['goal_p99_ms']:.0f})"
    )


_WAYS = {
    "consume-transactional": _transactional,
    "consume-batch-two-processes": _two_processes,
    "memory-backlog": _memory,
    "flatness": _flatness,
    "publish": _publish,
    "idle-cpu": _idle,
    "latency": _latency,
}
