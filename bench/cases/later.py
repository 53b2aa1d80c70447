"""Events that wait until they are due: others are not slower for a million of them, and they are not late."""

from __future__ import annotations

from functools import partial

from bench.catalogue import Case
from bench.processes import Plan, Record, folder
from bench.rounds import case, in_turns, line

MILLION = 1_000_000
LATE = "<= 100 ms"


def _measured(plan: Plan, function: str, **given: object) -> Record:
    with folder() as place:
        found: Record = plan.run(f"ours.later:{function}", folder=place, **given)
        return found


def others(plan: Plan) -> Record:
    events = plan.of(100_000, 200)

    def once(waiting: int) -> Record:
        return _measured(plan, "others", waiting=waiting, events=events)

    mine, theirs = in_turns(plan.turns(3), partial(once, plan.of(MILLION, 500)), partial(once, 0))
    beside = "none waiting"
    return case([
        line("in transactions, to the effect, a million waiting", mine, theirs, goal=">= 0.9 of none", beside=beside),
        line("what `schedules list` reads", mine, theirs, figure="list_ms", unit="ms", beside=beside),
    ], events=events)  # fmt: skip


def late(plan: Plan) -> Record:
    """From the due time to the begin of the handler, with 100,000 others waiting."""
    given: Record = {"waiting": plan.of(100_000, 100), "events": plan.of(200, 5)}
    rest, load = in_turns(
        plan.turns(3),
        partial(_measured, plan, "lateness", load=False, **given),
        partial(_measured, plan, "lateness", load=True, **given),
    )
    given["events"] = plan.of(5000, 20)
    due, now = in_turns(
        plan.turns(3),
        partial(_measured, plan, "same_moment", later=True, **given),
        partial(_measured, plan, "same_moment", later=False, **given),
    )
    beside = "a bare timer of the same loop"
    return case([
        *(
            line(f"{when}, {name}", found, [each["timer"] for each in found], figure=figure, unit="ms", goal=goal,
                 beside=beside)
            for when, found in (("at rest", rest), ("under load", load))
            for name, figure, goal in (("p50", "p50_ms", ""), ("p99", "p99_ms", LATE), ("the latest", "max_ms", ""))
        ),
        line("5,000 in the same moment, p50", due, now, figure="p50_ms", unit="ms", beside="published then"),
        line("5,000 in the same moment, the last", due, now, figure="max_ms", unit="ms", beside="published then"),
    ])  # fmt: skip


def cases() -> list[Case]:
    return [
        Case("due-others", "later", "publishing and handling while a million events wait for their time", others),
        Case("due-late", "later", "from the due time of an event to its handler, 100,000 waiting", late),
    ]
