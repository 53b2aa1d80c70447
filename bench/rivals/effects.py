"""The durable effect of every rival's handler: one row per event in SQLite, committed before the handler returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from bench.twins.files import INSERT_ROW, opened
from bench.workload import HERE

SCHEMA = HERE / "sql" / "0001_effects.sql"


class Effects:
    """WAL, `synchronous=FULL`: a commit is on the disk. `keep` is what a handler of single events can do."""

    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/effects.db"
        existed = Path(self.path).exists()
        self._connection: apsw.Connection = opened(self.path)
        if not existed:
            self._connection.execute(SCHEMA.read_text("utf-8"))
        self._execute = self._connection.cursor().execute

    def keep(self, order: Any) -> None:
        self._execute(INSERT_ROW, (order.order_id, order.customer, order.total))

    def keep_all(self, orders: list[Any]) -> None:
        """A list in one transaction: what a handler of lists can do."""
        with self._connection:
            for order in orders:
                self.keep(order)

    def count(self) -> int:
        ((rows,),) = self._execute("select count(*) from charges")
        return int(rows)
