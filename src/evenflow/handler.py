"""What a handler's signature says: its kind, and where each of its parameters comes from."""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from evenflow.envelope import Envelope
from evenflow.errors import DefinitionError
from evenflow.ids import NAME_RULE, is_name
from evenflow.policy import Policy
from evenflow.protection.breaker import Breaker
from evenflow.protection.limiting import Limit
from evenflow.schedules.schedule import Schedule
from evenflow.topic import Topic
from evenflow.unit_of_work import Transaction

Start = Literal["beginning", "end"]


class Kind(enum.Enum):
    """How a group is run. It follows from the handler's signature and decorator alone."""

    CHUNK = "transactional"  # takes a tx: many events in one transaction, effects once
    BATCH = "batch"  # takes a list
    LANES = "waiting"  # no tx, or `concurrency`: each event settled by itself, keys side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One attempt to hand an event to a group: what a handler may ask for beside the event.

    id        the event's id: the same at every attempt, to be passed on as an idempotency key
    attempt   1 at the first attempt
    envelope  everything that came with the event
    """

    group: str
    attempt: int
    envelope: Envelope
    partition: int
    offset: int

    @property
    def id(self) -> str:
        return self.envelope.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the decorator was given."""

    group: str
    concurrency: int | None = None
    size: int | None = None
    policy: Policy | None = None
    start: Start | None = None
    cpu: bool = False
    limit: Limit | None = None
    breaker: Breaker | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSpec:
    """A handler as its author declared it. `group` is the full name: service, dot, group."""

    service: str
    group: str
    kind: Kind
    function: Callable[..., Any]
    events: tuple[type, ...]
    topics: tuple[Topic, ...]
    event_parameter: str
    transaction: str | None
    delivery: str | None
    dependencies: tuple[tuple[str, Any], ...]
    concurrency: int
    size: int
    policy: Policy
    start: Start | None
    blocking: bool
    cpu: bool
    where: str
    schedule: Schedule | None = None
    limit: Limit | None = None
    breaker: Breaker | None = None


def location(function: Callable[..., Any]) -> str:
    """The place of a function as "file:line", or its name where it has no source."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def inspect_handler(
    service: str,
    function: Callable[..., Any],
    events: tuple[type, ...],
    topics: tuple[Topic, ...],
    options: Options,
    default: Policy,
) -> HandlerSpec:
    """Read a handler's signature. Raises `DefinitionError` with its line for what cannot be run."""
    where = location(function)

    def wrong(message: str, remedy: str) -> DefinitionError:
        return DefinitionError(f"handler {function.__name__!r} {message}", where=where, remedy=remedy)

    if not is_name(options.group):
        raise wrong(f"has the group name {options.group!r}", f"use {NAME_RULE}")
    hints = _hints(function, wrong)
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise wrong("takes no event", "its first parameter is the event")
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise wrong(f"has the parameter {parameter}", "use ordinary parameters, each with a type")
        if parameter.name not in hints:
            raise wrong(
                f"has no type for its parameter {parameter.name!r}", "write it: every parameter is found by its type"
            )
    event, *others = parameters
    batch = options.size is not None
    _check_event(hints[event.name], events, batch, wrong)
    by_role: dict[str, str] = {}
    dependencies: list[tuple[str, Any]] = []
    for parameter in others:
        hint = hints[parameter.name]
        role = "transaction" if hint is Transaction else "delivery" if hint is Delivery else ""
        if not role:
            dependencies.append((parameter.name, hint))
        elif role in by_role:
            raise wrong(f"takes two parameters of type {hint.__name__}", "one is enough")
        else:
            by_role[role] = parameter.name
    if batch and "delivery" in by_role:
        raise wrong("takes a list of events and a Delivery", "a Delivery belongs to one event; leave it out")
    blocking = not inspect.iscoroutinefunction(function)
    waiting = "transaction" not in by_role or options.concurrency is not None
    if options.cpu and (not blocking or by_role or dependencies):
        raise wrong("has cpu=True", "it runs in another process: a plain def that takes only the event")
    if options.concurrency is not None and (batch or options.concurrency < 1):
        raise wrong(f"has concurrency={options.concurrency}", "use 1 or more, and none with on_batch")
    if options.start not in (None, "beginning", "end"):
        raise wrong(f"has start={options.start!r}", 'use "beginning" or "end"')
    if batch and (options.size or 0) < 1:
        raise wrong(f"has size={options.size}", "use 1 or more")
    _check_options(options, wrong)
    if batch or not waiting:
        _refuse_protection(options, wrong)
    return HandlerSpec(
        service=service,
        group=f"{service}.{options.group}",
        kind=Kind.BATCH if batch else Kind.LANES if waiting else Kind.CHUNK,
        function=function,
        events=events,
        topics=topics,
        event_parameter=event.name,
        transaction=by_role.get("transaction"),
        delivery=by_role.get("delivery"),
        dependencies=tuple(dependencies),
        concurrency=options.concurrency or 10,
        size=options.size or 0,
        policy=options.policy or default,
        start=options.start,
        blocking=blocking,
        cpu=options.cpu,
        limit=options.limit,
        breaker=options.breaker,
        where=where,
    )


def _check_options(options: Options, wrong: Callable[[str, str], DefinitionError]) -> None:
    for name, given, kind in (
        ("policy", options.policy, Policy), ("limit", options.limit, Limit), ("breaker", options.breaker, Breaker)
    ):  # fmt: skip
        if given is not None and not isinstance(given, kind):
            raise wrong(f"has {name}={given!r}", f"use {name}={kind.__name__}(…)")


def _refuse_protection(options: Options, wrong: Callable[[str, str], DefinitionError]) -> None:
    for name, given in (("limit", options.limit), ("breaker", options.breaker)):
        if given is not None:
            raise wrong(
                f"has {name}=… and its events share a transaction, which would wait with them",
                "leave out its tx; or give it concurrency=…, and what it writes is applied when its event is settled",
            )


def _hints(function: Callable[..., Any], wrong: Callable[[str, str], DefinitionError]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError as error:
        raise wrong(
            f"has a type that cannot be found: {error}",
            "import it at run time, at the top of the module (not under TYPE_CHECKING, not inside a function)",
        ) from error
    except TypeError as error:
        raise wrong(f"has a type that cannot be read: {error}", "use a class or a union of classes") from error


def _check_event(
    hint: Any, events: tuple[type, ...], batch: bool, wrong: Callable[[str, str], DefinitionError]
) -> None:
    if batch:
        if typing.get_origin(hint) is not list:
            raise wrong("does not take a list", f"on_batch gives it list[{events[0].__name__}]")
        (hint,) = typing.get_args(hint)
    accepted = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for event in events:
        if hint is not Any and not any(isinstance(a, type) and issubclass(event, a) for a in accepted):
            names = " | ".join(getattr(a, "__name__", str(a)) for a in accepted)
            raise wrong(f"is given {event.__name__} but takes {names}", "say the same in the decorator and the type")


def direct(spec: HandlerSpec) -> Callable[[Any, Any], Any] | None:
    """The handler itself, when it takes just (event, tx): the shortest call there is."""
    return spec.function if list(inspect.signature(spec.function).parameters)[1:] == [spec.transaction] else None


def caller(spec: HandlerSpec, dependencies: dict[str, Any]) -> Callable[[Any, Any, Any], Any]:
    """The handler as a function of (event, tx, delivery), with everything else bound: nothing is looked up later."""
    function, tx, delivery = spec.function, spec.transaction, spec.delivery
    names = list(inspect.signature(function).parameters)
    if not dependencies and delivery is None:
        if tx is None:
            return lambda event, _tx, _delivery: function(event)
        if names[1] == tx:
            return lambda event, tx, _delivery: function(event, tx)

    def call(event: Any, transaction: Any, attempt: Any) -> Any:
        arguments = dict(dependencies)
        if tx is not None:
            arguments[tx] = transaction
        if delivery is not None:
            arguments[delivery] = attempt
        return function(event, **arguments)

    return call
