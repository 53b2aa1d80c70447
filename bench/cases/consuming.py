"""consume-…: a backlog worked off by each kind of handler; partitions-…, keys-…, backlog-…: one thing varied."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from bench.catalogue import Case
from bench.processes import Plan, Record, copied, folder
from bench.rounds import case, in_turns, line, middle
from bench.workload import Shape

ROUNDS = 5
ROUNDS_VARIED = 3
EVENTS = 100_000
BACKLOG = {"ours": "log.db", "twins": "by_hand_log.db"}


def consume(name: str, rounds: int, shape: Shape, events: int, goal: str, plan: Plan) -> Record:
    """Both sides handle copies of the same backlog, in turns."""
    given = {"events": plan.of(events, 600), "shape": vars(shape)}
    twin = "twins.waiting:handles" if shape.handler == "waits" else "twins.consuming:handles"
    with folder() as base:
        built = {who: plan.run(f"{who}.consuming:backlog", folder=base, **given) for who in BACKLOG}

        def once(who: str, function: str) -> Record:
            with copied(base, BACKLOG[who]) as fresh:
                found: Record = plan.run(function, folder=fresh, **given)
                return found

        mine, theirs = in_turns(
            plan.turns(rounds), partial(once, "ours", "ours.consuming:handles"), partial(once, "twins", twin)
        )
    share = middle(mine, "cpu_us") - middle(theirs, "cpu_us")
    return case(
        [line(name, mine, theirs, goal=goal)],
        events=given["events"],
        bytes_of_an_event=built["twins"]["bytes"],
        own_share_us=round(share, 2),
    )


def waiting_events(name: str, events: int, rounds: int, plan: Plan) -> Record:
    """A long backlog, worked off in full: rates, and memory on the way. Without copies: it is large."""
    given: dict[str, Any] = {"events": plan.of(events, 2000), "shape": vars(Shape())}
    built: dict[str, Record] = {}

    def once(who: str) -> Record:
        with folder() as place:
            built[who] = plan.run(f"{who}.consuming:backlog", folder=place, **given)
            found: Record = plan.run(f"{who}.consuming:handles", folder=place, **given)
            return found

    mine, theirs = in_turns(plan.turns(rounds), partial(once, "ours"), partial(once, "twins"))
    return case(
        [line(name, mine, theirs), memory_line(name, mine, theirs)],
        events=given["events"],
        built_per_second={who: round(record["rate"]) for who, record in built.items()},
        memory_on_the_way=mine[0]["noted"],
        growth_mib=round(growth(mine[0]["noted"]), 1),
    )


def memory_line(name: str, mine: list[Record], theirs: list[Record]) -> Record:
    memory = line(f"{name}: memory at most", mine, theirs, figure="memory", unit="MiB")
    for side in (memory["ours"], memory["twin"]):
        del side["cpu_us"], side["memory"]
    del memory["cpu_ratio"]
    return memory


def growth(noted: list[float]) -> float:
    """How much more memory the last third of the way took than the one before it."""
    third = max(1, len(noted) // 3)
    return statistics.mean(noted[-third:]) - statistics.mean(noted[third : 2 * third] or noted)


def cases() -> list[Case]:
    kinds = [
        ("consume-transactional", "a handler with two writes", Shape(), EVENTS, "ratio >= 0.6"),
        ("consume-empty", "a transactional handler that does nothing", Shape(handler="empty"), EVENTS, ""),
        ("consume-batch", "a handler of lists of 1,000", Shape(handler="batch", keys=10_000), EVENTS, ""),
        ("consume-waiting", "a handler that waits 1 ms, concurrency=100", Shape(handler="waits"), 20_000,
         "ratio >= 0.8"),
        ("consume-publish-on", "a handler with one write that publishes on", Shape(handler="publishes-on"), 30_000, ""),
    ]  # fmt: skip
    varied = [
        ("partitions-1", "1 partition", Shape(partitions=1), EVENTS),
        ("partitions-8", "8 partitions", Shape(partitions=8), EVENTS),
        ("partitions-64", "64 partitions", Shape(partitions=64), EVENTS),
        ("keys-10", "10 keys", Shape(keys=10), EVENTS),
        ("keys-100000", "100,000 keys", Shape(keys=100_000), EVENTS),
        ("backlog-10k", "a backlog of 10,000", Shape(), 10_000),
    ]
    return [
        *(Case(name, "consume", what, partial(consume, what, ROUNDS, *rest)) for name, what, *rest in kinds),
        *(Case(name, "flat", what, partial(consume, what, ROUNDS_VARIED, *rest, "")) for name, what, *rest in varied),
        Case("backlog-1m", "flat", "a backlog of 1 million",
             partial(waiting_events, "a backlog of 1 million", 1_000_000, 1)),
        Case("backlog-5m", "flat", "a backlog of 5 million",
             partial(waiting_events, "a backlog of 5 million", 5_000_000, 1), apart=True),
    ]  # fmt: skip
