"""Results as text for a person. The last line of a case is its verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def lines(case: str, found: dict[str, Any]) -> Iterator[str]:
    """What was found, readable."""
    yield from _WAYS[case](found)


def _transactional(found: dict[str, Any]) -> Iterator[str]:
    yield f"  {found['events']:,} events of {found['bytes']} bytes, {found['rounds']} rounds, ours and the twin in turns; medians"
    yield f"  {'handler':12s} {'ours':>12s} {'twin':>12s} {'ratio':>7s} {'CPU us ours':>12s} {'twin':>6s} {'our share':>10s}"
    for handler in ("two-writes", "empty"):
        each = found[handler]
        ours, twin = each["ours"], each["twin"]
        yield (
            f"  {handler:12s} {ours['rate']:10,.0f}/s {twin['rate']:10,.0f}/s {each['ratio']:7.2f} "
            f"{ours['cpu_us']:12.2f} {twin['cpu_us']:6.2f} {each['share_us']:7.2f} us"
        )
        low, high = each["ratios"]
        yield f"  {'':12s} ratio of each round {low:.2f} to {high:.2f}; by CPU {each['cpu_ratio']:.2f}; memory {each['memory']:.0f} MiB"
    yield f"  goals: ratio >= 0.6, share <= 3 us of CPU per event; share now {found['share_us']:.2f} us"
    yield f"ratio {found['ratio']:.2f}"


def _two_processes(found: dict[str, Any]) -> Iterator[str]:
    appended, handled = found["appended"], found["handled"]
    yield f"  appended {appended['rate']:,.0f}/s ({appended['cpu_us']:.2f} us of CPU each)"
    yield f"  handled  {handled['rate']:,.0f}/s ({handled['cpu_us']:.2f} us of CPU each), {handled['memory'][1]:.0f} MiB at most"
    yield f"  rounds: {', '.join(f'{rate:,.0f}' for rate in found['rates'])}"
    yield f"appended, handled and kept: {found['rate']:,.0f} events/s (goal {found['goal']:,})"


def _memory(found: dict[str, Any]) -> Iterator[str]:
    yield f"  backlog of {found['events']:,} (built at {found['built_rate']:,.0f}/s), handled at {found['rate']:,.0f}/s"
    yield f"  MiB on the way: {' '.join(f'{each:.0f}' for each in found['noted'])}"
    yield f"memory {found['memory']:.0f} MiB at most (goal {found['goal']:.0f}), growth {found['growth']:+.1f} MiB while it handled"


def _flatness(found: dict[str, Any]) -> Iterator[str]:
    for what, by_value in found.items():
        for value, each in by_value.items():
            yield f"  {what:10s} {int(value):>10,}: {each['cpu_us']:6.2f} us of CPU per event, {each['rate']:10,.0f}/s, {each['memory']:.0f} MiB"
    worst = {
        what: max(e["cpu_us"] for e in by_value.values()) / min(e["cpu_us"] for e in by_value.values())
        for what, by_value in found.items()
    }
    yield "dearest to cheapest: " + ", ".join(f"{what} {value:.2f}" for what, value in worst.items())


def _publish(found: dict[str, Any]) -> Iterator[str]:
    yield f"  {'':28s} {'ours':>12s} {'twin':>12s} {'ratio':>7s} {'CPU us ours':>12s}"
    for name, each in found.items():
        more = f"   relayed {each['relayed']:,.0f}/s" if "relayed" in each else ""
        yield (
            f"  {name:28s} {each['ours']:10,.0f}/s {each['twin']:10,.0f}/s {each['ratio']:7.2f} {each['cpu_us']:12.1f}{more}"
        )


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
