"""A folder with the user's app in it, and the command line in this process or in another."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from evenflow.cli import main

SHOP = '''
import asyncio
from decimal import Decimal
from evenflow import App, Delivery, Event, Policy, Service, Topic, Transaction

ORDERS = Topic("orders", partitions=4, retention=90 * 86400)
BILLING = Topic("billing", partitions=1)
STOCK = Topic("stock")

class Line(Event):
    article: str

class OrderPlaced(Event, type="order.placed", topic=ORDERS, key="order_id"):
    """A customer has ordered."""
    order_id: str
    total: Decimal = Decimal(1)
    lines: tuple[Line, ...] = ()

class PaymentTaken(Event, type="payment.taken", topic=BILLING, key="order_id"):
    order_id: str

class StockMoved(Event, type="stock.moved", topic=STOCK):
    article: str

class Mailer: ...

orders = Service("orders")
billing = Service("billing", policy=Policy(attempts=1))
app = App(orders, billing, name="shop")

@app.provide
def mailer() -> Mailer:
    return Mailer()

@billing.on(OrderPlaced, group="charge")
async def charge(order: OrderPlaced, tx: Transaction) -> PaymentTaken | None:
    if order.order_id == "bad":
        raise ValueError("no card")
    return PaymentTaken(order_id=order.order_id)

@billing.on(PaymentTaken, group="notify")
async def notify(payment: PaymentTaken, mailer: Mailer, delivery: Delivery) -> None: ...

def with_stock() -> App:
    stock = Service("stock")

    @stock.on(StockMoved, group="count")
    async def count(moved: StockMoved, tx: Transaction) -> None: ...

    return App(stock)

other = with_stock()
'''


_PREPARED: dict[str, list[Path]] = {}
"""Folders that are made already, by the function that makes them."""


@dataclass(frozen=True)
class Done:
    """What a command wrote, and its exit code."""

    code: int
    out: str
    err: str


class Shop:
    """The folder of the user."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], kept: Path) -> None:
        self.folder = folder
        self._capsys = capsys
        self._kept = kept
        self._started: list[subprocess.Popen[str]] = []
        self.write("shop.py", SHOP)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"), "utf-8")
        return path

    def prepare(self, make: Callable[[], None]) -> None:
        """Have in `.evenflow` what `make` leaves there. The first test that asks makes it, the others get a copy."""
        kept, stores = _PREPARED.setdefault(f"{make.__module__}.{make.__qualname__}", []), self.folder / ".evenflow"
        if kept:
            shutil.copytree(kept[0], stores)
            return
        make()
        self.stop()
        shutil.copytree(stores, copy := self._kept / f"prepared{len(_PREPARED)}")
        kept.append(copy)

    def evenflow(self, *arguments: str) -> Done:
        """In this process. What the user's modules are is forgotten afterwards."""
        known, path = set(sys.modules), list(sys.path)
        self._capsys.readouterr()
        try:
            code = main(arguments)
        finally:
            sys.path[:] = path
            for name in [n for n in set(sys.modules) - known if not n.startswith("evenflow")]:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if file.startswith(str(self.folder)):
                    del sys.modules[name]
        written = self._capsys.readouterr()
        return Done(code, written.out, written.err)

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """In a process of its own."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("EVENFLOW_", "PYTHON"))}
        process = subprocess.Popen(
            [sys.executable, "-m", "evenflow", *arguments], cwd=self.folder, env={**clean, **env}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # whoever runs the tests may ignore it
        )  # fmt: skip
        self._started.append(process)
        return process

    def start_on(self, terminal: int, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """In a process of its own, on a terminal."""
        process = subprocess.Popen(
            [sys.executable, "-m", "evenflow", *arguments], cwd=self.folder, env=env, text=True,
            stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    def run(self, *arguments: str, **env: str) -> Done:
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=60)
        return Done(process.returncode, out, err)

    def stop(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def shop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kept: Path
) -> Iterator[Shop]:
    for name in [name for name in os.environ if name.startswith("EVENFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:  # of the example
        monkeypatch.delitem(sys.modules, name)
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    level = logging.getLogger("evenflow").level
    shop = Shop(tmp_path, capsys, kept)
    yield shop
    shop.stop()
    logging.getLogger("evenflow").setLevel(level)
    for each, handler in handlers.items():
        signal.signal(each, handler)


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
