"""parked-…: a parking lot beside the healthy, and its redrive. What stands beside is ours without one."""

from __future__ import annotations

from functools import partial

from bench.catalogue import Case
from bench.processes import Plan, Record, copied, folder
from bench.rounds import case, in_turns, line, middle
from bench.workload import Shape

ROUNDS = 5
FILES = ("log.db", "billing.db")
WITHOUT = "nothing parked"


def beside(name: str, events: int, parked: int, keys: int, shape: Shape, goal: str, plan: Plan) -> Record:
    """The same backlog with so many events of so many keys parked, and without: rate, start-up and memory."""
    given = {"events": plan.of(events, 600), "shape": vars(shape)}
    lot = {"events": plan.of(parked, 200), "keys": plan.of(keys, 20), "shape": vars(shape)}
    with folder() as empty, folder() as full:
        for place in (empty, full):
            plan.run("ours.consuming:backlog", folder=place, **given)
        plan.run("ours.parked:lot", folder=full, **lot)

        def once(place: str) -> Record:
            with copied(place, *FILES) as fresh:
                found: Record = plan.run("ours.parked:handles", folder=fresh, **given)
                return found

        mine, theirs = in_turns(plan.turns(ROUNDS), partial(once, full), partial(once, empty))
    lines = [line(name, mine, theirs, goal=goal, beside=WITHOUT)]
    for what, figure, unit in (("start-up", "ms", "ms"), ("memory at the start", "mib", "MiB")):
        lines.append(line(f"{name}: {what}", mine, theirs, figure=figure, unit=unit, beside=WITHOUT))
    return case(lines, events=given["events"], parked=lot["events"], behind=middle(mine, "behind"))


def redrive(name: str, events: int, keys: int, shape: Shape, goal: str, plan: Plan) -> Record:
    """A redrive of all that is parked, beside the same number of events from a log."""
    given = {"events": plan.of(events, 600), "shape": vars(shape)}
    lot = {**given, "keys": plan.of(keys, 20)}
    with folder() as log, folder() as full:
        plan.run("ours.consuming:backlog", folder=log, **given)
        plan.run("ours.parked:lot", folder=full, **lot)

        def redriven() -> Record:
            with copied(full, *FILES) as fresh:
                found: Record = plan.run("ours.parked:redrives", folder=fresh, **lot)
                return found

        def handled() -> Record:
            with copied(log, *FILES) as fresh:
                found: Record = plan.run("ours.consuming:handles", folder=fresh, **given)
                return found

        mine, theirs = in_turns(plan.turns(ROUNDS), redriven, handled)
    return case([line(name, mine, theirs, goal=goal, beside="from the log")], **lot)


def cases() -> list[Case]:
    lot = "100,000 parked events of 1 % of the keys"
    return [
        Case("parked-transactional", "parked", f"{lot}, a handler with two writes",
             partial(beside, lot, 100_000, 100_000, 50, Shape(), "ratio >= 0.9")),
        Case("parked-waiting", "parked", f"{lot}, a handler that waits 1 ms, concurrency=100",
             partial(beside, lot, 20_000, 100_000, 50, Shape(handler="waits"), "ratio >= 0.9")),
        Case("parked-redrive", "parked", "redrive of 100,000 parked events of 1,000 keys",
             partial(redrive, "redrive of 100,000 of 1,000 keys", 100_000, 1000, Shape(handler="timed"),
                     ">= 5,000 events/s")),
        Case("parked-1m", "parked", "a million parked keys",
             partial(beside, "a million parked keys", 50_000, 999_000, 999_000,
                     Shape(keys=100_000_000), ""), apart=True),
    ]  # fmt: skip
