"""How processes tell each other of new events: NOTIFY after the commit, on a connection of its own; and polling."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf

from evenflow.drivers.postgres.errors import PostgresError
from evenflow.drivers.postgres.link import Link
from evenflow.engines.postgres.wire import Wire
from evenflow.errors import EvenflowError

GAP = 0.002
"""Seconds between two notifications of one process: each is a commit that takes a lock of the whole server."""
TELL = "select pg_notify($1, $2), set_config('synchronous_commit', 'off', true)"
"""What is lost with the server need not be told: nobody waits for the disk."""
QUIET = 1.0
"""Seconds between looks while notifications come."""
QUICK, SLOW = 0.005, 0.1
"""Seconds between looks while none do: the first after there was something new, then ever longer."""
ECHO = 2.0
"""Seconds within which a notification of our own has to come back."""
AGAIN = 5.0
"""Seconds until listening is tried again, and thirty times that where notifications do not come through."""


class Watch:
    """Looks for what others have stored, while anybody waits, and tells others of what was stored here.

    Behind a pooler that gives each transaction another session, no notification comes: then polling alone works.
    `heard` says whether our own came back.
    """

    def __init__(
        self, wire: Wire, channel: str, look: Callable[[], Awaitable[bool]], failed: Callable[[], None]
    ) -> None:
        self.heard = False
        self._wire = wire
        self._channel = channel
        self._look = look
        self._failed = failed
        self._count = 0
        self._looked = -inf
        self._pace = QUICK
        self._stored: set[int] = set()
        self._waited = asyncio.Event()
        self._told = asyncio.Event()
        self._due = asyncio.Event()
        self._echo = asyncio.Event()
        self._link: Link | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def current(self) -> bool:
        """Whether notifications come, and none has come since the last look, which was not long ago."""
        recent = asyncio.get_running_loop().time() - self._looked < 2 * QUIET
        return self.heard and recent and not self._told.is_set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._wire.close()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While this is entered, somebody is looking."""
        self._start()
        self._count += 1
        self._waited.set()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._waited.clear()

    def stored(self, topic: int) -> None:
        """Tell others, soon."""
        self._start()
        self._stored.add(topic)
        self._due.set()

    def _start(self) -> None:
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(each()) for each in (self._looking, self._listening, self._telling)]

    # Looking.

    async def _looking(self) -> None:
        while True:
            await self._waited.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET if self.heard else self._pace):
                    await self._told.wait()
            if self._count:  # else what was told is kept for who asks next
                self._told.clear()
                await self._look_once()

    async def _look_once(self) -> None:
        try:
            changed = await self._look()
            self._looked = asyncio.get_running_loop().time()
        except EvenflowError:
            self._failed()  # who waits meets it by himself
            changed = False
        self._pace = QUICK if changed else min(SLOW, self._pace * 1.3)

    # Listening.

    async def _listening(self) -> None:
        """Listen, make sure that notifications come through, and begin anew when the connection is lost."""
        while True:
            pause = AGAIN
            try:
                link = await self._wire.link()
                if link is not self._link:
                    self._link = link
                    link.on_notify = self._heard
                    await link.control(f"listen {self._channel}")
                self._echo.clear()
                await self._wire.run([(TELL, (self._channel, ""))])
                async with asyncio.timeout(ECHO):
                    await self._echo.wait()
                self.heard = True
            except TimeoutError:
                self.heard = False
                pause = 30 * AGAIN
            except PostgresError:
                self.heard = False
            self._told.set()
            await asyncio.sleep(pause)

    def _heard(self, sender: int, payload: str) -> None:
        if self._link is not None and sender == self._link.pid:
            self._echo.set()
        elif payload:
            self._told.set()

    # Telling.

    async def _telling(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            topics, self._stored = self._stored, set()
            with suppress(PostgresError):  # others poll
                await self._wire.run([(TELL, (self._channel, ",".join(map(str, sorted(topics)))))])
            await asyncio.sleep(GAP)
