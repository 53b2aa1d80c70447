"""Ends silent stalls: a reader that brings nothing although events wait, and somebody for them, is made anew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from evenflow.clock import Clock
from evenflow.engines.kafka.client import administration
from evenflow.engines.kafka.feeds import Feed, Feeds, Reader
from evenflow.engines.kafka.peek import Missing, Peek
from evenflow.errors import EvenflowError

LOOK = 2.0
"""Seconds between two looks."""

log = logging.getLogger("evenflow")


class Watch:
    """One task per engine: the brokers are asked about a reader only when it brings nothing."""

    def __init__(
        self, feeds: Feeds, peek: Peek, clock: Clock, check: Callable[[Sequence[Feed]], Awaitable[None]]
    ) -> None:
        self._check = check
        self._feeds = feeds
        self._peek = peek
        self._clock = clock
        self._seen: dict[Reader, int] = {}
        self._suspects: dict[Feed, tuple[int, int]] = {}
        self._helpless: dict[tuple[str, int, int], None] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(LOOK)
            try:
                for reader in list(self._feeds.readers):
                    await self._look(reader)
            except EvenflowError:
                self._suspects.clear()  # nobody can say what waits
            except Exception:
                log.exception("watching the readers of Kafka")

    async def _look(self, reader: Reader) -> None:
        before, self._seen[reader] = self._seen.get(reader, -1), reader.arrivals
        hungry = reader.hungry() if before == reader.arrivals else []
        names = {(feed.place.topic, feed.place.partition.number): feed for feed in hungry}
        try:
            ends = await self._peek.offsets(names, administration.OffsetSpec.latest())
        except Missing:
            await self._check(hungry)
            return
        behind = {feed: (feed.end, ends[name]) for name, feed in names.items() if ends[name] > feed.end}
        if reader.arrivals != self._seen[reader]:
            behind = {}
        stuck = [feed for feed, (end, _) in behind.items() if self._suspects.get(feed, (-1, 0))[0] == end]
        self._suspects = {**{k: v for k, v in self._suspects.items() if k.reader is not reader}, **behind}
        fresh = [each for feed in stuck if (each := (feed.place.topic, *behind[feed])) not in self._helpless]
        if fresh:  # where another reader brought nothing either there is nothing to bring: the marks of a transaction
            self._helpless.update(dict.fromkeys(fresh))
            log.warning("the reader of %s brings nothing, though events wait: it is made anew", fresh[0][0])
            reader.rebuild()
