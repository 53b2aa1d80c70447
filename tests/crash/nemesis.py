"""Kills, freezes, thaws and restarts the program at seeded random moments, and waits for it to drain at the end.

Touches only processes that it started itself. Reads the files of the embedded engine and stores with `sqlite3`, in
this process, which never loads Evenflow.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

PROGRAM = Path(__file__).parent / "program.py"
LEASE = 2.0
WORKERS = 3
SERVICES = ("orders", "billing", "shipping")


class Child:
    """A process that was started here, in its own place (worker 0, 1, 2 or the loader)."""

    def __init__(self, name: str, arguments: list[str], folder: Path) -> None:
        self.name = name
        with (folder / f"{name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.listens = folder / f"listens-{self.process.pid}"
        self.frozen = False
        self.started = time.monotonic()
        self.leaving = 0.0

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        if self.running:
            self.process.send_signal(number)

    def end(self, seconds: float) -> int | None:
        """Its exit code after SIGTERM; None when it had to be killed."""
        if self.frozen:
            self.send(signal.SIGCONT)
        deadline = time.monotonic() + seconds
        while self.running and not self.listens.exists() and time.monotonic() < deadline:
            time.sleep(0.02)  # it has only just been started
        self.send(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGUSR1)  # it writes what it waits for into its log
            time.sleep(0.5)
            self.process.kill()
            self.process.wait()
            return None


class Nemesis:
    """One run: `run(seconds)`, then the folder holds everything that the checker wants."""

    def __init__(self, folder: Path, seed: int, *, drain: float = 60.0) -> None:
        self.folder = folder
        self.seed = seed
        self.random = random.Random(seed)
        self.drain = drain
        self.children: dict[str, Child] = {}
        self.incarnation = 0
        self.planned: list[tuple[float, str, str]] = []
        self.counts: dict[str, int] = {}
        self.complaints: list[str] = []

    # -- what happens -----------------------------------------------------------------------------------------------

    def note(self, what: str, name: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        fact = {"what": what, "name": name, "pid": self.children[name].process.pid, "at": time.monotonic()}
        with (self.folder / "faults.jsonl").open("a") as file:
            file.write(json.dumps(fact) + "\n")

    def start(self, name: str) -> None:
        if name == "loader":
            self.incarnation += 1
            arguments = ["loader", str(self.folder), str(self.incarnation), str(self.seed)]
        else:
            arguments = ["worker", str(self.folder)]
        self.children[name] = Child(name, arguments, self.folder)
        self.note("start", name)

    def kill(self, name: str) -> None:
        child = self.children[name]
        if child.running:
            self.note("kill", name)
            child.process.kill()
            child.process.wait()
        self.later(self.random.choice((0.0, 0.0, 0.5, 3.0)), "start", name)

    def freeze(self, name: str) -> None:
        child = self.children[name]
        if child.running and not child.frozen:
            child.frozen = True
            self.note("freeze", name)
            child.send(signal.SIGSTOP)
            self.later(LEASE * self.random.choice((0.2, 1.5, 2.5)), "thaw", name)

    def thaw(self, name: str) -> None:
        child = self.children[name]
        if child.running and child.frozen:
            child.frozen = False
            child.send(signal.SIGCONT)
            self.note("thaw", name)

    def leave(self, name: str) -> None:
        """A clean stop, as of a deployment; `watch` sees to its end while faults go on."""
        child = self.children[name]
        if child.running and not child.frozen and not child.leaving:
            self.note("leave", name)
            child.leaving = time.monotonic() + 30.0
            child.send(signal.SIGTERM)

    def left_so(self, name: str, child: Child) -> None:
        """How a process that was asked to end did so, and another in its place."""
        young = child.leaving - child.started < 33.0  # it may not have listened to the signal yet
        code = child.process.returncode
        if code != 0 and not (young and code == -signal.SIGTERM):
            self.complaints.append(f"{name} ended with {code} when it was asked to")
        self.start(name)

    def later(self, seconds: float, what: str, name: str) -> None:
        self.planned.append((time.monotonic() + seconds, what, name))

    def strike(self) -> None:
        """One random fault."""
        workers = [name for name in self.children if name != "loader"]
        what = self.random.choices(("kill", "both", "freeze", "loader", "freeze loader", "leave"), (8, 2, 5, 3, 1, 2))[
            0
        ]
        if what == "both":
            for name in self.random.sample(workers, 2):
                self.kill(name)
        elif what == "loader":
            self.kill("loader")
        elif what == "freeze loader":
            self.freeze("loader")
        else:
            getattr(self, what)(self.random.choice(workers))

    def due(self) -> None:
        """Do what was planned for now."""
        now = time.monotonic()
        for plan in [each for each in self.planned if each[0] <= now]:
            self.planned.remove(plan)
            _, what, name = plan
            if what == "thaw":
                self.thaw(name)
            elif not self.children[name].running:
                self.start(name)

    def watch(self) -> None:
        """Nobody ends by himself."""
        for name, child in list(self.children.items()):
            restarting = any(each == name and what == "start" for _, what, each in self.planned)
            if child.leaving and not child.running and not restarting:
                self.left_so(name, child)
            elif child.leaving and child.running and time.monotonic() > child.leaving and not child.frozen:
                self.complaints.append(f"{name} did not end within 30 s when it was asked to; see {name}.log")
                child.send(signal.SIGUSR1)
                time.sleep(0.5)
                self.kill(name)
            elif not child.running and not restarting:
                self.complaints.append(f"{name} ended by itself with {child.process.returncode}; see {name}.log")
                self.start(name)

    def run(self, seconds: float) -> None:
        """Faults for so long, then peace; raises nothing: what went wrong stands in `complaints`."""
        try:
            for number in range(WORKERS):
                self.start(f"worker-{number}")
            self.start("loader")
            end = time.monotonic() + seconds
            strike = time.monotonic() + 2.0
            while time.monotonic() < end:
                self.due()
                self.watch()
                if time.monotonic() >= strike:
                    self.strike()
                    strike = time.monotonic() + 0.3 + self.random.expovariate(1.0)
                time.sleep(0.02)
            self.peace()
        finally:
            for child in self.children.values():
                if child.running:
                    child.process.kill()
                    child.process.wait()

    # -- the end ----------------------------------------------------------------------------------------------------

    def peace(self) -> None:
        """Everything runs again; the loader stops; what is left must drain in time; then all end."""
        for name, child in list(self.children.items()):
            self.thaw(name)
            if not child.running:
                self.start(name)
        self.planned.clear()
        time.sleep(1.0)
        while any(child.leaving for child in self.children.values()):
            self.watch()
            time.sleep(0.05)
        if self.children.pop("loader").end(30.0) != 0:
            self.complaints.append("the loader did not end cleanly when it was asked to")
        began = time.monotonic()
        left = self.left()
        while left and time.monotonic() < began + self.drain:
            time.sleep(0.2)
            self.watch()
            left = self.left() or self.left()
        self.drained = time.monotonic() - began
        if left:
            for child in self.children.values():
                child.send(signal.SIGUSR1)  # what each waits for stands in its log
            time.sleep(1.0)
            self.complaints.append(f"not drained {self.drain:g} s after the last fault: {left}")
        for name, child in self.children.items():
            self.note("leave", name)
            if child.end(30.0) != 0:
                self.complaints.append(f"{name} did not end cleanly at the end")

    def left(self) -> str:
        """What is left to be done, in words; empty when nothing is."""
        found = []
        for service in SERVICES:
            for table in ("evenflow_outbox", "evenflow_due"):
                ((count,),) = query(self.folder / f"{service}.db", f"select count(*) from {table}")
                if count:
                    found.append(f"{service}.{table} {count}")
        for service in SERVICES:
            for text in behind(self.folder, service):
                found.append(text)
            sql = "select count(*) from evenflow_parked where head = 1 and due is not null"
            ((count,),) = query(self.folder / f"{service}.db", sql)
            if count:
                found.append(f"{service}: {count} parked lanes to be tried again")
        return ", ".join(found)


def behind(folder: Path, service: str) -> list[str]:
    """Partitions that a group of this service has not read to their end."""
    sql = (
        "select group_name, topic, generation, partition, next from evenflow_position "
        "where group_name != 'evenflow.relay'"
    )
    rows = query(folder / f"{service}.db", sql)
    ends = {
        (topic, generation, number): end
        for topic, generation, number, end in query(
            folder / "log.db", "select topic, generation, number, next from evenflow_partitions"
        )
    }
    return [f"{group} {t}/{n} {end - at} behind" for group, t, g, n, at in rows if (end := ends[t, g, n]) != at]


def query(path: Path, sql: str) -> list[tuple]:
    """Rows, through a connection that cannot write."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)) as connection:
        return connection.execute(sql).fetchall()


def folder_size(folder: Path) -> int:
    return sum(os.path.getsize(each) for each in folder.iterdir() if each.is_file())
