"""Groups by name, in the code and in the stores, and the processes that work on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evenflow.engine import Engine
from evenflow.errors import EvenflowError
from evenflow.handler import HandlerSpec, Kind
from evenflow.ownership import boot_id, process_start
from evenflow.running import Running
from evenflow.settings_sources import suggestion
from evenflow.store import Process, Store

FEW = 20
"""So many names are told where none is like the one that was given."""


class NotFound(EvenflowError):
    """What was named does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A group with its store, and the topics that it reads with the engine of each.

    `spec` is None for an orphan: a group of the store that the code does not have (any more).
    """

    group: str
    service: str
    store: Store
    engines: tuple[tuple[str, Engine], ...]
    spec: HandlerSpec | None


async def homes(running: Running) -> list[Home]:
    """All groups of the code, in its order."""
    found = []
    for service in running.app.services:
        if service.name not in running.stores:
            continue
        for spec in running.specs[service.name]:
            engines = [(placed.name, running.engine) for placed in spec.topics]
            store = running.stores[service.name]
            found.append(Home(group=spec.group, service=service.name, store=store, engines=tuple(engines), spec=spec))
    return found


async def orphans(running: Running) -> list[Home]:
    """The groups of the stores that the code does not have: left by a handler that was deleted or renamed."""
    known = {spec.group for specs in running.specs.values() for spec in specs}
    found = []
    for service, store in running.stores.items():
        for (group,) in await store.read(store.sql["group_names"]):
            if group in known or not group.startswith(running.settings.group_prefix):
                continue
            known.add(group)  # two services may share a file
            topics = [row[1] for row in await store.read(store.sql["group_list"]) if row[0] == group]
            engines = [(topic, running.engine) for topic in topics]
            found.append(Home(group=group, service=service, store=store, engines=tuple(engines), spec=None))
    return found


async def home(running: Running, group: str, *, orphan: bool = True) -> Home:
    """The group of this name, with or without the prefix of the settings. Raises `NotFound`."""
    found = {each.group: each for each in await homes(running)}
    if orphan:
        found |= {each.group: each for each in await orphans(running)}
    chosen = found.get(group) or found.get(running.settings.group_name(group))
    if chosen is None:
        raise NotFound(f"there is no group {group!r}", remedy=known(group, found))
    return chosen


def has_transactions(spec: HandlerSpec) -> bool:
    """Whether its handler works in transactions that can be rolled back, with nothing in flight outside of them."""
    return spec.kind is not Kind.LANES and spec.transaction is not None


def known(name: str, names: Iterable[str]) -> str:
    """What was meant, or what there is."""
    found = list(names)
    more = f" and {len(found) - FEW:,} more" if len(found) > FEW else ""
    return suggestion(name, found) or f"known: {', '.join(found[:FEW]) or 'none'}{more}"


def store_of(running: Running, service: str) -> Store:
    """The store of a service. Raises `NotFound`."""
    store = running.stores.get(service)
    if store is None:
        raise NotFound(f"this app has no service {service!r}", remedy=known(service, running.stores))
    return store


# -- processes --------------------------------------------------------------------------------------------------------


def may_live(process: Process) -> bool:
    """False for a process that is surely gone: it ran on this machine, since it was started last."""
    return process.boot != boot_id() or process_start(process.pid) == process.started


async def live(running: Running, store: Store) -> list[Process]:
    """Processes that have this store open. Of another machine or boot: those whose heartbeat moves now."""
    seen = {each.id: each for each in await store.processes() if may_live(each)}
    here = boot_id()
    if any(each.boot != here for each in seen.values()):
        await running.clock.sleep(running.settings.lease / 5)
    moved = {each.id for each in await store.processes() if each.id in seen and each.beat != seen[each.id].beat}
    return [each for each in seen.values() if each.boot == here or each.id in moved]
