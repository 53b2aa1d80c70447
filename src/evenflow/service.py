"""A service: a name, a store of its own, handlers. Making one does no I/O and reads no settings."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from evenflow.errors import DefinitionError
from evenflow.event import spec_of
from evenflow.handler import HandlerSpec, Options, Start, inspect_handler, location
from evenflow.ids import NAME_RULE, is_name
from evenflow.policy import Policy
from evenflow.protection.breaker import Breaker
from evenflow.protection.limiting import Limit
from evenflow.schedules.schedule import Due, Given, Missed, due_event

P = ParamSpec("P")
R = TypeVar("R")
E1 = TypeVar("E1")
E2 = TypeVar("E2")
E3 = TypeVar("E3")
E4 = TypeVar("E4")
F = TypeVar("F", bound=Callable[..., Any])

On1 = Callable[[Callable[Concatenate[E1, P], R]], Callable[Concatenate[E1, P], R]]


class Service:
    """A name, a store of its own, and handlers.

    migrations  folder with the service's numbered `.sql` files, from the working directory or from the file that
                makes the service
    policy      what happens to failing events, unless a handler says otherwise
    """

    def __init__(self, name: str, *, migrations: str | Path | None = None, policy: Policy | None = None) -> None:
        frame = sys._getframe(1)
        self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if not is_name(name) or "." in name or name == "evenflow":
            raise DefinitionError(
                f"the service name {name!r} cannot be used",
                where=self.where,
                remedy=f"use {NAME_RULE}; no dot, and not 'evenflow'",
            )
        self.name = name
        self.policy = policy or Policy()
        self.migrations = None if migrations is None else self._folder(Path(migrations))
        self._declared: list[tuple[Callable[..., Any], tuple[type, ...], Options]] = []
        self._schedules: list[tuple[Callable[..., Any], Given]] = []

    def _folder(self, path: Path) -> Path:
        beside = Path(self.where.rpartition(":")[0]).parent / path
        return path if path.is_absolute() or path.exists() or not beside.exists() else beside

    # fmt: off
    @overload
    def on(self, event: type[E1], /, *, group: str, concurrency: int | None = ..., policy: Policy | None = ...,
           start: Start | None = ..., cpu: bool = ...,
           limit: Limit | None = ..., breaker: Breaker | None = ...,
           ) -> Callable[[Callable[Concatenate[E1, P], R]], Callable[Concatenate[E1, P], R]]: ...
    @overload
    def on(self, event: type[E1], second: type[E2], /, *, group: str, concurrency: int | None = ...,
           policy: Policy | None = ..., start: Start | None = ..., cpu: bool = ...,
           limit: Limit | None = ..., breaker: Breaker | None = ...,
           ) -> Callable[[Callable[Concatenate[E1 | E2, P], R]], Callable[Concatenate[E1 | E2, P], R]]: ...
    @overload
    def on(self, event: type[E1], second: type[E2], third: type[E3], /, *, group: str,
           concurrency: int | None = ..., policy: Policy | None = ..., start: Start | None = ..., cpu: bool = ...,
           limit: Limit | None = ..., breaker: Breaker | None = ...,
           ) -> Callable[[Callable[Concatenate[E1 | E2 | E3, P], R]], Callable[Concatenate[E1 | E2 | E3, P], R]]: ...
    @overload
    def on(self, event: type[E1], second: type[E2], third: type[E3], fourth: type[E4], /, *, group: str,
           concurrency: int | None = ..., policy: Policy | None = ..., start: Start | None = ..., cpu: bool = ...,
           limit: Limit | None = ..., breaker: Breaker | None = ...,
           ) -> Callable[[Callable[Concatenate[E1 | E2 | E3 | E4, P], R]],
                         Callable[Concatenate[E1 | E2 | E3 | E4, P], R]]: ...
    # fmt: on
    def on(
        self,
        *events: type,
        group: str,
        concurrency: int | None = None,
        policy: Policy | None = None,
        start: Start | None = None,
        cpu: bool = False,
        limit: Limit | None = None,
        breaker: Breaker | None = None,
    ) -> Callable[[F], F]:
        """Run the function for each of these events, in the lasting group "service.group".

        With a `Transaction` parameter it is transactional: effects once, many events per commit. Without, or with
        `concurrency` (how many events of different keys it works on at a time; default 10), it waits on the outside
        and is at-least-once. A plain `def` runs in a thread; with `cpu=True` in another process. `start` says where
        a new group begins on a topic that already holds events: "beginning" or "end".

        What a waiting handler calls is protected by `limit` (so many calls per second, retries included) and
        `breaker` (after so many failures the group pauses, and tries one event at a time).
        """
        options = Options(
            group=group, concurrency=concurrency, policy=policy, start=start, cpu=cpu, limit=limit, breaker=breaker
        )
        return self._register(events, options)

    def on_batch(
        self,
        event: type[E1],
        /,
        *,
        group: str,
        size: int = 500,
        policy: Policy | None = None,
        start: Start | None = None,
    ) -> Callable[[Callable[Concatenate[list[E1], P], R]], Callable[Concatenate[list[E1], P], R]]:
        """Run the function for lists of at most `size` events of one partition, each list in one transaction.

        When it fails, the list is halved until the event that fails alone is found and parked.
        """
        return self._register((event,), Options(group=group, size=size, policy=policy, start=start))

    def cron(
        self, name: str, line: str, /, *, tz: str = "UTC", missed: Missed = "one", policy: Policy | None = None
    ) -> Callable[[Callable[Concatenate[Due, P], R]], Callable[Concatenate[Due, P], R]]:
        """Run the function at the times of a cron line (minute hour day month weekday) on the clocks of a time zone.

        Once per due time, whatever number of processes: in the lasting group "service.name", by the rules of `on`, one
        run at a time. `missed`: what becomes of times at which no process ran, or the schedule was paused: "one" run
        for all of them, "all" (the last 1000 at most), or "none". Needs `evenflow[cron]`.
        """
        return self._plan(Given(name=name, line=line, tz=tz, seconds=None, missed=missed, policy=policy))

    def every(
        self, name: str, seconds: float, /, *, missed: Missed = "one", policy: Policy | None = None
    ) -> Callable[[Callable[Concatenate[Due, P], R]], Callable[Concatenate[Due, P], R]]:
        """Run the function every so many seconds, counted from the first start for ever; all else as for `cron`."""
        return self._plan(Given(name=name, line=None, tz="UTC", seconds=seconds, missed=missed, policy=policy))

    def _plan(self, given: Given) -> Callable[[F], F]:
        def register(function: F) -> F:
            self._schedules.append((function, given))
            return function

        return register

    def _register(self, events: tuple[type, ...], options: Options) -> Callable[[F], F]:
        def register(function: F) -> F:
            self._declared.append((function, events, options))
            return function

        return register

    def handlers(self) -> list[HandlerSpec]:
        """All handlers, read and checked. Raises `DefinitionError` with the line of what is wrong, and all others."""
        specs, problems = self.read()
        if problems:
            problems[0].also = tuple(problems[1:])
            raise problems[0]
        return specs

    def read(self) -> tuple[list[HandlerSpec], list[DefinitionError]]:
        """The handlers that are right, and what is wrong with the others."""
        specs: dict[str, HandlerSpec] = {}
        problems: list[DefinitionError] = []
        reads = [partial(self._read, *each) for each in self._declared]
        for read in [*reads, *(partial(self._read_schedule, *each) for each in self._schedules)]:
            try:
                spec = read()
                if spec.group in specs:
                    raise DefinitionError(
                        f"the group {spec.group!r} has two handlers, the other at {specs[spec.group].where}",
                        where=spec.where,
                        remedy="a group has one handler; give this one its own group, or one function all its events",
                    )
            except DefinitionError as error:
                problems += [error] if str(error) not in map(str, problems) else []
            else:
                specs[spec.group] = spec
        return list(specs.values()), problems

    def _read(self, function: Callable[..., Any], events: tuple[type, ...], options: Options) -> HandlerSpec:
        if not events or not all(inspect.isclass(event) for event in events):
            raise DefinitionError(
                f"handler {function.__name__!r} names no event class",
                where=location(function),
                remedy="@service.on(Event)",
            )
        topics = tuple(dict.fromkeys(spec_of(event).topic for event in events))
        return inspect_handler(self.name, function, events, topics, options, self.policy)

    def _read_schedule(self, function: Callable[..., Any], given: Given) -> HandlerSpec:
        where = location(function)
        schedule = given.read(self.name, where)
        options = Options(group=schedule.name, policy=given.policy, start="end")
        spec = self._read(function, (due_event(self.name, schedule.name, where),), options)
        return replace(spec, schedule=schedule, concurrency=1)

    def __repr__(self) -> str:
        return f"Service({self.name!r})"
