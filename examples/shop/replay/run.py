"""One replay: starts the processes, places the orders, shows how it goes, and waits until all is handled."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import Sequence

from evenflow import Settings
from rich.console import Console

from replay.figures import Figures, Look
from replay.folder import Folder
from replay.placing import Customers
from replay.processes import Processes
from replay.purchases import Purchase
from replay.screen import Progress, Screen, screen_for
from shop import app

LOOK_EVERY = 1.0
LOOK_AGAIN = 0.2
START = 60.0
"""Seconds that the workers may take until each group has begun."""
MAY_WAIT = {"notifications.send"}
"""How many wait here does not matter: a mail may come later."""
STUCK = 120.0
"""Seconds in which at least one event must be handled while some are left."""
STUCK_DEAD = 20.0
"""The same, when there are dead letters: something waits behind them for ever."""


class Stuck(Exception):
    """Nothing moves any more, and something is left."""


class Replay:
    """Places the purchases in an app that other processes handle.

    split   a process for each service
    window  seconds that a customer has to pay
    ahead   events that may wait in a group before no more orders are placed: nobody is to wait long for a payment
    """

    def __init__(
        self, folder: Folder, purchases: Sequence[Purchase], console: Console, *, split: bool, window: float, ahead: int
    ) -> None:
        self._folder = folder.path
        self._purchases = purchases
        self._console = console
        self._split = split
        self._ahead = ahead
        self._customers = Customers(app, window)
        self._began = time.monotonic()
        self._moved = self._began
        self._look: Look
        self._looked = asyncio.Event()
        self._room = 0

    async def run(self) -> None:
        """Returns when all is handled and all processes have ended. Raises `Ended`, `Stuck`; Ctrl-C cancels it."""
        task = asyncio.current_task()
        assert task is not None
        for each in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does
            asyncio.get_running_loop().add_signal_handler(each, task.cancel)
        log = logging.FileHandler(self._folder / "replay.log")  # what is said here would spoil the screen
        logging.getLogger("evenflow").addHandler(log)
        with Processes(self._folder) as processes:
            self._say_what_comes()
            await self._start(processes)
            settings = Settings.load({"folder": self._folder})
            async with app.open(settings=settings):
                await self._replay(processes)

    def _say_what_comes(self) -> None:
        first, last = self._purchases[0], self._purchases[-1]
        workers = f"{len(app.services)} workers" if self._split else "worker"
        print(
            f"{len(self._purchases):,} purchases from {first.day} to {last.day}; "
            f"starting provider, mail server and {workers}",
            flush=True,
        )

    async def _start(self, processes: Processes) -> None:
        provider, mail = await asyncio.gather(
            processes.server("provider", "outside.provider", "--ledger", str(self._folder / "provider.db")),
            processes.server("mail-server", "outside.mail_server", "--mailbox", str(self._folder / "mails.db")),
        )
        places = {
            "EVENFLOW_FOLDER": str(self._folder),
            "SHOP_PROVIDER": f"http://{provider}",
            "SHOP_MAIL": mail,
        }
        command = ["-m", "evenflow", "run", "shop:app", "--log", "text"]
        if not self._split:
            processes.worker("worker", command, places)
            return
        for service in app.services:
            processes.worker(f"worker-{service.name}", [*command, "--service", service.name], places)

    async def _replay(self, processes: Processes) -> None:
        figures = Figures(app)
        await self._until_at_work(figures, processes)
        with screen_for(self._console) as screen:
            watching = asyncio.create_task(self._watch(figures, processes, screen))
            placing = asyncio.create_task(self._customers.replay(self._purchases, self._may_go))
            try:
                await asyncio.wait((watching, placing), return_when=asyncio.FIRST_EXCEPTION)
                await asyncio.gather(watching, placing)
            finally:
                for each in (watching, placing):
                    each.cancel()
                await asyncio.gather(watching, placing, return_exceptions=True)

    async def _until_at_work(self, figures: Figures, processes: Processes) -> None:
        """A group that is new begins with the events after it, so none is placed before all have begun."""
        deadline = time.monotonic() + START
        while not (look := await figures.look()).at_work:
            processes.refuse_ended()
            if time.monotonic() >= deadline:
                raise Stuck(f"not every group began within {START:g} s: see the logs in {self._folder}")
            await asyncio.sleep(0.05)
        self._look = look

    async def _may_go(self, orders: int) -> None:
        while self._room <= 0:
            self._looked.clear()
            await self._looked.wait()
        self._room -= orders

    async def _watch(self, figures: Figures, processes: Processes, screen: Screen) -> None:
        """Look, show, and return when all is placed and handled."""
        quiet = -1
        while True:
            processes.refuse_ended()
            before, self._look = self._look, await figures.look()
            self._room = self._ahead - self._look.longest(MAY_WAIT)
            self._looked.set()
            states = await figures.states()
            screen.show(self._progress(states), self._look)
            self._refuse_stuck(before)
            over = self._customers.over and not states["placed"] and self._look.quiet and await app.wait_idle(0.0)
            if over and quiet == self._look.taken:  # twice: an event on its way from one place to the next is in none
                return
            quiet = self._look.taken if over else -1
            await asyncio.sleep(LOOK_AGAIN if over else LOOK_EVERY)

    def _progress(self, states: Counter[str]) -> Progress:
        settled = states["paid"] + states["cancelled"]
        customers = self._customers
        seconds = time.monotonic() - self._began
        return Progress(len(self._purchases), customers.placed, settled, customers.latest, seconds)

    def _refuse_stuck(self, before: Look) -> None:
        if self._look.stopped:
            raise Stuck("\n".join(("a group has stopped:", *self._look.stopped)))
        if (self._look.taken, self._look.waiting) != (before.taken, before.waiting):
            self._moved = time.monotonic()
        elif time.monotonic() - self._moved > (STUCK_DEAD if self._look.dead else STUCK):
            left = [f"{each.group}: {each.waiting:,} waiting, {each.dead:,} dead" for each in self._look.groups]
            raise Stuck("\n  ".join(("nothing moves any more (`evenflow parked list` shows what failed):", *left)))
