"""Kills, freezes, thaws and restarts the program at seeded random moments, harms its machine, and lets it drain."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from .children import LEASE, Child, thaw
from .crew import Crew
from .draining import wait_drained
from .harm import Harm
from .outages import Outages
from .pair import Pair, System
from .record import Record

WAYS = ("program", "program", "command", "2")
"""How a worker is started: by our own program, by `evenflow run`, or by that with so many `--workers`."""
MIX = {
    "kill": 10, "several": 3, "everything": 1, "freeze": 8, "loader": 4, "freeze_loader": 1, "operator": 1, "leave": 2,
    "reload": 2, "shift": 2,
}  # fmt: skip
"""How often each fault comes to the processes, on every pair; what else there is says how often itself."""
PATIENCE = 40.0
"""Seconds that the publishes which are begun may take once all servers are well: an append ends after 30."""
SETTLE = 1.5
"""Seconds by which schedules have seen the clock jump, so that all that is due then is there to be waited for."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """pace: seconds between two faults, about. plant: the bug that the program is to have. disk: whether it may fill.

    rate: events per second, about. ways: how workers are started, each time by chance.
    mix: how often each fault comes, where it is not the usual. pair: engine and store.
    """

    seed: int
    pace: float = 1.1
    drain: float = 60.0
    plant: str = ""
    disk: bool = True
    rate: int = 1500
    workers: int = 3
    ways: tuple[str, ...] = WAYS
    mix: dict[str, int] | None = None
    pair: Pair = Pair()


class Nemesis:
    """One run: `run(seconds)`, then the folder holds everything that the checker wants."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder = folder
        self.options = options
        self.random = random.Random(options.seed)
        self.drained = float("nan")
        self.done = False
        (folder / "mended").mkdir(parents=True)
        self.record = Record(folder)
        self.system = System(folder, options.pair, options.seed, disk=options.disk)
        files = [self.system.files / f"{name}.db" for name in options.pair.files]
        self.harm = Harm(self.record, self.random, self.system.disk, files, folder / "clock")
        self.outages = Outages(self.system, self.record, self.random)
        self.mix = options.mix or {**MIX, **self.harm.mix, **self.outages.mix}
        self.crew = Crew(
            folder,
            self.record,
            self.random,
            lambda: time.monotonic() < max(self.harm.until, self.outages.until),
            seed=options.seed,
            ways=options.ways,
            servers=bool(self.system.machines),
            environment={
                **self.system.environment,
                "CRASH_PLANT": options.plant,
                "CRASH_RATE": str(options.rate),
            },
        )

    def run(self, seconds: float, faults: int = 0) -> None:
        """Faults for so long, and so many, then peace; raises nothing: what went wrong stands in `record.complaints`."""
        try:
            self.crew.begin(self.options.workers)
            end = time.monotonic() + seconds
            strike = time.monotonic() + min(2.0, 2 * self.options.pace)
            while time.monotonic() < end or self.record.faults < faults:
                self.turn()
                if time.monotonic() >= strike:
                    self.strike()
                    strike = time.monotonic() + self.options.pace * (0.25 + self.random.expovariate(1 / 0.75))
                time.sleep(0.02)
            self.peace()
            self.system.copy()
        finally:
            self.harm.peace()
            self.crew.kill_all()

    def close(self) -> None:
        """Servers, proxies and disks go."""
        self.system.close()

    def turn(self) -> None:
        """Do what was planned for now, and look after the processes."""
        for what, name in self.record.due():
            if what == "thaw":
                self.thaw(int(name))
            elif what == "start":
                self.crew.start_again(name)
            elif what == "go":
                self.go(name)
            elif what == "end":
                self.outages.end(name)
            else:
                self.harm.end(what)
        self.crew.watch()

    # -- what is done to processes ----------------------------------------------------------------------------------

    def strike(self) -> None:
        """One random fault."""
        what = self.random.choices(list(self.mix), list(self.mix.values()))[0]
        if what in self.outages.mix:
            self.outages.strike(what)
        elif what in self.harm.mix:
            self.harm.strike(what)
        elif what in ("loader", "operator"):
            if (child := self.crew.children[what]).running:
                self.kill(child, child.pid)
        else:
            getattr(self, f"strike_{what}")()

    def strike_kill(self) -> None:
        self.strike_several(1)

    def strike_several(self, number: int = 2) -> None:
        victims = self.crew.victims()
        for victim in self.random.sample(victims, min(number, len(victims))):
            self.kill(*victim)

    def strike_everything(self) -> None:
        """All workers, and who supervises them, at the same moment."""
        for child in self.crew.workers:
            if child.running:
                for pid in {*child.workers(), child.pid}:
                    self.record.note("kill", pid)
                child.frozen.clear()
                child.kill_all()
                self.record.later(self.random.choice((0.0, 0.0, 1.0)), "start", child.name)

    def strike_freeze(self) -> None:
        if victims := self.crew.victims():
            self.freeze(*self.random.choice(victims))

    def strike_freeze_loader(self) -> None:
        self.freeze(self.crew.children["loader"], self.crew.children["loader"].pid)

    def strike_leave(self) -> None:
        if workers := self.crew.workers:
            self.crew.leave(self.random.choice(workers))

    def strike_reload(self) -> None:
        """Every supervisor replaces its workers, one after another, as with new code."""
        there = [each for each in self.crew.workers if each.running and each.ready and not each.leaving]
        if supervisors := [each for each in there if each.supervises]:
            self.record.note("reload")
            for child in supervisors:
                child.send(signal.SIGHUP)

    def strike_shift(self) -> None:
        """Workers join in numbers and leave again, or half of them leave: everybody's share of the partitions changes."""
        workers = self.crew.workers
        if self.random.random() < 0.5:
            for child in self.random.sample(workers, len(workers) // 2):
                self.crew.leave(child)
        elif len(workers) <= self.options.workers:
            self.record.note("join")
            for name in (self.crew.join(), self.crew.join()):
                self.record.later(self.random.choice((6.0, 12.0)), "go", name)

    def go(self, name: str) -> None:
        """One that has joined leaves for good, as soon as it can."""
        if name in self.crew.children:
            self.crew.leave(self.crew.children[name])
            self.record.later(1.0, "go", name)

    def kill(self, child: Child, pid: int) -> None:
        self.record.note("kill", pid)
        child.frozen.discard(pid)
        child.kill(pid)
        if pid == child.pid:
            self.record.later(self.random.choice((0.0, 0.0, 0.5, 3.0)), "start", child.name)

    def freeze(self, child: Child, pid: int) -> None:
        if pid not in child.frozen and child.running and not (child.supervises and pid == child.pid):
            child.frozen.add(pid)
            self.record.note("freeze", pid)
            child.send(signal.SIGSTOP, pid)
            self.record.later(LEASE * self.random.choice((0.2, 1.5, 2.5)), "thaw", str(pid))

    def thaw(self, pid: int) -> None:
        """Also of one whose supervisor is no more by now."""
        self.record.note("thaw", pid)
        thaw(pid)
        for child in self.crew.children.values():
            child.frozen.discard(pid)

    # -- the end ----------------------------------------------------------------------------------------------------

    def peace(self) -> None:
        """Everything runs again; the loader stops; what is left must drain in time; then all end."""
        self.harm.peace()
        self.outages.peace()
        for what, pid in [plan[1:] for plan in self.record.plans]:
            if what == "thaw":
                self.thaw(int(pid))
        self.crew.start_all()
        self.record.plans.clear()
        time.sleep(1.0)
        while self.crew.leaving:
            self.turn()
            time.sleep(0.05)
        if self.crew.children.pop("loader").end(PATIENCE) != 0:
            self.crew.complain("the loader did not end cleanly when it was asked to; see loader.log")
        (self.folder / "peace").touch()
        self.harm.clock.settle()
        time.sleep(SETTLE)
        self.wait_drained()
        self.crew.end()

    def wait_drained(self) -> None:
        """Until nothing is left."""
        began, patience = time.monotonic(), self.options.drain
        with self.system.look() as look:
            rest = wait_drained(look, patience, self.turn)
        self.drained, self.done = time.monotonic() - began, not rest
        if rest:
            for child in self.crew.children.values():
                child.show()
            self.record.complaints.append(f"nothing has got less for {patience:g} s after the last fault: {rest}")
