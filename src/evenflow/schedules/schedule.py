"""Schedules: what `@service.cron` and `@service.every` declare. A run is an event, its handler an ordinary group."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal

from evenflow.errors import DefinitionError
from evenflow.event import MARK, Event, EventMeta
from evenflow.ids import NAME_LIMIT, NAME_RULE, is_name
from evenflow.policy import Policy
from evenflow.schedules.recurrence import LONGEST, SHORTEST, Recurrence, flaw_of_line, flaw_of_zone
from evenflow.topic import Topic

Missed = Literal["one", "all", "none"]

MISSED: tuple[Missed, ...] = ("one", "all", "none")
TYPE = "evenflow.due"
TOPIC = "evenflow.schedules"
KEPT = 30 * 86400.0
"""Seconds that runs are kept in their topic."""


class Due(Event):
    """One run of a schedule.

    name    of the schedule
    due     when it was due, in the zone of the schedule; of a manual run when it was asked for
    missed  due times before this one that have had no run of their own, at most 1000
    manual  whether a person has asked for this run: `evenflow schedules run`
    """

    name: str
    due: datetime
    missed: int = 0
    manual: bool = False

    def __eq__(self, other: object) -> bool:
        """Runs are told apart by what they say: each schedule has a class of its own below this one."""
        return isinstance(other, Due) and self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash(self._facts())

    def _facts(self) -> tuple[object, ...]:
        return self.name, self.due, self.missed, self.manual


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What the code says about when a handler runs; see `Service.cron` and `Service.every`."""

    name: str
    recurrence: Recurrence
    missed: Missed

    @property
    def facts(self) -> tuple[str, str, float]:
        """What decides when it is due: line, zone, interval."""
        return self.recurrence.line, self.recurrence.tz, self.recurrence.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the decorator was given, right or wrong. `line` is None for an interval."""

    name: Any
    line: Any
    tz: Any
    seconds: Any
    missed: Any
    policy: Policy | None

    def read(self, service: str, where: str) -> Schedule:
        """Raises `DefinitionError` with the place, for the first thing that is wrong."""

        def wrong(message: str, remedy: str) -> DefinitionError:
            return DefinitionError(f"schedule {self.name!r} {message}", where=where, remedy=remedy)

        if not isinstance(self.name, str) or not is_name(self.name):
            raise wrong("has a name that cannot be used", f"use {NAME_RULE}")
        if len(type_of(service, self.name)) > NAME_LIMIT:
            longest = NAME_LIMIT - len(type_of(service, ""))
            raise wrong("has too long a name", f"use at most {longest} characters in the service {service!r}")
        if self.missed not in MISSED:
            raise wrong(f"has missed={self.missed!r}", 'use "one", "all" or "none"')
        if self.line is None:
            return Schedule(name=self.name, recurrence=_interval(self.seconds, wrong), missed=self.missed)
        if not isinstance(self.line, str):
            raise wrong(f"has the line {self.line!r}", "write it as text: '0 7 * * *'")
        flaw = flaw_of_zone(self.tz)
        if flaw is not None:
            raise wrong(*flaw)
        flaw = flaw_of_line(self.line)
        if flaw is not None:
            raise wrong(f"has the line {self.line!r}, which {flaw[0]}", flaw[1])
        line = " ".join(self.line.split())
        return Schedule(name=self.name, recurrence=Recurrence(line=line, tz=self.tz), missed=self.missed)


def _interval(seconds: Any, wrong: Callable[[str, str], DefinitionError]) -> Recurrence:
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and math.isfinite(seconds)
    if not number or not SHORTEST <= seconds <= LONGEST:
        raise wrong(f"runs every {seconds!r} seconds", f"use a number of seconds, at least {SHORTEST:g}")
    return Recurrence(seconds=round(float(seconds), 3))


def type_of(service: str, name: str) -> str:
    """The wire type of a schedule's runs."""
    return f"{TYPE}.{service}.{name}"


def topic_of(service: str) -> Topic:
    """Where the runs of a service's schedules are published: made by Evenflow."""
    return Topic(f"{TOPIC}.{service}", partitions=1, retention=KEPT)


@cache
def due_event(service: str, name: str, where: str) -> type[Due]:
    """The event class of a schedule's runs. They have no key, so that one that fails holds up no later one."""
    topic = topic_of(service)
    made = EventMeta("Due", (Due,), {"__module__": __name__}, type=type_of(service, name), topic=topic)
    getattr(made, MARK).where = where
    return made  # type: ignore[return-value]  # a subclass of Due, at run time
