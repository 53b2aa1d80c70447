"""One replay: starts the processes, places the orders, shows how it goes, and waits until all is handled."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evenflow import Settings
from rich.console import Console

from replay.faults import away, with_a_mistake
from replay.figures import Figures, Look
from replay.folder import Folder
from replay.on_call import OnCall
from replay.places import Places
from replay.placing import Customers, new_order
from replay.processes import Processes
from replay.purchases import Purchase
from replay.screen import Progress, Screen, screen_for
from shop import app

LOOK_EVERY = 1.0
LOOK_AGAIN = 0.2
DAY = 10.0
"""Seconds that a day of the services takes."""
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


@contextmanager
def logged(file: Path) -> Iterator[None]:
    """What Evenflow says in this process goes there: it would spoil the screen."""
    log, handler = logging.getLogger("evenflow"), logging.FileHandler(file)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


class Replay:
    """Places the purchases in an app that other processes handle.

    places  where its events and data are
    split   a process for each service
    faults  an order is wrong, a supplier is away for a while, and somebody is there to mend it
    window  seconds that a customer has to pay
    ahead   events that may wait in a group before no more orders are placed: nobody is to wait long for a payment
    """

    def __init__(
        self,
        folder: Folder,
        purchases: Sequence[Purchase],
        console: Console,
        *,
        places: Places,
        split: bool,
        faults: bool,
        window: float,
        ahead: int,
    ) -> None:
        self._folder = folder.path
        self._purchases = purchases
        self._console = console
        self._places = places
        self._split = split
        self._faults = faults
        self._ahead = ahead
        self._customers = Customers(app, window, with_a_mistake(purchases) if faults else new_order)
        self._supplier = ""
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
        with logged(self._folder / "replay.log"), Processes(self._folder) as processes:
            self._say_what_comes()
            await self._start(processes)
            settings = Settings.load(self._places.settings(self._folder))
            async with app.open(settings=settings):
                await self._replay(processes)

    def _say_what_comes(self) -> None:
        first, last = self._purchases[0], self._purchases[-1]
        workers = f"{len(app.services)} workers" if self._split else "worker"
        print(
            f"{len(self._purchases):,} purchases from {first.day} to {last.day}; "
            f"starting provider, supplier, mail server and {workers}",
            flush=True,
        )

    async def _start(self, processes: Processes) -> None:
        provider, supplier, mail = await asyncio.gather(
            processes.server("provider", "outside.provider", "--ledger", str(self._folder / "provider.db")),
            processes.server("supplier", "outside.supplier", *self._supplier_options()),
            processes.server("mail-server", "outside.mail_server", "--mailbox", str(self._folder / "mails.db")),
        )
        self._supplier = f"http://{supplier}"
        places = {
            **{f"EVENFLOW_{name.upper()}": value for name, value in self._places.settings(self._folder).items()},
            "SHOP_PROVIDER": f"http://{provider}",
            "SHOP_SUPPLIER": self._supplier,
            "SHOP_DAY": f"{DAY:g}",
            "SHOP_MAIL": mail,
        }
        command = ["-m", "evenflow", "run", "shop:app", "--log", "text"]
        if not self._split:
            processes.worker("worker", command, places)
            return
        for service in app.services:
            processes.worker(f"worker-{service.name}", [*command, "--service", service.name], places)

    def _supplier_options(self) -> list[str]:
        options = ["--ledger", str(self._folder / "supplier.db")]
        if self._faults:
            after, seconds = away(self._purchases)
            options += ["--away-after", str(after), "--away-for", str(seconds)]
        return options

    async def _replay(self, processes: Processes) -> None:
        figures = Figures(app)
        await self._until_at_work(figures, processes)
        with screen_for(self._console) as screen:
            on_call = OnCall(app, self._purchases, self._supplier, self._teller(screen)) if self._faults else None
            watching = asyncio.create_task(self._watch(figures, processes, screen, on_call))
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

    async def _watch(self, figures: Figures, processes: Processes, screen: Screen, on_call: OnCall | None) -> None:
        """Look, show, and return when all is placed and handled."""
        quiet = -1
        while True:
            processes.refuse_ended()
            before, self._look = self._look, await figures.look()
            self._room = self._ahead - self._look.longest(MAY_WAIT)
            self._looked.set()
            if on_call is not None:
                await on_call.look(self._look)
            states = await figures.states()
            screen.show(self._progress(states), self._look)
            self._refuse_stuck(before)
            over = self._customers.over and not states["placed"] and self._look.quiet and await app.wait_idle(0.0)
            over = over and not (on_call and (on_call.busy or self._look.dead))
            if over and quiet == self._look.taken:  # twice: an event on its way from one place to the next is in none
                return
            quiet = self._look.taken if over else -1
            await asyncio.sleep(LOOK_AGAIN if over else LOOK_EVERY)

    def _teller(self, screen: Screen) -> Callable[[str], None]:
        return lambda what: screen.say(f"{time.monotonic() - self._began:4.0f} s  {what}")

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
