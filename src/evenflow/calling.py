"""Calling a transactional handler: with middleware, in a thread, within its time, and seeing what it waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from evenflow.drive import CallDrive
from evenflow.handler import Delivery
from evenflow.unit_of_work import Transaction, UnitOfWork
from evenflow.work import Work

log = logging.getLogger("evenflow")


class Calling:
    """How a group calls its handler. `alone`: it was seen to wait for the outside, and it matters to its neighbours."""

    def __init__(self, work: Work, *, neighbours: bool) -> None:
        self.work = work
        self.spec = work.spec
        self.alone = False
        self.waits = 0
        """How often a handler was seen to wait for the outside."""
        self._neighbours = neighbours

    async def call(self, unit: UnitOfWork, tx: Transaction, event: Any, delivery: Delivery) -> None:
        """Call the handler, with the middleware around it, and publish what it returns."""
        around, wanted = self.work.around_event, delivery if self.spec.delivery is not None else None
        if around is None:
            coroutine = self.invoke(unit, event, tx, wanted)
        else:
            coroutine = around(delivery, lambda: self.invoke(unit, event, tx, wanted))
        publish_all(tx, await self.drive(unit, coroutine))

    async def invoke(self, unit: UnitOfWork, event: Any, tx: Transaction, delivery: Delivery | None) -> Any:
        """Call the handler; a blocking one in a thread."""
        if not self.spec.blocking:
            return await self.work.call(event, tx, delivery)
        unit.waiting = "thread"
        try:
            return await asyncio.to_thread(self.work.call, event, tx, delivery)
        finally:
            unit.waiting = ""

    async def drive(self, unit: UnitOfWork, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The coroutine's result, within the time that the policy allows."""
        try:
            yielded = coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        drive = CallDrive(coroutine, yielded, unit, self.work.clock, self.spec.policy.timeout)
        unit.driven = True
        try:
            return await drive
        finally:
            unit.driven = False
            if drive.foreign:
                self.foreign(unit)

    def foreign(self, unit: UnitOfWork) -> None:
        """The handler waits for something other than its transaction."""
        self.waits += 1
        if self._neighbours and not self.alone:
            self.alone = unit.noticed = True
            log.warning(
                "group %s: its handler %s waits for something other than its transaction, so from now on each event "
                "has a transaction of its own. Faster, and kinder to others: a handler without tx, or concurrency=…",
                self.spec.group,
                self.spec.where,
            )


def publish_all(tx: Transaction, result: Any) -> None:
    """What a handler returned: nothing, one event, or several in a list or tuple."""
    if result is None:
        return
    if isinstance(result, (list, tuple)):
        for event in result:
            tx.publish(event)
    else:
        tx.publish(result)
