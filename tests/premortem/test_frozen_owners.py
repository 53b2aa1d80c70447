"""An owner that is frozen (SIGSTOP) while its handler runs, and thawed when another has taken over: it writes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Service, Transaction
from tests.on_postgres import store_class

from .planted import must_fail
from .stage import EFFECT, Order, drained, drive, effects, ended, eventually, folder, in_child, opened, publishing

KINDS = ("chunk", "lanes", "list")


def app_of(kind: str, path: Path, *, frozen: bool) -> App:
    """Keeps what it handles. In the process that is to be frozen it waits in each event until the file "go" is there."""
    service = Service("shop")

    async def work(order: Order, tx: Transaction) -> None:
        if frozen:
            (path / "begun").touch()
            while not (path / "go").exists():
                await asyncio.sleep(0.01)
        tx.write(EFFECT, order.key, order.number)
        if frozen:
            (path / "returned").touch()

    if kind == "chunk":

        @service.on(Order, group="keep", start="beginning")
        async def each(order: Order, tx: Transaction) -> None:
            await work(order, tx)

    elif kind == "lanes":

        @service.on(Order, group="keep", start="beginning", concurrency=2)
        async def waiting(order: Order, tx: Transaction) -> None:
            await work(order, tx)

    else:

        @service.on_batch(Order, group="keep", start="beginning", size=2)
        async def several(orders: list[Order], tx: Transaction) -> None:
            for order in orders:
                await work(order, tx)

    return App(service, events=[Order])


async def nothing() -> None:
    return


def frozen_owner(kind: str) -> None:
    with folder() as path:

        async def owner() -> None:
            async with opened(app_of(kind, path, frozen=True), path) as running:
                (loop,) = running.loops()
                await eventually(loop.held, 20)
                running.runtimes["shop"]._look = nothing  # type: ignore[method-assign]  # only the fence tells it

                def over() -> bool:
                    through = loop.counters.handled or not (loop.held() or loop.in_flight())
                    return bool((path / "returned").exists() and through)

                await eventually(over, 40)

        async def prepare() -> None:
            app = publishing()
            async with opened(app, path, handle=()):
                await app.publish(*[Order(key="k", number=n) for n in range(3)])

        drive(prepare)
        pid = in_child(owner)

        async def others() -> None:
            await eventually((path / "begun").exists, 20)
            os.kill(pid, signal.SIGSTOP)
            async with opened(app_of(kind, path, frozen=False), path) as running:
                await drained(running, seconds=20)
                (path / "go").touch()
                os.kill(pid, signal.SIGCONT)
                await eventually(lambda: ended_by_now(pid), 20)
                assert (path / "returned").exists()
                assert await effects(running) == [("k", n) for n in range(3)]

        try:
            drive(others, 60)
        finally:
            if not ended_by_now(pid):
                os.kill(pid, signal.SIGKILL)
                ended(pid)


_gone: set[int] = set()


def ended_by_now(pid: int) -> bool:
    if pid not in _gone and os.waitpid(pid, os.WNOHANG)[0] == pid:
        _gone.add(pid)
    return pid in _gone


def fence_ignored(patch: pytest.MonkeyPatch) -> None:
    """Every transaction of a partition goes through, whoever owns it now."""
    kind = store_class()
    real = kind.open

    async def loose(self: Any) -> None:
        await real(self)
        sql = dict(self.sql)
        for name in ("position_guard", "position_move"):
            sql[name] = sql[name].replace("fence = $6", f"{given('$6')}").replace("and next = $7", f"and {given('$7')}")
        self.sql = sql

    def given(value: str) -> str:
        return f"cast({value} as bigint) is not null"

    patch.setattr(kind, "open", loose)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_owner_that_comes_back_late_writes_nothing(kind: str) -> None:
    frozen_owner(kind)


def test_it_would_write_without_the_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    must_fail(lambda: frozen_owner("chunk"), fence_ignored, monkeypatch)
