"""rival-kafka-…: FastStream on Kafka with both of its clients, message by message, beside ours on either engine."""

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

PACKAGES = ("faststream", "confluent_kafka", "aiokafka", "asyncpg")
ROUNDS = 2
RIVALS = {"confluent": "FastStream on Kafka (confluent-kafka)", "aiokafka": "FastStream on Kafka (aiokafka)"}
HANDLERS = {
    "empty": "no effect",
    "two-writes": "two writes handed over",
    "two-awaited": "two writes awaited",
    "publishes-on": "one write, and an event published on",
}


def publishes(at_once: int, events: int, goal: str, plan: Plan) -> Record:
    needs(PACKAGES)
    given = {"events": plan.of(events, at_once), "at_once": at_once}
    with servers(plan, "kafka") as place:

        def ours() -> Record:
            with folder() as files:
                places = place.ours("kafka", place.fresh())
                found: Record = plan.run("ours.publishing:publishes", folder=files, **given, way="each", places=places)
                return found

        def rival(client: str) -> Record:
            places = place.twins("kafka", place.fresh())
            found: Record = plan.run(
                "rivals.fast_stream_kafka:publishes", folder="", **given, client=client, places=places
            )
            return found

        found = in_turns(plan.turns(ROUNDS), ours, *(partial(rival, client) for client in RIVALS))
    return case(_lines(f"publish {at_once} at once", found, goal), **given)


def _lines(name: str, found: list[list[Record]], goal: str, way: str = "") -> list[Record]:
    """Ours beside each of its clients; the better one first, which has the verdict."""
    mine, *others = found
    beside = zip(RIVALS.values(), others, strict=True)
    lines = [line(name, mine, theirs, goal=goal, beside=f"{rival}{way}") for rival, theirs in beside]
    return sorted(lines, key=lambda each: float(each["ratio"]))


def handles(handler: str, events: dict[str, int], theirs: int, goal: str, plan: Plan) -> Record:
    """Ours on these engines, with so many events, beside each client: each side works for a second or two."""
    needs(PACKAGES)
    shape = vars(Shape(handler=handler))
    given: dict[str, dict[str, Any]] = {
        engine: {"events": plan.of(count, 600), "shape": shape} for engine, count in events.items()
    }
    few = plan.of(theirs, 100)
    with servers(plan, "kafka", "postgres") as place:
        logs, other = {engine: place.fresh() for engine in events}, place.fresh()
        for engine, log in logs.items():
            with folder() as files:
                plan.run("ours.consuming:backlog", folder=files, **given[engine], places=place.ours(engine, log))
        plan.run("twins.kafka:backlog", folder="", events=few, shape=shape, places=place.twins("kafka", other))

        def ours(engine: str) -> Record:
            with folder() as files:
                places = place.ours(engine, logs[engine], place.fresh())
                found: Record = plan.run("ours.consuming:handles", folder=files, **given[engine], places=places)
                return found

        def rival(client: str) -> Record:
            places = place.twins("kafka", other, place.fresh())
            found: Record = plan.run(
                "rivals.fast_stream_kafka:handles", folder="", events=few, handler=handler, client=client, places=places
            )
            return found

        sides = [*(partial(ours, engine) for engine in events), *(partial(rival, client) for client in RIVALS)]
        found = in_turns(plan.turns(ROUNDS), *sides)
    way = "" if handler == "empty" else ", a transaction per message"
    others = found[len(events) :]
    lines = [
        _lines(f"{TITLES[engine]}: {HANDLERS[handler]}", [mine, *others], goal, way)
        for engine, mine in zip(events, found, strict=False)
    ]
    return case([each for some in lines for each in some], events=events)


def cases() -> list[Case]:
    rows: list[tuple[str, str, Any]] = [
        ("publish", "publish 500 at once", partial(publishes, 500, 20_000, "ratio >= 3")),
        ("consume", "no effect", partial(handles, "empty", {"kafka": 100_000}, 10_000, "ratio >= 10")),
        ("effects", "two writes handed over, effects in PostgreSQL",
         partial(handles, "two-writes", {"kafka": 40_000, "postgres": 40_000}, 1000, "ratio >= 40")),
        ("awaited", "two writes awaited, effects in PostgreSQL",
         partial(handles, "two-awaited", {"kafka": 4000, "postgres": 4000}, 1000, "ratio >= 6")),
        ("publish-on", "one write, and an event published on",
         partial(handles, "publishes-on", {"kafka": 20_000, "postgres": 20_000}, 1000, "")),
    ]  # fmt: skip
    return [Case(f"rival-kafka-{name}", "rival", f"beside FastStream on Kafka: {what}", made)
            for name, what, made in rows]  # fmt: skip
