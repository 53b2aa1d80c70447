"""Migrations of the stores: what each has, what is to be applied, and applying it. Needs no engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from evenflow.app import App
from evenflow.clock import Clock
from evenflow.migrations import checksum, load_migrations
from evenflow.operate.finding import NotFound, known
from evenflow.places import make_store
from evenflow.settings import Settings
from evenflow.settings_sources import masked
from evenflow.store import Applied, Migration, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A migration, and how it stands with a store.

    state  "applied"; "pending"; "changed": its text is not the one that was applied; "gone": it was applied, and
           there is no file of it any more (`migration` has no text then)
    at     when it was applied, in Unix time
    """

    migration: Migration
    state: Literal["applied", "pending", "changed", "gone"]
    at: float | None
    checksum: str
    applied_checksum: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlan:
    """The steps of one service's store, ours first. `url` has no password in it."""

    service: str
    url: str
    steps: Sequence[Step]

    def in_state(self, state: str) -> list[Step]:
        return [step for step in self.steps if step.state == state]


async def plan_migrations(
    app: App, settings: Settings, clock: Clock, services: Collection[str] | None = None
) -> list[StorePlan]:
    """What is applied and what is pending in each store. Changes nothing. Raises `NotFound`, `Refused`."""
    plans = []
    for name, store, given in _stores(app, settings, clock, services):
        plans.append(await _plan(name, masked(settings.store_url(name)), store, given))
    return plans


async def apply_migrations(
    app: App, settings: Settings, clock: Clock, services: Collection[str] | None = None
) -> AsyncGenerator[tuple[str, Migration]]:
    """Apply what is pending, store by store, ours first; each as (service, migration) when it is done.

    Each is a transaction of its own: after an error those before it stay. Raises `Refused` with file and line for one
    that fails or was changed after it was applied.
    """
    for name, store, given in _stores(app, settings, clock, services):
        before = {(each.owner, each.number) for each in await store.applied()}
        try:
            await store.open()
            for own in store.own_migrations():
                if (own.owner, own.number) not in before:
                    yield name, own
            for migration in given:
                if await store.migrate([migration]):
                    yield name, migration
        finally:
            await store.close()


def _stores(
    app: App, settings: Settings, clock: Clock, services: Collection[str] | None
) -> list[tuple[str, Store, list[Migration]]]:
    names = [service.name for service in app.services]
    for wanted in services or ():
        if wanted not in names:
            raise NotFound(f"this app has no service {wanted!r}", remedy=known(wanted, names))
    chosen = [service for service in app.services if not services or service.name in services]
    stores = [make_store(settings.store_url(service.name), service.name, clock) for service in chosen]
    return [
        (
            service.name,
            store,
            [] if service.migrations is None else load_migrations(service.migrations, service.name, store.dialect),
        )
        for service, store in zip(chosen, stores, strict=True)
    ]


async def _plan(service: str, url: str, store: Store, given: Sequence[Migration]) -> StorePlan:
    there = {(each.owner, each.number): each for each in await store.applied()}
    owners = {"evenflow", service}
    wanted = [*store.own_migrations(), *given]
    steps = [_step(each, there.pop((each.owner, each.number), None)) for each in wanted]
    gone = [_gone(each) for each in there.values() if each.owner in owners]
    in_order = sorted([*steps, *gone], key=lambda step: (step.migration.owner != "evenflow", step.migration.number))
    return StorePlan(service=service, url=url, steps=in_order)


def _step(migration: Migration, found: Applied | None) -> Step:
    text = checksum(migration)
    if found is None:
        return Step(migration=migration, state="pending", at=None, checksum=text, applied_checksum=None)
    state: Literal["applied", "changed"] = "applied" if found.checksum == text else "changed"
    return Step(migration=migration, state=state, at=found.at, checksum=text, applied_checksum=found.checksum)


def _gone(found: Applied) -> Step:
    migration = Migration(found.owner, found.number, found.name, "")
    return Step(migration=migration, state="gone", at=found.at, checksum="", applied_checksum=found.checksum)
