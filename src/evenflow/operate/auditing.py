"""The audit: who has done what to the services of an app, as their stores have recorded it."""

from __future__ import annotations

from dataclasses import dataclass

from evenflow.operate.finding import store_of
from evenflow.running import Running


@dataclass(frozen=True, slots=True)
class Entry:
    """One record. `subject` is what it was done to, a group or a lane of it; `detail` what was asked, and why."""

    service: str
    id: int
    at: float
    who: str
    what: str
    subject: str
    detail: str


async def audit(
    running: Running,
    *,
    service: str | None = None,
    since: float = 0.0,
    subject: str = "",
    limit: int = 100,
) -> list[Entry]:
    """The last records, the newest first: of all services or one, since a Unix time, whose subject holds a text.

    Services that share a store share its audit. Raises `NotFound` for a service that the app does not have.
    """
    chosen = dict(running.stores) if service is None else {service: store_of(running, service)}
    found: dict[tuple[str, int], Entry] = {}
    for name, store in chosen.items():
        rows = await store.read(store.sql["audit_list"], (since, subject, limit))
        for row in rows:
            found.setdefault((store.id, row[0]), Entry(name, *row))
    return sorted(found.values(), key=lambda each: (each.at, each.id), reverse=True)[:limit]
