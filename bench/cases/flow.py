"""Two processes: latency from publish to effect at a tenth of the limit, and lists as fast as both can; idle-cpu."""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.catalogue import Case
from bench.processes import Plan, Record, folder, result, start
from bench.rounds import case, in_turns, line

GOAL_P99 = 20.0
LIMIT_EVENTS = 10_000
SECONDS = 8.0


def pair(plan: Plan, who: str, publishing: tuple[str, dict[str, Any]], handling: tuple[str, dict[str, Any]]) -> Record:
    """One process publishes, the other handles. The record of the second, and of the first as `published`."""
    with folder() as place:
        plan.run(f"{who}.flow:declares", folder=place)
        consumer = start(f"{who}.flow:{handling[0]}", folder=place, **handling[1])
        producer = start(f"{who}.flow:{publishing[0]}", folder=place, **publishing[1])
        try:
            published = result(producer)
            return {**result(consumer), "published": published}
        finally:
            for process in (producer, consumer):
                process.kill()
                process.wait()


def flowing(plan: Plan, who: str, events: int, per_second: float, seed: int = 1) -> Record:
    """Single events, so many per second; 0: as fast as they go, at most a hundred at once."""
    publishing = {"events": events, "per_second": per_second, "seed": seed}
    return pair(plan, who, ("publishes", publishing), ("effects", {"events": events}))


def latency(plan: Plan) -> Record:
    """Both sides get the same arrivals: a tenth of what ours can take."""
    limit = 500.0 if plan.quick else flowing(plan, "ours", LIMIT_EVENTS, 0)["rate"]
    tenth = limit / 10
    events = plan.of(int(SECONDS * tenth), 40)
    rate = plan.of(round(tenth), 400)
    seeds = {"ours": iter(range(100)), "twins": iter(range(100))}

    def once(who: str) -> Record:
        return flowing(plan, who, events, rate, next(seeds[who]))

    mine, theirs = in_turns(plan.turns(3), partial(once, "ours"), partial(once, "twins"))
    beside = "by hand, a look every millisecond"
    lines = [
        line(f"publish to effect, {name}", mine, theirs, figure=figure, unit="ms", goal=goal, beside=beside)
        for name, figure, goal in (
            ("p99", "p99_ms", f"<= {GOAL_P99:.0f} ms"),
            ("p50", "p50_ms", ""),
            ("p99.9", "p99_9_ms", ""),
        )
    ]
    return case(lines, limit_per_second=round(limit), per_second=rate, events=events)


def lists(plan: Plan) -> Record:
    """The lower of both rates counts: events that were appended, handled and kept per second."""

    def once(who: str) -> Record:
        seconds = 0.2 if plan.quick else 5.0
        found = pair(plan, who, ("appends", {"seconds": seconds}), ("handles_lists", {}))
        return {**found, "rate": min(found["rate"], found["published"]["rate"])}

    mine, theirs = in_turns(plan.turns(3), partial(once, "ours"), partial(once, "twins"))
    name = "one process appends lists of 1,000, one handles lists"
    appending = [[round(record["published"]["cpu_us"], 2) for record in side] for side in (mine, theirs)]
    return case([line(name, mine, theirs)], cpu_us_of_appending={"ours": appending[0], "twin": appending[1]})


def idle(plan: Plan) -> Record:
    def once(who: str) -> Record:
        with folder() as place:
            found: Record = plan.run(f"{who}.flow:idles", folder=place, seconds=0.3 if plan.quick else 6.0)
            return found

    mine, theirs = in_turns(plan.turns(3), partial(once, "ours"), partial(once, "twins"))
    beside = "the loop by hand, a look every millisecond"
    return case([
        line("idle, of one core", mine, theirs, figure="percent", unit="%", goal="<= 1 %", beside=beside)
    ])  # fmt: skip


def cases() -> list[Case]:
    return [
        Case("two-processes", "consume", "one process appends lists, one handles lists", lists),
        Case("latency", "latency", "from publish to the effect in another process, at a tenth of the limit", latency),
        Case("idle-cpu", "rest", "CPU of an app with nothing to do", idle),
    ]
