"""kafka-… and postgres-…: latency between two processes, one worker and two, and at rest."""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.cases.brokers import TITLES
from bench.catalogue import Case
from bench.processes import Plan, Record, folder, result, start
from bench.rounds import case, in_turns, line, middle
from bench.servers import servers
from bench.workload import Shape

SIDES = {"ours": "ours.flow", "twins": "twins.servers_flow"}
WORKERS = {"ours": "ours.workers:works", "twins": "twins.workers:works"}
LIMIT_EVENTS = 5_000
SECONDS = 4.0
PARTITIONS = 8


def latency(engine: str, plan: Plan) -> Record:
    """Both sides get the same arrivals: a tenth of what ours takes of single events."""
    seeds = {who: iter(range(100)) for who in SIDES}
    with servers(plan, engine, "postgres") as place:

        def flowing(who: str, events: int, per_second: float) -> Record:
            places = getattr(place, who)(engine, place.fresh(), place.fresh())
            with folder() as files:
                plan.run(f"{SIDES[who]}:declares", folder=files, places=places)
                given = {"folder": files, "places": places, "events": events}
                consumer = start(f"{SIDES[who]}:effects", **given)
                producer = start(f"{SIDES[who]}:publishes", **given, per_second=per_second, seed=next(seeds[who]))
                try:
                    result(producer, 120.0)
                    found: Record = result(consumer, 120.0)
                    return found
                finally:
                    for process in (producer, consumer):
                        process.kill()
                        process.wait()

        limit = 500.0 if plan.quick else flowing("ours", LIMIT_EVENTS, 0)["rate"]
        rate = plan.of(round(limit / 10), 400)
        events = plan.of(int(SECONDS * rate), 40)
        mine, theirs = in_turns(
            plan.turns(3), partial(flowing, "ours", events, rate), partial(flowing, "twins", events, rate)
        )
    lines = [
        line(f"{TITLES[engine]}: publish to effect, {name}", mine, theirs, figure=figure, unit="ms", goal=goal)
        for name, figure, goal in (("p99", "p99_ms", "ratio >= 0.67"), ("p50", "p50_ms", ""))
    ]
    return case(lines, limit_per_second=round(limit), per_second=rate, events=events)


def workers(engine: str, plan: Plan) -> Record:
    """What all workers of a group handle together, while each has its share of 8 partitions; and the same by hand."""
    shape = vars(Shape(partitions=PARTITIONS, handler="two-writes"))
    events, seconds = plan.of(200_000, 20_000), 0.5 if plan.quick else 1.5
    with servers(plan, engine, "postgres") as place:
        logs = {who: place.fresh() for who in WORKERS}
        with folder() as files:
            given = {"events": events, "shape": shape}
            plan.run("ours.consuming:backlog", folder=files, **given, places=place.ours(engine, logs["ours"]))
        plan.run("twins.workers:backlog", folder="", **given, places=place.twins(engine, logs["twins"]))

        def working(who: str, count: int) -> Record:
            places = getattr(place, who)(engine, logs[who], place.fresh())
            if who == "twins":
                plan.run("twins.postgres:make_effects", places=places, partitions=PARTITIONS)
            with folder() as own:
                return _all(WORKERS[who], count, folder=own, seconds=seconds, shape=shape, places=places)

        sides = [partial(working, who, count) for who in WORKERS for count in (2, 1)]
        two, one, theirs_two, theirs_one = in_turns(plan.turns(2), *sides)
    name = f"{TITLES[engine]}: two writes handed over, 8 partitions, 2 workers"
    goal = ">= 1.5 of one, where there are cores for both and the servers"
    lines = [
        {**line(name, two, one, goal=goal, beside="1 worker"), "cores": _cores(two, one)},
        {**line(f"{name}, by hand", theirs_two, theirs_one, beside="1 worker by hand"),
         "cores": _cores(theirs_two, theirs_one)},
    ]  # fmt: skip
    return case(lines, busy=all(each["busy"] for each in (*two, *one, *theirs_two, *theirs_one)))


def _all(function: str, count: int, **given: Any) -> Record:
    """What so many workers did together."""
    started = [start(function, number=number, workers=count, **given) for number in range(count)]
    try:
        found = [result(each, 120.0) for each in started]
    finally:
        for each in started:
            each.kill()
            each.wait()
    total = sum(each["events"] for each in found)
    cpu = sum(each["cpu_us"] * each["events"] for each in found)
    return {**found[0], "rate": sum(each["rate"] for each in found), "cpu_us": cpu / max(1, total),
            "own_cores": cpu / 1e6 / found[0]["seconds"], "busy": all(each["busy"] for each in found)}  # fmt: skip


def _cores(*sides: list[Record]) -> list[list[float]]:
    """Of each side: how many cores the machine was using, and of these the workers."""
    return [[round(middle(side, name), 2) for name in ("cores", "own_cores")] for side in sides]


def idle(engine: str, plan: Plan) -> Record:
    with servers(plan, engine, "postgres") as place:

        def once() -> Record:
            with folder() as files:
                places = place.ours(engine, place.fresh(), place.fresh())
                found: Record = plan.run(
                    "ours.flow:idles", folder=files, seconds=0.3 if plan.quick else 5.0, places=places
                )
                return found

        found = [once() for _ in range(plan.turns(2))]
    return case([line(f"{TITLES[engine]}: idle, of one core", found, figure="percent", unit="%", goal="<= 1 %")])


def cases() -> list[Case]:
    found = []
    for engine, title in TITLES.items():
        found += [
            Case(f"{engine}-latency", "broker", f"{title}: from publish to effect, at a tenth of the limit",
                 partial(latency, engine)),
            Case(f"{engine}-workers", "broker", f"{title}: 8 partitions, two workers beside one",
                 partial(workers, engine)),
            Case(f"{engine}-idle", "broker", f"{title}: CPU of an app with nothing to do", partial(idle, engine)),
        ]  # fmt: skip
    return found
