"""publish-…: one at a time, many at once, in lists; transaction-…: a row and an event in one commit."""

from __future__ import annotations

from functools import partial

from bench.catalogue import Case
from bench.processes import Plan, Record, folder
from bench.rounds import case, in_turns, line, middle

ROUNDS = 5


def publish(name: str, at_once: int, events: int, way: str, goal: str, plan: Plan) -> Record:
    given = {"events": plan.of(events, 2 * at_once), "at_once": at_once, "way": way}
    return _beside(name, "publishing:publishes", given, goal, plan)


def transaction(name: str, at_once: int, events: int, plan: Plan) -> Record:
    given = {"events": plan.of(events, max(20, at_once)), "at_once": at_once}
    return _beside(name, "publishing:transacts", given, "", plan)


def _beside(name: str, function: str, given: dict[str, object], goal: str, plan: Plan) -> Record:
    def once(who: str) -> Record:
        with folder() as place:
            found: Record = plan.run(f"{who}.{function}", folder=place, **given)
            return found

    mine, theirs = in_turns(plan.turns(ROUNDS), partial(once, "ours"), partial(once, "twins"))
    more = {}
    if "committed_rate" in mine[0]:
        more = {
            "committed_per_second": {
                "ours": round(middle(mine, "committed_rate")),
                "twin": round(middle(theirs, "committed_rate")),
            }
        }
    return case([line(name, mine, theirs, goal=goal)], events=given["events"], **more)


def cases() -> list[Case]:
    direct = [
        ("publish-one", "app.publish, one at a time", 1, 1000, "each", ""),
        ("publish-100", "app.publish, 100 at once", 100, 20_000, "each", ""),
        ("publish-1000", "app.publish, 1,000 at once", 1000, 30_000, "each", "ratio >= 0.7"),
        ("publish-list", "app.publish, lists of 1,000", 1000, 100_000, "lists", ""),
    ]
    inside = [
        ("transaction-one", "app.transaction, one at a time", 1, 500),
        ("transaction-100", "app.transaction, 100 at once", 100, 5_000),
        ("transaction-1000", "app.transaction, 1,000 at once", 1000, 5_000),
    ]
    return [
        *(Case(name, "publish", what, partial(publish, what, *rest)) for name, what, *rest in direct),
        *(Case(name, "publish", what, partial(transaction, what, *rest)) for name, what, *rest in inside),
    ]
