"""kafka-… and postgres-…: the engines with a server, beside their clients used by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.cases.consuming import growth, memory_line
from bench.catalogue import Case
from bench.processes import Plan, Record, folder
from bench.rounds import case, in_turns, line, middle
from bench.servers import servers
from bench.workload import Shape

ROUNDS = 3


def publish(engine: str, name: str, at_once: int, events: int, way: str, goal: str, plan: Plan) -> Record:
    given: dict[str, Any] = {"events": plan.of(events, 2 * at_once), "at_once": at_once, "way": way}
    with servers(plan, engine) as place:

        def ours() -> Record:
            with folder() as files:
                return _run(
                    plan, "ours.publishing:publishes", folder=files, **given, places=place.ours(engine, place.fresh())
                )

        def twin() -> Record:
            return _run(
                plan, f"twins.{engine}:publishes", folder="", **given, places=place.twins(engine, place.fresh())
            )

        mine, theirs = in_turns(plan.turns(ROUNDS), ours, twin)
    return _beside(name, mine, theirs, goal, given["events"])


def consume(engine: str, name: str, shape: Shape, events: int, goal: str, plan: Plan) -> Record:
    """Both sides have a backlog of their own, and handle it again and again from the beginning."""
    given: dict[str, Any] = {"events": plan.of(events, 600), "shape": vars(shape)}
    function = TWINS.get(shape.handler, f"twins.{engine}:handles")
    kept = shape.handler in TWINS or engine == "kafka"  # a queue in a table is empty once it was handled
    with servers(plan, engine, "postgres") as place:
        log, theirs_log = place.fresh(), place.fresh()
        with folder() as files:
            _run(plan, "ours.consuming:backlog", folder=files, **given, places=place.ours(engine, log))
        if kept:
            _run(plan, f"twins.{engine}:backlog", folder="", **given, places=place.twins(engine, theirs_log))

        def ours() -> Record:
            with folder() as files:
                places = place.ours(engine, log, place.fresh())
                return _run(plan, "ours.consuming:handles", folder=files, **given, places=places)

        def twin() -> Record:
            places = place.twins(engine, theirs_log, place.fresh())
            if not kept:
                _run(plan, f"twins.{engine}:backlog", folder="", **given, places=places)
            return _run(plan, function, folder="", **given, places=places)

        mine, theirs = in_turns(plan.turns(ROUNDS), ours, twin)
    return _beside(name, mine, theirs, goal, given["events"])


def _beside(name: str, mine: list[Record], theirs: list[Record], goal: str, events: int) -> Record:
    share = middle(mine, "cpu_us") - middle(theirs, "cpu_us")
    return case([line(name, mine, theirs, goal=goal)], events=events, own_share_us=round(share, 2))


def waiting(engine: str, name: str, events: int, plan: Plan) -> Record:
    """A long backlog, worked off in full: rates, and memory on the way."""
    given: dict[str, Any] = {"events": plan.of(events, 2000), "shape": vars(Shape(handler="empty"))}
    with servers(plan, engine, "postgres") as place, folder() as files:
        log, theirs_log = place.fresh(), place.fresh()
        places, theirs_places = place.ours(engine, log, place.fresh()), place.twins(engine, theirs_log, place.fresh())
        built = {
            "ours": _run(plan, "ours.consuming:backlog", folder=files, **given, places=place.ours(engine, log)),
            "twin": _run(plan, f"twins.{engine}:backlog", folder="", **given, places=theirs_places),
        }
        mine = [_run(plan, "ours.consuming:handles", folder=files, **given, places=places)]
        theirs = [_run(plan, f"twins.{engine}:handles", folder="", **given, places=theirs_places)]
    return case(
        [line(name, mine, theirs), memory_line(name, mine, theirs)],
        events=given["events"],
        built_per_second={who: round(record["rate"]) for who, record in built.items()},
        memory_on_the_way=mine[0]["noted"],
        growth_mib=round(growth(mine[0]["noted"]), 1),
    )


def _run(plan: Plan, function: str, **given: Any) -> Record:
    found: Record = plan.run(function, **given)
    return found


TWINS = {
    "two-writes": "twins.effects:handles",
    "two-awaited": "twins.effects:handles",
    "publishes-on": "twins.publishing_on:handles",
}
"""Twins whose effects are in PostgreSQL, by handler."""
TITLES = {"kafka": "Kafka", "postgres": "PostgreSQL"}


def cases() -> list[Case]:
    ways = [
        ("publish-one", "one at a time", 1, 500, "each", ""),
        ("publish-100", "100 at once", 100, 20_000, "each", ""),
        ("publish-500", "500 at once", 500, 50_000, "each", "ratio >= 0.7"),
        ("publish-list", "lists of 1,000", 1000, 100_000, "lists", "ratio >= 0.6"),
    ]
    handlers = [
        ("consume", "a handler without effect", "empty", 100_000, "ratio >= 0.5"),
        ("consume-plain", "a handler without transaction", "plain", 50_000, ""),
        ("effects", "two writes handed over", "two-writes", 50_000, "ratio >= 0.6"),
        ("effects-awaited", "two writes awaited", "two-awaited", 5_000, ""),
        ("publish-on", "one write, and an event published on", "publishes-on", 20_000, ""),
    ]
    found = []
    for engine, title in TITLES.items():
        for name, what, *rest in ways:
            what = f"{title}: publish {what}"
            found.append(Case(f"{engine}-{name}", "broker", what, partial(publish, engine, what, *rest)))
        for name, what, handler, events, goal in handlers:
            what = f"{title}: {what}"
            measure = partial(consume, engine, what, Shape(handler=handler), events, goal)
            found.append(Case(f"{engine}-{name}", "broker", what, measure))
        what = f"{title}: a backlog of 1 million"
        found.append(Case(f"{engine}-1m", "broker", what, partial(waiting, engine, what, 1_000_000)))
    return found
