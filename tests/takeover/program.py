"""An app of two groups that notes how long each event has waited: `program.py FOLDER SECONDS` publishes to it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from evenflow import App, Event, Service, Topic, Transaction

HERE = Path(os.environ["TAKEOVER_FOLDER"])
T = Topic("t", partitions=8)
PAUSE = 0.005


class Made(Event, type="made", topic=T, key="key"):
    key: str
    at: float


s = Service("s")
app = App(s, events=[Made])
_file = os.open(HERE / "handled.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)


def note(group: str, made: Made) -> None:
    """When it was published, and how long it has waited, by the clock of all processes here."""
    os.write(_file, f"{group} {made.at} {time.monotonic() - made.at}\n".encode())


@s.on(Made, group="write", start="beginning")
async def write(made: Made, tx: Transaction) -> None:
    note("transactional", made)


@s.on(Made, group="call", start="beginning", concurrency=20)
async def call(made: Made) -> None:
    await asyncio.sleep(0.01)
    note("waiting", made)


async def publish(seconds: float) -> None:
    async with app.open():
        number, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            number += 1
            await app.publish(Made(key=str(number % 64), at=time.monotonic()))
            await asyncio.sleep(PAUSE)


if __name__ == "__main__":
    asyncio.run(publish(float(sys.argv[1])))
