"""A small program of three services, made to be killed. `program.py` gives it its roles.

Every event is known by its `uid`, "key/incarnation of the loader/number". Keys that begin with "d" are published
directly, with "t" in transactions that draw their number from the store (incarnation "-"), with "m" both ways in turns, with "r" directly
in long lists. What stands in the folder `CRASH_FOLDER` is written by nobody of Evenflow, and the checker reads nothing
through it. `CRASH_PLANT` names a bug that this process is to have.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from evenflow import App, Delivery, Due, Event, Policy, Service, Topic, Transaction

from . import planted
from .offset import jumping
from .outside import Outside

SQL = Path(__file__).parent / "sql"
FOLDER = Path(os.environ.get("CRASH_FOLDER", "."))
STALL = 0.5
"""Seconds that the event loop may stand still before it is put on record: others may take what is ours then."""

CLOCK = jumping(FOLDER / "clock")
ORDERS = Topic("orders", partitions=4)
READINGS = Topic("readings", partitions=4)
BILLING = Topic("billing", partitions=2)
SHIPMENTS = Topic("shipments", partitions=4)
POISON = "d-poison"
"""The key whose fifth order fails for ever in the ledger."""


class OrderPlaced(Event, type="order.placed", topic=ORDERS, key="customer"):
    customer: str
    uid: str
    number: int


class Measured(Event, type="reading.measured", topic=READINGS, key="meter"):
    meter: str
    uid: str


class Charged(Event, type="charge.made", topic=BILLING, key="customer"):
    customer: str
    uid: str
    number: int


class ShipmentDue(Event, type="shipment.due", topic=SHIPMENTS, key="customer"):
    customer: str
    uid: str
    epoch: int
    cancelled: bool = False


class Broken(Exception):
    """Fails until somebody has mended it: a dead letter at once."""


class NotNow(Exception):
    """Passes when it is tried again."""


QUICKLY = Policy(attempts=40, first_delay=0.05, factor=2.0, max_delay=1.0, timeout=20.0, final=(Broken,))
TWICE = Policy(attempts=2, first_delay=0.1, timeout=20.0, final=(Broken,))

orders = Service("orders", migrations=SQL)
billing = Service("billing", migrations=SQL, policy=QUICKLY)
shipping = Service("shipping", migrations=SQL, policy=QUICKLY)

COUNT = "insert into counters values ($1, $2, 1) on conflict (grp, key) do update set n = counters.n + 1"
APPLY = (
    "insert into effects (grp, key, seq, uid, pid, epoch) values ($1, $2, "
    "(select n from counters where grp = $1 and key = $2), $3, $4, $5)"
)
PID = os.getpid()


def apply(tx: Transaction, group: str, key: str, uid: str, epoch: int = 0) -> None:
    """Hand over an effect: the counter and its row."""
    tx.write(COUNT, group, key)
    tx.write(APPLY, group, key, uid, PID, epoch)


def ran(tx: Transaction, due: Due) -> None:
    """Hand over that a schedule has run."""
    sql = "insert into runs (name, due, missed, manual, epoch, pid) values ($1, $2, $3, $4, $5, $6)"
    tx.write(sql, due.name, due.due.timestamp(), due.missed, due.manual, CLOCK.moment()[1], PID)


def mended(group: str, uid: str) -> Path:
    """A file that is there once an event that is broken for this group is mended."""
    return FOLDER / "mended" / f"{group} {uid.replace('/', ' ')}"


# -- billing ----------------------------------------------------------------------------------------------------------


@billing.on(OrderPlaced, group="charge", start="beginning")
async def charge(order: OrderPlaced, tx: Transaction, delivery: Delivery) -> Charged:
    """Only hands over; fails twice for some events, and for some until they are mended."""
    apply(tx, "charge", order.customer, order.uid)
    if order.number % 41 == 0 and delivery.attempt <= 2:
        raise NotNow
    if order.number % 150 == 7 and not mended("charge", order.uid).exists():
        raise Broken
    return Charged(customer=order.customer, uid=order.uid, number=order.number)


@billing.on(OrderPlaced, group="balance", start="beginning")
async def balance(order: OrderPlaced, tx: Transaction, delivery: Delivery) -> None:
    """Reads, computes, writes; fails sometimes after its write has run."""
    n = await tx.fetch_value("select n from counters where grp = 'balance' and key = $1", order.customer) or 0
    sql = "insert into counters values ('balance', $1, $2) on conflict (grp, key) do update set n = excluded.n"
    await tx.execute(sql, order.customer, n + 1)
    if order.number % 53 == 0 and delivery.attempt == 1:
        raise NotNow
    effect = "insert into effects (grp, key, seq, uid, pid) values ('balance', $1, $2, $3, $4)"
    tx.write(effect, order.customer, n + 1, order.uid, PID)


@billing.on_batch(OrderPlaced, group="ledger", size=50, start="beginning", policy=TWICE)
async def ledger(placed: list[OrderPlaced], tx: Transaction) -> None:
    """Many at a time. The fifth of one key is a dead letter for ever, and everything of that key stays behind it."""
    for order in placed:
        apply(tx, "ledger", order.customer, order.uid)
        if order.customer == POISON and order.number == 5:
            raise Broken
        if order.number % 170 == 9 and order.customer != POISON and not mended("ledger", order.uid).exists():
            raise Broken


@billing.on(OrderPlaced, group="again", start="beginning")
async def again(order: OrderPlaced, tx: Transaction, delivery: Delivery) -> None:
    """A person sends this group back now and then."""
    apply(tx, "again", order.customer, order.uid)
    if order.number % 10 == 3 and delivery.attempt <= 4:
        raise NotNow


@billing.on(Measured, group="tally", start="beginning")
async def tally(measured: Measured, tx: Transaction) -> None:
    """The mass of events: nothing but one effect each."""
    apply(tx, "tally", measured.meter, measured.uid)


@billing.every("sweep", 1.0, missed="all")
async def sweep(due: Due, tx: Transaction, delivery: Delivery) -> None:
    """One run for each second, also for those at which no process was there."""
    ran(tx, due)
    if int(due.due.timestamp()) % 7 == 0 and delivery.attempt == 1:
        raise NotNow


# -- shipping ---------------------------------------------------------------------------------------------------------


@shipping.on(Charged, group="ship", start="beginning")
async def ship(charged: Charged, tx: Transaction) -> None:
    """Publishes a due event, and cancels some at once."""
    apply(tx, "ship", charged.customer, charged.uid)
    now, epoch = CLOCK.moment()
    due = ShipmentDue(customer=charged.customer, uid=charged.uid, epoch=epoch)
    if charged.number % 7 == 0:
        tx.publish(replace(due, cancelled=True), after=0.5, name=f"late:{charged.uid}")
        tx.cancel(f"late:{charged.uid}")
    tx.publish(due, at=now + 0.3)


@shipping.on(ShipmentDue, group="parcel", start="beginning")
async def parcel(due: ShipmentDue, tx: Transaction) -> None:
    """Those of one key come in the order of their times; which is that of publishing while the clock does not jump."""
    apply(tx, "cancelled" if due.cancelled else "parcel", due.customer, due.uid, due.epoch)


@shipping.on(Charged, group="notify", start="beginning", concurrency=20)
async def notify(charged: Charged, outside: Outside, delivery: Delivery) -> None:
    """Waits for the outside, at-least-once: the service there keeps a ledger of who has called."""
    await outside.call(charged.uid, charged.customer, delivery.id, delivery.attempt)


@shipping.on(Charged, group="confirm", start="beginning", concurrency=20)
async def confirm(charged: Charged, tx: Transaction, delivery: Delivery) -> None:
    """Waits, and writes with its settle: at-least-once for what it does outside, once for what it writes."""
    apply(tx, "confirm", charged.customer, charged.uid)
    await asyncio.sleep(0.02)
    if charged.number % 37 == 0 and delivery.attempt == 1:
        raise NotNow


@shipping.cron("minutely", "* * * * *")
async def minutely(due: Due, tx: Transaction) -> None:
    """One run for all minutes that were missed. The clock that jumps brings enough of them."""
    ran(tx, due)


# -- the process ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def lifespan(_: App) -> AsyncGenerator[None]:
    """Keeps a record of when the event loop of this process has stood still, and that its start is over."""
    tasks = asyncio.create_task(_stalls()), asyncio.create_task(_started())
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def _started() -> None:
    """From then on it waits for servers that are away; before, it may end and say so."""
    while app.opened._upkeep is None:
        await asyncio.sleep(0.02)
    (FOLDER / f"opened-{PID}").touch()


async def _stalls() -> None:
    file = append_only(FOLDER / "faults.jsonl")
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.1)
        if time.monotonic() - before > 0.1 + STALL:
            write(file, {"what": "stall", "pid": PID, "at": before})
            write(file, {"what": "stalled", "pid": PID, "at": time.monotonic()})


def append_only(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)


def write(file: int, fact: object) -> None:
    """One line, in one call of the system: a kill leaves all of it or nothing."""
    os.write(file, json.dumps(fact).encode() + b"\n")


app = App(orders, billing, shipping, events=[OrderPlaced, Measured], lifespan=lifespan)


@app.provide
async def outside() -> AsyncGenerator[Outside]:
    client = Outside(FOLDER / "outside")
    yield client
    client.close()


planted.plant(os.environ.get("CRASH_PLANT", ""))
