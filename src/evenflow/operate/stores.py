"""Adopt: go on with a service's store as it is now."""

from __future__ import annotations

from evenflow.engine import Partition
from evenflow.errors import Refused
from evenflow.ids import new_id
from evenflow.operate.finding import Home, homes, live, store_of
from evenflow.outbox import RELAY_PARTITION
from evenflow.running import Running
from evenflow.store import Session


async def adopt(running: Running, service: str, who: str) -> list[str]:
    """Go on with the service's store as it is now: another one, or one restored from a backup. Returns its groups.

    Its numbers may have been used already, so it becomes a new producer; nothing that it publishes from now on is
    taken for a repeat. Raises `Refused` while a process has the store open, since that would number by the old one.
    """
    store = store_of(running, service)
    using = await live(running, store)
    if using:
        pids = ", ".join(str(each.pid) for each in using)
        raise Refused(f"the store of {service!r} is in use by pid {pids}", remedy="stop them, adopt, and start them")
    sql, now, producer = store.sql, running.clock.now(), new_id(running.clock.now)
    ours = [each for each in await homes(running) if each.store is store]

    async def renew(session: Session) -> None:
        await session.execute(sql["store_adopt"], (producer,))
        await session.execute(sql["audit_add"], (now, who, "store adopt", service, producer))

    async def go_on(session: Session) -> None:
        for each in ours:
            for topic, _ in each.engines:
                await session.execute(sql["group_state"], (each.group, topic, "running", None))

    await store.transact(renew)  # first: an engine that believes in this store must find it with its new numbers
    for each in ours:
        await _tell_all(each)
    last = (await store.read(sql["outbox_last"]))[0][0]
    await running.engine.told(running.relay_name(service), store.id, {RELAY_PARTITION: last})
    await store.transact(go_on)
    return [each.group for each in ours]


async def _tell_all(home: Home) -> None:
    """Tell the engines where the group stands in this store, in place of where it stood in another."""
    rows = await home.store.read(home.store.sql["position_list"], (home.group,))
    for topic, engine in home.engines:
        told = await engine.recall(home.group)
        gone = {p: 0 for p in told.positions if p.topic == topic} if told else {}
        stands = {Partition(topic, row[2], row[3]): row[4] for row in rows if row[0] == topic}
        await engine.told(home.group, home.store.id, {**gone, **stands})
