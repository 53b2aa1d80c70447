"""Three services with a store each, and publishers of both kinds, while their topics move from engine to engine.

`python -m tests.moving.program handle SERVICE` and `… publish NAME`. Settings come from the environment. Every key is
numbered from 1; `seen` of a service's store says what each group has done, in order. Of events that are published in
transactions `sent` says how many there are; of those that are published at once a file says how many were confirmed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

from evenflow import App, Event, Service, Topic, Transaction
from evenflow.clock import Signal
from evenflow.errors import PublishRefused

log = logging.getLogger("moving")
SQL = Path(__file__).parent / "sql"
STEPS = Topic("steps", partitions=4)
ECHOES = Topic("echoes", partitions=2)
STATES = Topic("states", partitions=2, compacted=True)
TX_KEYS, DIRECT_KEYS = 12, 6
LONG = 0.5
"""Seconds between two confirmations after which it is said when that was."""
INSERT = "insert into seen (reader, key, number) values ($1, $2, $3)"


class Step(Event, type="moving.step", topic=STEPS, key="key"):
    key: str
    number: int


class Echo(Event, type="moving.echo", topic=ECHOES, key="key"):
    key: str
    number: int


class State(Event, type="moving.state", topic=STATES, key="key"):
    key: str
    number: int


placing = Service("placing", migrations=SQL)
counting = Service("counting", migrations=SQL)
noting = Service("noting", migrations=SQL)


@counting.on(Step, group="count", start="beginning")
async def count(step: Step, tx: Transaction) -> Echo:
    tx.write(INSERT, "count", step.key, step.number)
    return Echo(key=step.key, number=step.number)


@counting.on(State, group="state", start="beginning")
async def state(state: State, tx: Transaction) -> None:
    tx.write(INSERT, "state", state.key, state.number)


@noting.on_batch(Echo, group="batch", start="beginning", size=100)
async def batch(echoes: list[Echo], tx: Transaction) -> None:
    for echo in echoes:
        tx.write(INSERT, "batch", echo.key, echo.number)


@noting.on(Step, Echo, group="both", start="beginning")
async def both(event: Step | Echo, tx: Transaction) -> None:
    tx.write(INSERT, f"both-{type(event).__name__.lower()}", event.key, event.number)


app = App(placing, counting, noting, name="moving", events=[Step, State])


def starving() -> float:
    """Seconds that the main thread of this process has waited for a core since its start, where the system tells."""
    told = Path("/proc/self/schedstat")
    return int(told.read_text().split()[1]) / 1e9 if told.exists() else 0.0


class Publishing:
    """One publisher in one process, and the longest times between two confirmations of each way."""

    def __init__(self, name: str, file: Path, stop: Signal) -> None:
        self.name = name
        self.file = file
        self.stop = stop
        self.confirmed: dict[str, int] = {}
        self.longest: dict[str, float] = {}
        self.begun = starving()
        self.starved: dict[str, float] = {}

    def _paused(self, of: str, before: float) -> float:
        now = time.monotonic()
        starved, self.starved[of] = starving() - self.starved.get(of, self.begun), starving()
        if now - before > LONG:
            text = "%s: nothing of %s was confirmed for %.2f s; its process waited %.2f s of that for a core"
            log.info(text, self.name, of, now - before, starved)
        if now - before > self.longest.get(of, 0.0):
            self.longest[of] = now - before
            self.write()
        return now

    def write(self) -> None:
        """Put on record what is confirmed."""
        said = {"confirmed": self.confirmed, "longest": self.longest}
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(said))
        new.replace(self.file)

    async def in_transactions(self) -> None:
        last, turn = time.monotonic(), 0
        while not self.stop.is_set():
            key = f"t{turn % TX_KEYS}"
            turn += 1
            async with app.transaction(placing) as tx:
                number = await tx.fetch_value(
                    "insert into sent (key, number) values ($1, 1) "
                    "on conflict (key) do update set number = sent.number + 1 returning number", key,
                )  # fmt: skip
                tx.publish(Step(key=key, number=number))
            last = self._paused("outbox", last)
            await asyncio.sleep(0.002)

    async def at_once(self, kind: type[Step | State], prefix: str) -> None:
        last, turn = time.monotonic(), 0
        while not self.stop.is_set():
            key = f"{prefix}{self.name}-{turn % DIRECT_KEYS}"
            turn += 1
            try:
                await app.publish(kind(key=key, number=self.confirmed.get(key, 0) + 1))
            except PublishRefused:
                await asyncio.sleep(0.05)
                continue
            self.confirmed[key] = self.confirmed.get(key, 0) + 1
            self.write()
            last = self._paused(prefix, last)
            await asyncio.sleep(0.002)


async def publish(name: str, stop: Signal) -> None:
    """Publish in both ways until told to stop."""
    async with app.open():
        publishing = Publishing(name, Path(os.environ["MOVING_FOLDER"]) / f"{name}.json", stop)
        await asyncio.gather(
            publishing.in_transactions(), publishing.at_once(Step, "d"), publishing.at_once(State, "s")
        )
        publishing.write()


async def main() -> None:
    """One role of the program."""
    stop = Signal()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    role, name = sys.argv[1:3]
    if role == "handle":
        await app.run(services=[name], stop=stop)
    else:
        await publish(name, stop)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    asyncio.run(main())
