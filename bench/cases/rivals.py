"""rival-…: publish, then handle with one durable effect in SQLite per event; each rival on its own ground."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

from bench.catalogue import Case, LeftOut
from bench.processes import Plan, Record, folder
from bench.rivals.redis_server import redis_server
from bench.rounds import case, in_turns, line, middle

ROUNDS = 3
EVENTS = 3000
FASTSTREAM, HUEY = ("faststream", "redis"), ("huey", "redis")


def needs(packages: tuple[str, ...]) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise LeftOut(f"{', '.join(missing)}: not installed (`make bench` installs what it needs)")


@contextmanager
def server(*, wanted: bool) -> Iterator[dict[str, int]]:
    if wanted:
        with redis_server() as (port, pid):
            yield {"port": port, "pid": pid}
    else:
        yield {}


def beside(
    name: str,
    packages: tuple[str, ...],
    rival: str,
    at_once: int,
    more: dict[str, Any],
    plan: Plan,
) -> Record:
    """`rival` is a function of bench.rivals; ours does the same in the same way, on its own files."""
    needs(packages)
    events = plan.of(EVENTS, 60)
    phased = not rival.endswith(":memory")
    ours = "ours.beside_rivals:in_phases" if phased else "ours.beside_rivals:together"
    asks_at_once = {} if rival.startswith("huey") else {"at_once": at_once}

    def once(function: str, given: dict[str, Any]) -> Record:
        with folder() as place:
            found: Record = plan.run(function, folder=place, events=events, **given)
            return found

    with server(wanted=rival.endswith(":redis")) as place:
        theirs = {**asks_at_once, **more, **place}
        mine, other = in_turns(
            plan.turns(ROUNDS), partial(once, ours, {"at_once": at_once}), partial(once, f"rivals.{rival}", theirs)
        )
    found: dict[str, Any] = {
        part: {"ours": round(middle(mine, part)), "rival": round(middle(other, part))}
        for part in ("published_per_second", "handled_per_second")
        if phased
    }
    if "server_cpu_us" in other[0]:
        found["server_cpu_us"] = round(middle(other, "server_cpu_us"), 1)
    how = f"{at_once} publishes at once" if at_once > 1 else "one publish at a time"
    return case([line(how, mine, other, beside=name)], events=events, **found)


def cases() -> list[Case]:
    rows: list[tuple[str, str, tuple[str, ...], str, int, dict[str, Any]]] = [
        ("rival-faststream-memory", "FastStream in memory", FASTSTREAM, "fast_stream:memory", 100, {}),
        ("rival-faststream-redis", "FastStream on Redis streams", FASTSTREAM, "fast_stream:redis", 100,
         {"lists": False}),
        ("rival-faststream-lists", "FastStream on Redis streams, a handler of lists", FASTSTREAM, "fast_stream:redis",
         100, {"lists": True}),
        ("rival-huey-sqlite", "huey on SQLite", HUEY, "huey_queue:sqlite", 1, {}),
        ("rival-huey-redis", "huey on Redis", HUEY, "huey_queue:redis", 1, {}),
    ]  # fmt: skip
    return [Case(name, "rival", f"beside {what}", partial(beside, what, *rest)) for name, what, *rest in rows]
