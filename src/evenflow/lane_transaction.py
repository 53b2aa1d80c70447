"""The transaction of a waiting handler: none is open while it waits."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from evenflow.errors import TransactionError
from evenflow.store import Row
from evenflow.unit_of_work import Transaction


class LaneTransaction(Transaction, eq=False, gc=False):
    """A transaction of a waiting handler: reads see committed data, writes are applied when the event is settled."""

    async def fetch_all(self, sql: str, *args: Any) -> list[Row]:
        """Rows of committed data: what was handed over is not among it yet."""
        self._enter().waiting = ""
        return await self._unit.outbox.store.read(sql, args)

    async def execute(self, *_: Any) -> int:
        """Refused: a waiting handler holds no transaction open."""
        raise _only_write("execute")

    async def flush(self) -> None:
        """Refused: a waiting handler holds no transaction open."""
        raise _only_write("flush")

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        """Refused: a waiting handler holds no transaction open."""
        await self.flush()
        yield


def _only_write(name: str) -> TransactionError:
    return TransactionError(
        f"tx.{name} in a handler with concurrency: what it writes is applied when its event is settled",
        remedy="use tx.write; or leave out concurrency, and it has a transaction of its own",
    )
