"""A small program of three services, made to be killed: `program.py worker FOLDER`, `program.py loader FOLDER N SEED`.

Every event is known by its `uid`, "key/incarnation of the loader/number". Keys that begin with "d" are published
directly, with "t" in transactions that draw their number from the store, with "m" both ways in turns. The loader
writes what it tries and what was acknowledged into files of its own; waiting handlers write their calls. None of
these files is written by Evenflow, and the checker reads nothing through it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

from evenflow import App, Delivery, Event, EvenflowError, Policy, Service, Settings, Topic, Transaction
from evenflow.clock import Signal

SQL = Path(__file__).parent / "sql"
ORDERS = Topic("orders", partitions=4)
BILLING = Topic("billing", partitions=2)
SHIPMENTS = Topic("shipments", partitions=4)
LEASE = 2.0
QUICKLY = Policy(attempts=30, first_delay=0.05, factor=2.0, max_delay=1.0, timeout=20.0)
POISON = "d-poison"
"""The key whose fifth order fails for ever in the ledger."""


class OrderPlaced(Event, type="order.placed", topic=ORDERS, key="customer"):
    customer: str
    uid: str
    number: int
    via: str


class Charged(Event, type="charge.made", topic=BILLING, key="customer"):
    customer: str
    uid: str
    number: int


class ShipmentDue(Event, type="shipment.due", topic=SHIPMENTS, key="customer"):
    customer: str
    uid: str
    number: int
    cancelled: bool = False


orders = Service("orders", migrations=SQL)
billing = Service("billing", migrations=SQL, policy=QUICKLY)
shipping = Service("shipping", migrations=SQL, policy=QUICKLY)

COUNT = "insert into counters values ($1, $2, 1) on conflict (grp, key) do update set n = n + 1"
APPLY = (
    "insert into effects (grp, key, seq, uid, pid) values ($1, $2, (select n from counters where grp = $1 and key = $2),"
    " $3, $4)"
)


def apply(tx: Transaction, group: str, key: str, uid: str) -> None:
    """Hand over an effect: the counter and its row."""
    tx.write(COUNT, group, key)
    tx.write(APPLY, group, key, uid, os.getpid())


@billing.on(OrderPlaced, group="charge", start="beginning")
async def charge(order: OrderPlaced, tx: Transaction, delivery: Delivery) -> Charged:
    """Only hands over; fails twice for some events, with something handed over already."""
    apply(tx, "charge", order.customer, order.uid)
    if order.number % 41 == 0 and delivery.attempt <= 2:
        raise ValueError("not now")
    return Charged(customer=order.customer, uid=order.uid, number=order.number)


@billing.on(OrderPlaced, group="balance", start="beginning")
async def balance(order: OrderPlaced, tx: Transaction, delivery: Delivery) -> None:
    """Reads, computes, writes; fails sometimes after its write has run."""
    n = await tx.fetch_value("select n from counters where grp = 'balance' and key = $1", order.customer) or 0
    sql = "insert into counters values ('balance', $1, $2) on conflict (grp, key) do update set n = excluded.n"
    await tx.execute(sql, order.customer, n + 1)
    if order.number % 53 == 0 and delivery.attempt == 1:
        raise ValueError("not now")
    effect = "insert into effects (grp, key, seq, uid, pid) values ('balance', $1, $2, $3, $4)"
    tx.write(effect, order.customer, n + 1, order.uid, os.getpid())


@billing.on_batch(
    OrderPlaced, group="ledger", size=50, start="beginning", policy=Policy(attempts=2, first_delay=0.1, timeout=20.0)
)
async def ledger(placed: list[OrderPlaced], tx: Transaction) -> None:
    """Many at a time; the fifth of one key is a dead letter, and everything of that key stays behind it."""
    for order in placed:
        apply(tx, "ledger", order.customer, order.uid)
        if order.customer == POISON and order.number % 10_000_000 == 5:
            raise ValueError("never")


@shipping.on(Charged, group="ship", start="beginning")
async def ship(charged: Charged, tx: Transaction) -> None:
    """Publishes a due event, and cancels some at once."""
    apply(tx, "ship", charged.customer, charged.uid)
    if charged.number % 7 == 0:
        late = ShipmentDue(customer=charged.customer, uid=charged.uid, number=charged.number, cancelled=True)
        tx.publish(late, after=0.5, name=f"late:{charged.uid}")
        tx.cancel(f"late:{charged.uid}")
    tx.publish(ShipmentDue(customer=charged.customer, uid=charged.uid, number=charged.number), after=0.3)


@shipping.on(ShipmentDue, group="parcel", start="beginning")
async def parcel(due: ShipmentDue, tx: Transaction) -> None:
    apply(tx, "cancelled" if due.cancelled else "parcel", due.customer, due.uid)


@shipping.on(Charged, group="notify", start="beginning", concurrency=20)
async def notify(charged: Charged, delivery: Delivery) -> None:
    """Waits for the outside, at-least-once: its calls stand in a file of its own, not in a database."""
    call = {"uid": charged.uid, "key": charged.customer, "pid": os.getpid()}
    _write(CALLS, {**call, "phase": "start", "at": time.monotonic()})
    await asyncio.sleep(0.002)
    if charged.number % 47 == 0 and delivery.attempt == 1:
        _write(CALLS, {**call, "phase": "failed", "at": time.monotonic()})
        raise ValueError("not now")
    _write(CALLS, {**call, "phase": "end", "at": time.monotonic()})


app = App(orders, billing, shipping, events=[OrderPlaced])
CALLS = -1


def _append_only(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)


def _write(file: int, fact: object, *, sync: bool = False) -> None:
    os.write(file, json.dumps(fact).encode() + b"\n")
    if sync:
        os.fsync(file)


def settings(folder: Path) -> Settings:
    return Settings.load({"folder": str(folder), "lease": LEASE}, env={})


def show_tasks() -> None:
    """For whoever wants to know what a process waits for."""
    for task in asyncio.all_tasks():
        task.print_stack(limit=6)
    for loop in app.opened.loops():
        held = [(each.partition, each.fence, each.next, each.claims, each.lanes) for each in loop.owned.values()]
        logging.error("%s: owned %s, giving %s, due %s", loop.name, held, list(loop._giving), loop._due_at)
        for window in getattr(loop, "_windows", {}).values():
            logging.error("  open %s, head %s, lanes %s", window.open, list(window.entries)[:1], window.lanes)


async def stopping(folder: Path) -> Signal:
    """Set at SIGTERM. Before this, that would end the process at once: a file says that it will not any more."""
    stop = Signal()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, show_tasks)
    (folder / f"listens-{os.getpid()}").touch()
    return stop


async def worker(folder: Path) -> int:
    global CALLS
    CALLS = _append_only(folder / "calls.jsonl")
    clean = await app.run(stop=await stopping(folder), settings=settings(folder))
    return 0 if clean else 1


class Loader:
    """Publishes for ever. A number is used once only, whatever became of its event."""

    def __init__(self, folder: Path, incarnation: int, seed: int) -> None:
        self.random = random.Random(seed * 1000 + incarnation)
        self.incarnation = incarnation
        self.tried = _append_only(folder / "tried.jsonl")
        self.acked = _append_only(folder / "acked.jsonl")
        self.numbers: dict[str, int] = {}
        self.keys = [f"{kind}-{n}" for kind in "dtm" for n in range(8)]

    def order(self, key: str, via: str) -> OrderPlaced:
        n = self.numbers[key] = self.numbers.get(key, self.incarnation * 10_000_000) + 1
        return OrderPlaced(customer=key, uid=f"{key}/{self.incarnation}/{n}", number=n, via=via)

    async def direct(self, keys: list[str]) -> None:
        placed = [self.order(key, "direct") for key in keys]
        for each in placed:
            _write(self.tried, {"uid": each.uid, "via": "direct"})
        await app.publish(*placed)
        self.told(placed)

    async def transaction(self, keys: list[str]) -> None:
        placed = []
        async with app.transaction(orders) as tx:
            for key in keys:
                if key.startswith("t"):
                    sql = "insert into sequences values ($1, 1) on conflict (key) do update set n = n + 1"
                    await tx.execute(sql, key)
                    n = await tx.fetch_value("select n from sequences where key = $1", key)
                    order = OrderPlaced(customer=key, uid=f"{key}/{self.incarnation}/{n}", number=n, via="tx")
                else:
                    order = self.order(key, "tx")
                _write(self.tried, {"uid": order.uid, "via": "tx"})
                tx.write("insert into placed (key, uid) values ($1, $2)", key, order.uid)
                tx.publish(order)
                placed.append(order)
        self.told(placed)

    def told(self, placed: list[OrderPlaced]) -> None:
        _write(self.acked, [each.uid for each in placed], sync=True)

    async def run(self, stop: Signal, *, kinds: str, pause: float) -> None:
        keys = [key for key in self.keys if key[0] in kinds]
        while not stop.is_set():
            chosen = self.random.choices(keys, k=self.random.choice((1, 1, 2, 5, 20)))
            if "d" in kinds and self.random.random() < 0.15:
                chosen.append(POISON)
            try:
                if kinds == "d" or (kinds == "m" and self.random.random() < 0.5):
                    await self.direct(chosen)
                else:
                    await self.transaction(chosen)
            except EvenflowError as error:
                logging.warning("not published: %s", error)
            await asyncio.sleep(self.random.random() * pause)


async def loader(folder: Path, incarnation: int, seed: int) -> int:
    stop = await stopping(folder)
    async with app.open(settings=settings(folder)):
        pace = Loader(folder, incarnation, seed)
        pauses = {"d": 0.06, "t": 0.06, "m": 0.06}
        await asyncio.gather(*(pace.run(stop, kinds=kind, pause=pause) for kind, pause in pauses.items()))
    return 0


def main() -> int:
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {os.getpid()} %(levelname)s %(message)s")
    role, folder, *rest = sys.argv[1:]
    if role == "worker":
        return asyncio.run(worker(Path(folder)))
    incarnation, seed = map(int, rest)
    return asyncio.run(loader(Path(folder), incarnation, seed))


if __name__ == "__main__":
    sys.exit(main())
