"""What is done to servers and to the network before them. Each harm ends by itself after a while, at the latest in peace.

One at a time for each server and each link. How long it lasts, and a little longer, stands on record ("harmed",
"well", both with its number): what is at-least-once may repeat in that time.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg

from services.places import ServiceError
from .harm import SICK
from .looking import SERVICES
from .pair import Machine, System
from .record import Record

AFTER = 6.0
"""Seconds after a harm within which what it has left undone may be done again."""
UNNOTICED = 35.0
"""The same for connections that were lost without a word: nobody knows before his patience ends."""
SERVER = {"kill server": 3, "freeze server": 2, "fill server": 1}
LINK = {"cut": 3, "reset": 3, "half-open": 2, "forget": 1, "delay": 1}
TABLE = {"lock table": 2}


class Outages:
    """Plans are of the kind "end", and name what `end` is to be called with. `until`: when processes are well again."""

    def __init__(self, system: System, record: Record, chance: random.Random) -> None:
        self.system = system
        self.random = chance
        self.until = 0.0
        self._record = record
        self._harmed: dict[str, tuple[str, int]] = {}
        self._starting: dict[str, threading.Thread] = {}
        self._lock: psycopg.Connection[tuple[object, ...]] | None = None
        self._count = 0

    @property
    def mix(self) -> dict[str, int]:
        """Which of them there can be, and how often."""
        found = {**(SERVER if self.system.machines else {}), **(LINK if self.system.links else {})}
        return {**found, **(TABLE if self.system.pair.store == "postgres" else {})}

    def strike(self, what: str) -> None:
        """One of them, on something that is well."""
        if what in SERVER:
            if well := [name for name in self.system.machines if name not in self._harmed]:
                self._strike_server(what, self.random.choice(well))
        elif what in TABLE:
            self._lock_table()
        elif well := [name for name in self.system.links if name not in self._harmed]:
            self._strike_link(what, self.random.choice(well))

    # -- servers ----------------------------------------------------------------------------------------------------

    def _strike_server(self, what: str, name: str) -> None:
        server, disk = self.system.machines[name]
        if what == "kill server":
            self._begin(name, f"kill {name}", self.random.choice((0.0, 0.5, 3.0)))
            server.kill()
        elif what == "freeze server":
            self._begin(name, f"freeze {name}", self.random.choice((0.5, 3.0, 8.0)))
            server.freeze()
        elif disk.fill():
            self._begin(name, f"fill {name}", self.random.choice((0.5, 2.0, 5.0)))

    def _start(self, name: str) -> None:
        """It serves again, soon: to start takes seconds, in which other things go on."""
        machine = self.system.machines[name]
        self._starting[name] = threading.Thread(target=_start, args=(machine,))
        self._starting[name].start()
        self._later(0.1, f"started {name}")

    def _started(self, name: str) -> None:
        if self._starting[name].is_alive():
            self._later(0.1, f"started {name}")
        else:
            del self._starting[name]
            self._end(name)

    # -- links ------------------------------------------------------------------------------------------------------

    def _strike_link(self, what: str, name: str) -> None:
        proxy, way = self.system.links[name], self.random.choice(("both", "up", "down"))
        seconds = 0.0 if what in ("reset", "forget") else self.random.choice((0.3, 2.0, 6.0))
        self._begin(name, f"{what} {name}", seconds)
        acts: dict[str, Callable[[], None]] = {
            "cut": proxy.cut,
            "reset": proxy.reset,
            "forget": proxy.forget,
            "delay": lambda: proxy.delay(self.random.choice((0.02, 0.1, 0.4))),
            "half-open": lambda: proxy.swallow(up=way != "down", down=way != "up"),
        }
        acts[what]()

    # -- tables -----------------------------------------------------------------------------------------------------

    def _lock_table(self) -> None:
        """Somebody else holds a lock of a service's tables, as a migration of another tool does."""
        service = self.random.choice(SERVICES)
        table = self.random.choice(("evenflow_position", "evenflow_outbox", "evenflow_parked", "effects"))
        if "table" in self._harmed or "postgres" in self._harmed:
            return
        with suppress(psycopg.Error):
            self._lock = psycopg.connect(self.system.database(service), connect_timeout=2)
            self._lock.execute(b"set lock_timeout = '300ms'")
            self._lock.execute(f"lock table {service}.{table}".encode())
            self._begin("table", "lock table", self.random.choice((0.5, 2.0, 5.0)))
            return
        self._unlock()

    def _unlock(self) -> None:
        """By hanging up: the server may be frozen, and answers nothing."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # -- the beginning and the end of each --------------------------------------------------------------------------

    def _begin(self, where: str, what: str, seconds: float) -> None:
        self._count += 1
        self._harmed[where] = what, self._count
        now = time.monotonic()
        self._record.note(what, 0, now)
        self._record.note("harmed", self._count, now)
        self.until = max(self.until, now + seconds + SICK)
        self._later(seconds, f"heal {where}")

    def _later(self, seconds: float, what: str) -> None:
        self._record.later(seconds, "end", what)

    def end(self, plan: str) -> None:
        """What was planned for now."""
        what, _, where = plan.partition(" ")
        if what == "started":
            self._started(where)
        elif where in self.system.machines:
            self.system.machines[where].disk.free()
            self._start(where)
        else:
            if where == "table":
                self._unlock()
            elif not self._forgot(where):
                self.system.links[where].heal()
            self._end(where)

    def _end(self, where: str) -> None:
        end = time.monotonic() + (UNNOTICED if self._forgot(where) else AFTER)
        self.until = max(self.until, time.monotonic() + SICK)
        self._record.note("well", self._harmed.pop(where)[1], end)

    def _forgot(self, where: str) -> bool:
        return self._harmed[where][0].startswith("forget")

    def peace(self) -> None:
        """Everything is well from now on. Plans that are left may be forgotten."""
        self._unlock()
        for proxy in self.system.links.values():
            proxy.heal()
        for thread in self._starting.values():
            thread.join()
        for machine in self.system.machines.values():
            machine.disk.free()
            _start(machine)
        self._starting.clear()
        for where in list(self._harmed):
            self._end(where)


def _start(machine: Machine) -> None:
    """Start or thaw it, whatever was done to it. One whose disk was full may end once more while it starts."""
    with suppress(ServiceError):
        machine.server.start()
        return
    machine.server.kill()
    machine.server.start()
