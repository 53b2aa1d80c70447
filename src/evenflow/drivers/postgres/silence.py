"""Looks after answers that do not come: a server that is gone or frozen, a connection cut without a word, a lock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from evenflow.drivers.postgres.errors import LOST, PostgresError
from evenflow.drivers.postgres.link import Link
from evenflow.drivers.postgres.place import PostgresPlace

log = logging.getLogger("evenflow")

SILENT = 2.0
"""Seconds without an answer after which somebody asks why."""
EVERY = 1.0
PATIENCE = 5.0
"""Seconds that the server may take to say it."""

_ASK = """
select a.pid, coalesce(a.state, ''), coalesce(extract(epoch from clock_timestamp() - a.state_change), 0)::float8, (
    select string_agg(format('pid %s (%s, %s for %s s)', b.pid, coalesce(nullif(b.application_name, ''), 'unnamed'),
        b.state, extract(epoch from clock_timestamp() - b.xact_start)::int), ', ')
    from pg_catalog.pg_stat_activity as b where b.pid = any (pg_blocking_pids(a.pid)))
from pg_catalog.pg_stat_activity as a where a.pid = any ($1::int[])
"""


_ASK_POOLED = """
select count(*) from pg_catalog.pg_stat_activity
where application_name = $1 and datname = current_database() and state = 'active' and pid <> pg_backend_pid()
"""


class Silence:
    """Asks the server, over another connection, about those that wait, and gives up what can get no answer.

    The other connection is there only while somebody waits for long. `what` is whose connections they are, for the
    log. Behind a pooler nobody knows which of the server's sessions is whose: then those that wait are given up when
    the pooler serves others at once, and the server works on nothing under our name, twice in a row.
    """

    def __init__(self, links: Callable[[], Iterable[Link]], place: PostgresPlace, what: str, *, pooled: bool) -> None:
        self._links = links
        self._place = place
        self._what = what
        self._pooled = pooled
        self._asking: Link | None = None
        self._lost: dict[Link, float] = {}
        """Behind a pooler: what was waited for when nothing was worked on, and since when."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._leave()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            now = self._loop.time()
            silent = [link for link in self._links() if link.since and now - link.since > SILENT]
            if silent:
                await self._look(silent)
            else:
                self._leave()

    async def _look(self, silent: list[Link]) -> None:
        waited = {link: link.since for link in silent}
        try:
            async with asyncio.timeout(PATIENCE):
                found = {} if self._pooled else await self._ask([link.pid for link in silent])
                lost = self._pooled and not await self._works()
        except TimeoutError:
            self._give_up(waited, f"no answer for {PATIENCE:g} s")
        except PostgresError as error:
            self._leave()
            if _refused(error):
                log.warning("%s could not be asked why it does not answer: %s", self._what, error.message)
            else:
                self._give_up(waited, error.message)
        else:
            before, self._lost = self._lost, waited if lost else {}
            for link, since in waited.items():
                if link.since == since and not self._pooled:
                    self._judge(link, found.get(link.pid))
                elif link.since == since == before.get(link) and lost:
                    link.fail("the server works on nothing of ours: a connection to the pooler was lost on the way")

    async def _ask(self, pids: list[int]) -> dict[int, tuple[Any, ...]]:
        return {row[0]: row for row in await (await self._link()).fetch(_ASK, (pids,))}

    async def _works(self) -> bool:
        """Whether the server works on anything of this process."""
        ((count,),) = await (await self._link()).fetch(_ASK_POOLED, (self._place.application,))
        return bool(count)

    async def _link(self) -> Link:
        if self._asking is None or self._asking.dead:
            self._asking = await Link.connect(self._place)
        return self._asking

    def _give_up(self, waited: dict[Link, float], why: str) -> None:
        self._leave()
        log.warning("%s waits: %s", self._what, why)
        for link, since in waited.items():
            if link.since == since:
                link.fail(f"the server does not answer: {why}")

    def _judge(self, link: Link, row: tuple[Any, ...] | None) -> None:
        if row is None:
            link.fail("the server has ended this connection, and its word was lost")
            return
        _, state, seconds, holders = row
        if state.startswith("idle") and seconds > SILENT / 2:
            link.fail("the server has answered, and its answer was lost on the way")
        elif holders and holders != link.waits_for:
            link.waits_for = holders
            log.warning("%s waits for a lock that is held by %s", self._what, holders)

    def _leave(self) -> None:
        if self._asking is not None:
            self._asking.close()
            self._asking = None


def _refused(error: PostgresError) -> bool:
    """Whether it was the server itself that said so (it has no room, say): then it is there."""
    return error.sqlstate != LOST or "FATAL:" in str(error.__cause__)
