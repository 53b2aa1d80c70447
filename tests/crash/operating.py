"""The operator: a person at work while everything runs. Mends, redrives, discards, pauses, sends a group back.

What he does is written before it is done ("means to"): after a kill nobody knows whether it was done.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random

from evenflow import EvenflowError, operate
from evenflow.clock import Signal
from evenflow.parking import Parked
from evenflow.running import Running

from .app import FOLDER, POISON, app, append_only, mended, write

BROKEN = ("charge", "ledger")
PAUSED = "billing.balance"
SOUGHT = "billing.again"
RUN = "minutely"
WHO = "operator"


class Operator:
    """One at a time. Once there is peace, everything that can be mended is."""

    def __init__(self, running: Running, incarnation: int, seed: int) -> None:
        self.running = running
        self.random = random.Random(seed * 1000 + incarnation)
        self.file = append_only(FOLDER / "operator.jsonl")

    @property
    def peace(self) -> bool:
        return (FOLDER / "peace").exists()

    async def turn(self) -> None:
        """One round of everything."""
        for group in BROKEN:
            if not self.peace and self.random.random() < 0.2:
                await self.many(group)
            else:
                await self.letters(group)
        if not self.peace and self.random.random() < 0.1:
            await self.pause()
        if not self.peace and self.random.random() < 0.1:
            await self.run_now()
        if not self.peace and self.random.random() < 0.2:
            await self.send_back()

    async def letters(self, group: str) -> None:
        """Every dead letter of a group but that of the poisoned key."""
        full = f"billing.{group}"
        dead = [each for each in await self.dead(full) if (group, each.key) != ("ledger", POISON)]
        mend = [each for each in dead if self.peace or self.random.random() < 0.6]
        for each in mend:
            uid = json.loads(each.envelope.data)["uid"]
            if not self.peace and self.random.random() < 0.15 and not mended(group, uid).exists():
                write(self.file, ["discard", group, uid])
                await operate.discard(self.running, full, each.lane, WHO)
                continue
            if self.peace or self.random.random() < 0.8:  # else it will fail once more
                mended(group, uid).touch()
            write(self.file, ["redrive", group, uid])
            await operate.redrive(self.running, full, each.lane, WHO)

    async def dead(self, full: str) -> list[Parked]:
        """The dead letters of a group."""
        return list((await operate.find(self.running, operate.Filter(group=full, state="dead"), 5000)).events)

    async def many(self, group: str) -> None:
        """All dead letters of a group by one operation, which goes on by itself while he does other things."""
        full, choice = f"billing.{group}", self.random.choice
        for each in await self.dead(full):
            if self.random.random() < 0.8:
                mended(group, json.loads(each.envelope.data)["uid"]).touch()
        pace = operate.Pace(rate=choice((None, 5.0, 50.0)), canary=choice((0, 0, 2)), stop_above=choice((None, 50.0)))
        write(self.file, ["redrive", group, ""])
        await operate.ask(self.running, "redrive", operate.Filter(group=full), WHO, pace=pace)

    async def pause(self) -> None:
        await operate.pause(self.running, PAUSED, WHO, "to try it")
        await asyncio.sleep(self.random.random())
        await self.resume()

    async def resume(self) -> None:
        """Whatever an earlier operator has left paused."""
        if (await operate.group(self.running, PAUSED)).status.state == "paused":
            await operate.resume(self.running, PAUSED, WHO)

    async def run_now(self) -> None:
        """A run of a schedule beside those that are due."""
        write(self.file, ["run", RUN, ""])
        await operate.run_schedule(self.running, RUN, WHO)
        write(self.file, ["ran", RUN, ""])

    async def send_back(self) -> None:
        """A few events again, in one partition or two: the effects of this group are at-least-once for it."""
        detail = await operate.group(self.running, SOUGHT)
        places = self.random.sample(list(detail.partitions), min(2, len(detail.partitions)))
        back = {each.partition: max(each.low, each.position - self.random.randint(1, 40)) for each in places}
        write(self.file, ["seek", "again", ""])
        await operate.seek(self.running, SOUGHT, back, WHO)


async def operator(stop: Signal, incarnation: int, seed: int) -> None:
    async with app.running(join=False) as running:
        person = Operator(running, incarnation, seed)
        while not stop.is_set():
            try:
                await person.resume()
                await person.turn()
            except EvenflowError as error:
                logging.warning("not done: %s", error)
            await running.clock.wait(stop, 0.2 + person.random.random())
