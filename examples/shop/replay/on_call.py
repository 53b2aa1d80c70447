"""The person who is called when something fails: looks at the dead letters, mends what is wrong, and redrives them.

A program plays that person here. What it does is what `evenflow parked count`, `edit`, `rehearse` and `redrive` do, by
the same functions; the replay itself knows nothing of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

import aiohttp
from evenflow import App, operate
from evenflow.operate import Asked, Filter, Pace

from replay.faults import mistyped
from replay.figures import Figure, Look
from replay.purchases import Purchase
from shop.orders import orders

WHO = "on call"
THINKS = 1.0
"""Seconds from a dead letter to the first thing that is done about it."""
GENTLY = Pace(canary=1, stop_above=20.0)
"""One title first; when it passes the others; and no more of them when a fifth fails again."""


class OnCall:
    """Looks whenever the replay looks, and does what there is to do.

    supplier   where it listens
    tell       shows a line
    """

    def __init__(self, app: App, purchases: Sequence[Purchase], supplier: str, tell: Callable[[str], None]) -> None:
        self._app = app
        self._mistyped = mistyped(purchases)
        self._supplier = supplier
        self._say = tell
        self._called: dict[str, float] = {}
        self._asked: str | None = None
        self._complained = False

    @property
    def busy(self) -> bool:
        """Whether something that was begun is not over yet."""
        return self._asked is not None

    async def look(self, look: Look) -> None:
        """Do what can be done now."""
        groups = {each.group: each for each in look.groups}
        if await self._called_for(groups["stock.reserve"]):
            await self._correct()
        if self._asked is not None:
            await self._follow(self._asked)
        elif await self._called_for(groups["stock.restock"]):
            await self._redrive()

    async def _called_for(self, group: Figure) -> bool:
        """Whether there are dead letters, and time enough has passed to think about them. The first look is told."""
        if not group.dead:
            self._called.pop(group.group, None)
            return False
        if group.group not in self._called:
            self._called[group.group] = time.monotonic()
            for each in await operate.count_by(self._app.opened, "fingerprint", Filter(group=group.group)):
                error = (each.error or "").partition("\n")[0]
                if each.dead:
                    self._say(f"{_some(each.dead, 'dead letter')} in {group.group}: {error}")
        return time.monotonic() - self._called[group.group] >= THINKS

    # -- a wrong order ------------------------------------------------------------------------------------------------

    async def _correct(self) -> None:
        """Put the title right where it was typed in and in the event that was set aside, and try it again."""
        wrong, right = self._mistyped, self._mistyped.title
        for each in (await operate.find(self._app.opened, Filter(group="stock.reserve", state="dead"))).events:
            if json.loads(each.envelope.data)["order_id"] != wrong.order_id:
                continue
            async with self._app.transaction(orders) as tx:
                tx.write("update orders set title = $2 where order_id = $1", wrong.order_id, right)
            edit = await operate.plan_edit(
                self._app.opened, each.group, each.lane, lambda payload: {**payload, "title": right}
            )
            await operate.carry_out_edit(self._app.opened, edit, WHO, "mistyped")
            rehearsal = await operate.rehearse(self._app.opened, each.group, Filter(lane=each.lane))
            passes = sum(tried.outcome == "passes" for tried in rehearsal.tried)
            self._say(f"its title is corrected; in a rehearsal {passes} of {len(rehearsal.tried)} pass: redriven")
            assert passes == len(rehearsal.tried), rehearsal
            await operate.redrive(self._app.opened, each.group, each.lane, WHO, "corrected")

    # -- a supplier who is away ---------------------------------------------------------------------------------------

    async def _redrive(self) -> None:
        """Once the supplier works again: all that failed because of it."""
        if not await self._works():
            if not self._complained:
                self._complained = True
                await self._request("POST", "complaints")
                self._say("somebody calls the supplier, who looks into it")
            return
        failed = Filter(group="stock.restock", error_type="SupplierFailed", state="dead")
        asked = await operate.ask(self._app.opened, "redrive", failed, WHO, pace=GENTLY, reason="it works again")
        for each in asked:
            self._asked = each.name
            self._say(f"the supplier works again: {_some(each.operation.total, 'dead letter')} redriven, one first")

    async def _follow(self, name: str) -> None:
        found: Asked = (await operate.operation_named(self._app.opened, name)).asked
        if found.operation.ended:
            self._asked = None
            self._say(f"operation {name} is {found.operation.state}: {found.operation.said()}")

    async def _works(self) -> bool:
        return await self._request("GET", "health") == 200

    async def _request(self, method: str, path: str) -> int:
        """The status of the answer; 0 for none."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1.0)) as session:
            try:
                async with session.request(method, f"{self._supplier}/{path}") as answer:
                    return answer.status
            except (aiohttp.ClientError, TimeoutError):
                return 0


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
