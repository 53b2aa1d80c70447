"""The outbox by hand: rows go to the log in order and once, since the log's own transaction notes how far they went."""

from __future__ import annotations

import asyncio

import apsw

from bench.twins.files import APPEND

ROWS = 500


class Relay:
    """Moves rows of the outbox into the log, in rounds."""

    def __init__(self, store: apsw.Connection, log: apsw.Connection) -> None:
        self._read = store.cursor().execute
        self._store = store.cursor().execute
        self._log = log.cursor().execute
        self._append = log.cursor().executemany
        ((self.moved,),) = log.execute("select upto from relayed where source = 'billing'")
        self.wake = asyncio.Event()

    def move(self) -> bool:
        """One round; whether there was anything."""
        rows = self._read(
            "select id, type, payload from outbox where id > ? order by id limit ?", (self.moved, ROWS)
        ).fetchall()
        if not rows:
            return False
        last = rows[-1][0]
        self._log("begin immediate")
        self._append(APPEND, [row[1:] for row in rows])
        self._log("update relayed set upto = ? where source = 'billing'", (last,))
        self._log("commit")
        self.moved = last
        self._store("delete from outbox where id <= ?", (last,))
        return True

    async def run(self) -> None:
        """As long as it is not cancelled, whenever `wake` is set."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            while self.move():
                await asyncio.sleep(0)
