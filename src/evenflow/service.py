"""A service: a name, a store of its own, handlers. Making one does no I/O and reads no settings."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from evenflow.errors import DefinitionError
from evenflow.event import spec_of
from evenflow.handler import HandlerSpec, Options, Start, inspect_handler, location
from evenflow.ids import NAME_RULE, is_name
from evenflow.policy import Policy

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

    def _folder(self, path: Path) -> Path:
        beside = Path(self.where.rpartition(":")[0]).parent / path
        return path if path.is_absolute() or path.exists() or not beside.exists() else beside

    # fmt: off
    @overload
    def on(self, event: type[E1], /, *, group: str, concurrency: int | None = ..., policy: Policy | None = ...,
           start: Start | None = ..., cpu: bool = ...,
           ) -> Callable[[Callable[Concatenate[E1, P], R]], Callable[Concatenate[E1, P], R]]: ...
    @overload
    def on(self, event: type[E1], second: type[E2], /, *, group: str, concurrency: int | None = ...,
           policy: Policy | None = ..., start: Start | None = ..., cpu: bool = ...,
           ) -> Callable[[Callable[Concatenate[E1 | E2, P], R]], Callable[Concatenate[E1 | E2, P], R]]: ...
    @overload
    def on(self, event: type[E1], second: type[E2], third: type[E3], /, *, group: str,
           concurrency: int | None = ..., policy: Policy | None = ..., start: Start | None = ..., cpu: bool = ...,
           ) -> Callable[[Callable[Concatenate[E1 | E2 | E3, P], R]], Callable[Concatenate[E1 | E2 | E3, P], R]]: ...
    @overload
    def on(self, event: type[E1], second: type[E2], third: type[E3], fourth: type[E4], /, *, group: str,
           concurrency: int | None = ..., policy: Policy | None = ..., start: Start | None = ..., cpu: bool = ...,
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
    ) -> Callable[[F], F]:
        """Run the function for each of these events, in the lasting group "service.group".

        With a `Transaction` parameter it is transactional: effects once, many events per commit. Without, or with
        `concurrency` (how many events of different keys it works on at a time; default 10), it waits on the outside
        and is at-least-once. A plain `def` runs in a thread; with `cpu=True` in another process. `start` says where
        a new group begins on a topic that already holds events: "beginning" or "end".
        """
        options = Options(group=group, concurrency=concurrency, policy=policy, start=start, cpu=cpu)
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
        for function, events, options in self._declared:
            try:
                spec = self._read(function, events, options)
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

    def __repr__(self) -> str:
        return f"Service({self.name!r})"
