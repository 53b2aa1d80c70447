"""What is published for later: events that wait in an outbox until they are due."""

from __future__ import annotations

from dataclasses import dataclass

from evenflow.envelope import Envelope, unpack
from evenflow.errors import Refused
from evenflow.operate.finding import NotFound, store_of
from evenflow.running import Running
from evenflow.settings_sources import suggestion
from evenflow.store import Session


@dataclass(frozen=True, slots=True)
class Scheduled:
    """An event that waits in a service's outbox. `due` is a Unix time; `name` is what it can be cancelled by."""

    service: str
    due: float
    name: str | None
    topic: str
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Later:
    """How many events a service's outbox keeps for later, and when (Unix time) the next is due."""

    service: str
    count: int
    next: float | None


async def scheduled(running: Running, service: str | None = None, limit: int = 100) -> list[Scheduled]:
    """What is due later, the next first; of one service, or of all. Raises `NotFound`."""
    found: list[Scheduled] = []
    stores = running.stores if service is None else {service: store_of(running, service)}
    for name, store in stores.items():
        for _id, due, given, topic, packed in await store.read(store.sql["due_list"], (limit,)):
            found.append(Scheduled(name, due, given, topic, unpack(packed)[0]))
    return sorted(found, key=lambda each: each.due)[:limit]


async def later(running: Running) -> list[Later]:
    """Per service with any, how much is scheduled."""
    found = []
    for service, store in running.stores.items():
        ((count, due),) = await store.read(store.sql["due_size"])
        found += [Later(service, count, due)] if count else []
    return found


async def cancel(running: Running, name: str, who: str, service: str | None = None) -> Scheduled:
    """Take back what waits under this name, as `tx.cancel` does. Raises `NotFound`, `Refused`."""
    stores = running.stores if service is None else {service: store_of(running, service)}
    chosen = [
        Scheduled(owner, row[1], row[2], row[3], unpack(row[4])[0])
        for owner, store in stores.items()
        for row in await store.read(store.sql["due_named"], (name,))
    ]
    if not chosen:
        near = [
            row[0] for store in stores.values() for row in await store.read(store.sql["due_names"], (name[:1], 1000))
        ]
        hint = suggestion(name, near) or "evenflow schedules list"
        raise NotFound(f"nothing is scheduled under the name {name!r}", remedy=hint)
    if len(chosen) > 1:
        services = " and ".join(sorted(each.service for each in chosen))
        raise Refused(f"{services} have scheduled something as {name!r}", remedy="say whose: --service")
    store, now = running.stores[chosen[0].service], running.clock.now()

    async def work(session: Session) -> int:
        if not await session.execute(store.sql["due_cancel"], (name,)):
            return 0
        note = f"{chosen[0].envelope.type} {chosen[0].envelope.id}"
        return await session.execute(store.sql["audit_add"], (now, who, "schedule cancel", name, note))

    if not await store.transact(work):
        raise NotFound(f"{name!r} fell due meanwhile, or was cancelled", remedy="evenflow schedules list")
    return chosen[0]
