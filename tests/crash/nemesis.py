"""Kills, freezes, thaws and restarts the program at seeded random moments, harms its machine, and lets it drain.

Touches only processes that it has started itself, and those that these have started.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .children import LEASE, Child, alive, command_of, kill_pids, thaw
from .draining import amount, left
from .harm import Lock, WallClock
from .looking import Look
from .outages import AFTER, Outages
from .pair import Pair, System

WAYS = ("program", "program", "command", "2")
"""How a worker is started: by our own program, by `evenflow run`, or by that with so many `--workers`."""
LOOSE = ("outside", "loader", "operator")
MIX = {
    "kill": 10, "several": 3, "everything": 1, "freeze": 8, "loader": 4, "freeze loader": 1, "operator": 1, "leave": 2,
    "reload": 2, "jump": 2, "shift": 2,
}  # fmt: skip
"""How often each fault comes, on every pair."""
FILES = {"fill": 1, "hold": 2}
"""Where there are files of SQLite."""
UNAVAILABLE = 5
"""Exit code of what could not begin, since a server did not answer. A slow machine is enough for that."""
PATIENCE = 75.0
"""Seconds that a publish may take where the engine does not answer: its turn and its append, 30 each, and some."""
SETTLE = 1.5
"""Seconds by which schedules have seen the clock jump, so that all that is due then is there to be waited for."""
SICK = 8.0
"""Seconds after a full disk or a locked file in which a process may refuse to start, or take its time to end."""


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
        self.children: dict[str, Child] = {}
        self.extra = 0
        self.planned: list[tuple[float, str, str]] = []
        self.incarnations: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.drained = float("nan")
        self.done = False
        self.sick = 0.0
        self.orphans: set[int] = set()
        (folder / "mended").mkdir(parents=True)
        self.system = System(folder, options.pair, options.seed, disk=options.disk)
        self.outages = Outages(
            self.system, self.random, self.note, lambda seconds, what: self.later(seconds, "end", what)
        )
        self.mix = options.mix or {**MIX, **(FILES if options.pair.files else {}), **self.outages.mix}
        self.clock = WallClock(folder / "clock")
        self.lock: Lock | None = None

    # -- what happens -----------------------------------------------------------------------------------------------

    def note(self, what: str, pid: int = 0, at: float | None = None) -> None:
        self.counts[what] += 1
        fact = {"what": what, "pid": pid, "at": time.monotonic() if at is None else at}
        with (self.folder / "faults.jsonl").open("a") as file:
            file.write(json.dumps(fact) + "\n")

    def start(self, name: str) -> None:
        self.incarnations[name] += 1
        environment = {
            **os.environ, "CRASH_FOLDER": str(self.folder), "CRASH_PLANT": self.options.plant,
            "CRASH_RATE": str(self.options.rate), "EVENFLOW_LEASE": str(LEASE), "PYTHONUNBUFFERED": "1",
            **self.system.environment,
        }  # fmt: skip
        if name in self.children:
            self.orphans |= self.children[name].known
        command = command_of(
            name, self.random.choice(self.options.ways), self.incarnations[name], self.options.seed, self.folder
        )
        self.children[name] = Child(name, command, self.folder, environment)
        self.note("start", self.children[name].pid)

    def victims(self) -> list[tuple[Child, int]]:
        """All processes in which handlers run, and those that supervise them."""
        workers = [child for name, child in self.children.items() if name not in LOOSE and child.running]
        return [(child, pid) for child in workers for pid in {*child.workers(), child.pid}]

    def kill(self, child: Child, pid: int) -> None:
        self.note("kill", pid)
        child.frozen.discard(pid)
        child.kill(pid)
        if pid == child.pid:
            self.later(self.random.choice((0.0, 0.0, 0.5, 3.0)), "start", child.name)

    def freeze(self, child: Child, pid: int) -> None:
        if pid not in child.frozen and child.running and not (child.supervises and pid == child.pid):
            child.frozen.add(pid)
            self.note("freeze", pid)
            child.send(signal.SIGSTOP, pid)
            self.later(LEASE * self.random.choice((0.2, 1.5, 2.5)), "thaw", str(pid))

    def thaw(self, pid: int) -> None:
        """Also of one whose supervisor is no more by now."""
        self.note("thaw", pid)
        thaw(pid)
        for child in self.children.values():
            child.frozen.discard(pid)

    def leave(self, child: Child) -> None:
        """A clean stop, as of a deployment; `watch` sees to its end while faults go on."""
        if child.running and not child.frozen and not child.leaving and child.ready:
            self.note("leave", child.pid)
            child.leaving = time.monotonic() + 40.0
            child.send(signal.SIGTERM)

    def reload(self) -> None:
        """Every supervisor replaces its workers, one after another, as with new code."""
        for child in self.children.values():
            if child.supervises and child.running and child.ready and not child.leaving:
                self.note("reload", child.pid)
                child.send(signal.SIGHUP)

    def later(self, seconds: float, what: str, name: str) -> None:
        self.planned.append((time.monotonic() + seconds, what, name))

    def strike(self) -> None:
        """One random fault."""
        what = self.random.choices(list(self.mix), list(self.mix.values()))[0]
        victims = self.victims()
        if what in ("loader", "operator") and self.children[what].running:
            self.kill(self.children[what], self.children[what].pid)
        elif what == "freeze loader":
            self.freeze(self.children["loader"], self.children["loader"].pid)
        elif what == "several":
            for victim in self.random.sample(victims, min(2, len(victims))):
                self.kill(*victim)
        elif what == "everything":
            self.everything()
        elif what in ("fill", "hold", "jump", "reload", "shift"):
            getattr(self, what)()
        elif what in self.outages.mix:
            self.outages.strike(what)
        elif what == "leave":
            self.leave(self.random.choice([each for name, each in self.children.items() if name not in LOOSE]))
        elif victims and what in ("kill", "freeze"):
            getattr(self, what)(*self.random.choice(victims))

    def shift(self) -> None:
        """Workers join in numbers and leave again, or half of them leave: everybody's share of the partitions changes."""
        workers = [child for name, child in self.children.items() if name not in LOOSE]
        self.note("shift")
        if self.random.random() < 0.5:
            for child in self.random.sample(workers, len(workers) // 2):
                self.leave(child)
        elif len(workers) <= self.options.workers:
            for _ in range(2):
                self.extra += 1
                self.start(f"worker-extra-{self.extra}")
                self.later(self.random.choice((6.0, 12.0)), "go", f"worker-extra-{self.extra}")

    def go(self, name: str) -> None:
        """One that has joined leaves for good, as soon as it can."""
        if name in self.children:
            self.leave(self.children[name])
            self.later(1.0, "go", name)

    def everything(self) -> None:
        """All workers, and who supervises them, at the same moment."""
        for name, child in self.children.items():
            if name not in LOOSE and child.running:
                for pid in {*child.workers(), child.pid}:
                    self.note("kill", pid)
                child.frozen.clear()
                child.kill_all()
                self.later(self.random.choice((0.0, 0.0, 1.0)), "start", name)

    # -- harm to the machine ----------------------------------------------------------------------------------------

    def fill(self) -> None:
        if self.system.disk.fill():
            self.trouble("fill", self.random.choice((0.3, 1.0, 3.0)), "free")

    def lock_file(self) -> Path:
        return self.system.files / f"{self.random.choice(self.options.pair.files)}.db"

    def hold(self) -> None:
        """Another program holds the write lock of one of the files."""
        with suppress(sqlite3.Error):
            if self.lock is None:
                self.lock = Lock(self.lock_file())
                self.trouble("lock", self.random.choice((0.5, 2.0, 6.5)), "unlock")

    def trouble(self, what: str, seconds: float, end: str) -> None:
        self.note(what)
        self.sick = max(self.sick, time.monotonic() + seconds + SICK)
        self.later(seconds, end, "")

    def unlock(self) -> None:
        if self.lock is not None:
            self.lock.release()
            self.lock = None
            self.note("unlocked")

    def free(self) -> None:
        self.system.disk.free()
        self.note("freed")

    def jump(self) -> None:
        """The wall clock, by seconds to days, back or forth."""
        far = self.random.choice((5.0, 60.0, 600.0, 3600.0, 86400.0, 3 * 86400.0))
        by = self.clock.jump(self.random.choice((-1, 1)) * far * self.random.random())
        self.note("jump" if by >= 0 else "back")

    # -- looking after them -----------------------------------------------------------------------------------------

    def due(self) -> None:
        """Do what was planned for now."""
        now = time.monotonic()
        for plan in [each for each in self.planned if each[0] <= now]:
            self.planned.remove(plan)
            _, what, name = plan
            if what == "thaw":
                self.thaw(int(name))
            elif what == "end":
                self.outages.end(name)
            elif what == "go":
                self.go(name)
            elif what in ("free", "unlock"):
                getattr(self, what)()
            elif not self.children[name].running:
                self.start(name)

    def watch(self) -> None:
        """Nobody ends by himself, and who is asked to end does so."""
        for name, child in list(self.children.items()):
            if any(each == name and what == "start" for _, what, each in self.planned):
                continue
            if child.leaving and not child.running:
                if child.process.returncode != 0:
                    self.complain(f"{name} ended with {child.process.returncode} when it was asked to; see {name}.log")
                self.again(name)
            elif child.leaving and time.monotonic() > child.leaving and not child.frozen:
                self.complain(f"{name} did not end within 40 s when it was asked to; see {name}.log")
                child.show()
                child.kill_all()
                self.again(name)
            elif not child.running:
                text = f"{name} ended by itself with {child.process.returncode}; see {name}.log"
                if child.opened and self.system.machines:  # it has to wait until a server is back
                    self.complaints.append(text)
                elif not self.system.machines or child.process.returncode != UNAVAILABLE:
                    self.complain(text)
                else:
                    self.counts["gave up"] += 1
                self.again(name)

    def again(self, name: str) -> None:
        """Start one that has ended; not at once where it could not stay, and not one that was there for a while only."""
        if "extra" in name:
            self.orphans |= self.children.pop(name).known
        elif self.unwell:
            self.later(1.0, "start", name)
        else:
            self.start(name)

    @property
    def unwell(self) -> bool:
        return time.monotonic() < max(self.sick, self.outages.until + SICK - AFTER)

    def complain(self, text: str) -> None:
        """Where the disk was full, a file locked or a server away, a process may well say so and end."""
        if not self.unwell:
            self.complaints.append(text)
        else:
            self.counts["gave up"] += 1

    def begin(self) -> None:
        """Start everything, and wait until it is at work: on a busy machine that takes a while."""
        self.start("outside")
        self.wait_for("outside")
        for name in (*(f"worker-{number}" for number in range(self.options.workers)), "loader", "operator"):
            self.start(name)
        self.wait_for("calls.jsonl")

    def wait_for(self, name: str) -> None:
        """Until a file holds something; at most a minute."""
        path, late = self.folder / name, time.monotonic() + 60.0
        while not (path.exists() and path.stat().st_size) and time.monotonic() < late:
            time.sleep(0.02)

    def run(self, seconds: float) -> None:
        """Faults for so long, then peace; raises nothing: what went wrong stands in `complaints`."""
        try:
            self.begin()
            end = time.monotonic() + seconds
            strike = time.monotonic() + min(2.0, 2 * self.options.pace)
            while time.monotonic() < end:
                self.due()
                self.watch()
                if time.monotonic() >= strike:
                    self.strike()
                    strike = time.monotonic() + self.options.pace * (0.25 + self.random.expovariate(1 / 0.75))
                time.sleep(0.02)
            self.peace()
            self.system.copy()
        finally:
            self.unlock()
            for child in self.children.values():
                child.kill_all()
            kill_pids(self.orphans)

    def close(self) -> None:
        """Servers, proxies and disks go."""
        self.system.close()

    # -- the end ----------------------------------------------------------------------------------------------------

    def peace(self) -> None:
        """Everything runs again; the loader stops; what is left must drain in time; then all end."""
        self.unlock()
        self.free()
        self.outages.peace()
        for _, what, pid in self.planned:
            if what == "thaw":
                self.thaw(int(pid))
        for name, child in list(self.children.items()):
            if not child.running:
                self.start(name)
        self.planned.clear()
        time.sleep(1.0)
        while any(child.leaving for child in self.children.values()):
            self.due()
            self.watch()
            time.sleep(0.05)
        if self.children.pop("loader").end(PATIENCE) != 0:
            self.complain("the loader did not end cleanly when it was asked to; see loader.log")
        (self.folder / "peace").touch()
        self.clock.settle()
        time.sleep(SETTLE)
        self.wait_drained()
        for name in sorted(self.children, reverse=True):
            if name != "outside":
                self.note("leave", self.children[name].pid)
                if (code := self.children[name].end(40.0)) != 0:
                    self.complaints.append(f"{name} ended with {code} at the end; see {name}.log")

        rest = [pid for pid in self.orphans if alive(pid)]
        if rest:
            self.complaints.append(f"{len(rest)} workers go on without their supervisor")

    def wait_drained(self) -> None:
        """Until nothing is left. What has piled up may take its time, as long as it gets less."""
        with self.system.look() as look:
            self._wait_drained(look)

    def _wait_drained(self, look: Look) -> None:
        began = moved = time.monotonic()
        rest, least = left(look), amount(look)
        while rest and time.monotonic() < moved + self.options.drain:
            time.sleep(0.2)
            self.due()
            self.watch()
            rest = left(look) or left(look)
            if (now := amount(look)) < least:
                least, moved = now, time.monotonic()
        self.drained, self.done = time.monotonic() - began, not rest
        if rest:
            for child in self.children.values():
                child.show()
            self.complaints.append(f"nothing has got less for {self.options.drain:g} s after the last fault: {rest}")
