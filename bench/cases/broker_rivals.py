"""rival-kafka-…: FastStream on Kafka, message by message, beside ours on either engine."""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.cases.brokers import TITLES
from bench.cases.rivals import needs
from bench.catalogue import Case
from bench.processes import Plan, Record, folder
from bench.rounds import case, in_turns, line
from bench.servers import servers
from bench.workload import Shape

PACKAGES = ("faststream", "confluent_kafka", "asyncpg")
ROUNDS = 3
RIVAL = "FastStream on Kafka"


def publishes(at_once: int, events: int, goal: str, plan: Plan) -> Record:
    needs(PACKAGES)
    given = {"events": plan.of(events, at_once), "at_once": at_once}
    with servers("kafka") as place:

        def ours() -> Record:
            with folder() as files:
                places = place.ours("kafka", place.fresh())
                found: Record = plan.run("ours.publishing:publishes", folder=files, **given, way="each", places=places)
                return found

        def rival() -> Record:
            found: Record = plan.run(
                "rivals.fast_stream_kafka:publishes", folder="", **given, places=place.twins("kafka", place.fresh())
            )
            return found

        mine, theirs = in_turns(plan.turns(ROUNDS), ours, rival)
    return case([line(f"publish {at_once} at once", mine, theirs, goal=goal, beside=RIVAL)], **given)


def handles(engine: str, handler: str, events: int, theirs: int, goal: str, plan: Plan) -> Record:
    """Each side has as many events as it needs for a second or two."""
    needs(PACKAGES)
    shape = vars(Shape(handler=handler))
    given: dict[str, Any] = {"events": plan.of(events, 600), "shape": shape}
    few = plan.of(theirs, 100)
    with servers("kafka", "postgres") as place:
        log, other = place.fresh(), place.fresh()
        with folder() as files:
            plan.run("ours.consuming:backlog", folder=files, **given, places=place.ours(engine, log))
        plan.run("twins.kafka:backlog", folder="", events=few, shape=shape, places=place.twins("kafka", other))

        def ours() -> Record:
            with folder() as files:
                places = place.ours(engine, log, place.fresh())
                found: Record = plan.run("ours.consuming:handles", folder=files, **given, places=places)
                return found

        def rival() -> Record:
            places, effects = place.twins("kafka", other, place.fresh()), handler != "empty"
            found: Record = plan.run(
                "rivals.fast_stream_kafka:handles", folder="", events=few, effects=effects, places=places
            )
            return found

        mine, found = in_turns(plan.turns(ROUNDS), ours, rival)
    name = {"empty": "no effect", "two-writes": "two writes handed over", "two-awaited": "two writes awaited"}[handler]
    beside = RIVAL if handler == "empty" else f"{RIVAL}, a transaction per message"
    return case([line(f"{TITLES[engine]}: {name}", mine, found, goal=goal, beside=beside)], events=events)


def cases() -> list[Case]:
    rows: list[tuple[str, str, Any]] = [
        ("rival-kafka-publish", "FastStream: publish 500 at once", partial(publishes, 500, 20_000, "ratio >= 3")),
        ("rival-kafka-consume", "FastStream: no effect",
         partial(handles, "kafka", "empty", 100_000, 10_000, "ratio >= 10")),
        *((f"rival-{engine}-{name}", f"FastStream: effects in PostgreSQL; ours on {title}, {handler}",
           partial(handles, engine, handler, events, 1000, goal))
          for engine, title in TITLES.items()
          for name, handler, events, goal in (("effects", "two-writes", 40_000, "ratio >= 40"),
                                              ("awaited", "two-awaited", 4000, "ratio >= 6"))),
    ]  # fmt: skip
    return [Case(name, "rival", f"beside {what}", measure) for name, what, measure in rows]
