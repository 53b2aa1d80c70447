"""The processes of a run: started, looked after, and asked to end. Nobody ends by himself, and who is asked to does so."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from .children import LEASE, Child, Known, born, command_of, kill_known
from .record import Record

LOOSE = ("outside", "loader", "operator")
UNAVAILABLE = 5
"""Exit code of what could not begin, since a server did not answer. A slow machine is enough for that."""
WRONG = re.compile(r"group \S+ is stopped: |: unexpected[ ,]|has ended, and is begun again")
"""What no process of a run has a reason to say. A group that is stopped goes on with the next start: nothing else tells."""
LEAVING = 40.0
"""Seconds in which a worker must end when it is asked to."""


class Crew:
    """`unwell` says whether the machine, a server or a link is harmed just now, or was a moment ago.

    servers: whether there are any that may be away. Touches only processes that it has started itself, and those that
    these have started.
    """

    def __init__(
        self,
        folder: Path,
        record: Record,
        chance: random.Random,
        unwell: Callable[[], bool],
        *,
        seed: int,
        ways: tuple[str, ...],
        servers: bool,
        environment: Mapping[str, str],
    ) -> None:
        self.children: dict[str, Child] = {}
        self._folder = folder
        self._record = record
        self._random = chance
        self._unwell = unwell
        self._seed = seed
        self._ways = ways
        self._servers = servers
        self._environment = {
            **os.environ, "CRASH_FOLDER": str(folder), "EVENFLOW_LEASE": str(LEASE), "PYTHONUNBUFFERED": "1",
            **environment,
        }  # fmt: skip
        self._incarnations: Counter[str] = Counter()
        self._orphans: set[Known] = set()
        self._extra = 0

    @property
    def workers(self) -> list[Child]:
        return [child for name, child in self.children.items() if name not in LOOSE]

    def victims(self) -> list[tuple[Child, int]]:
        """All processes in which handlers run, and those that supervise them."""
        return [(each, pid) for each in self.workers if each.running for pid in {*each.workers(), each.pid}]

    def begin(self, workers: int) -> None:
        """Start everything, and wait until it is at work: on a busy machine that takes a while."""
        self.start("outside")
        self._wait_for("outside")
        for name in (*(f"worker-{number}" for number in range(workers)), "loader", "operator"):
            self.start(name)
        self._wait_for("calls.jsonl")

    def _wait_for(self, name: str) -> None:
        """Until a file holds something; at most a minute."""
        path, late = self._folder / name, time.monotonic() + 60.0
        while not (path.exists() and path.stat().st_size) and time.monotonic() < late:
            self.watch()
            time.sleep(0.02)

    def start(self, name: str) -> None:
        self._incarnations[name] += 1
        if name in self.children:
            self._orphans |= self.children[name].known
        way = self._random.choice(self._ways)
        command = command_of(name, way, self._incarnations[name], self._seed, self._folder)
        self.children[name] = Child(name, command, self._folder, self._environment)
        self._record.note("start", self.children[name].pid)

    def start_again(self, name: str) -> None:
        """As planned, unless somebody has started it meanwhile."""
        if not self.children[name].running:
            self.start(name)

    def start_all(self) -> None:
        for name, child in list(self.children.items()):
            if not child.running:
                self.start(name)

    def join(self) -> str:
        """One more worker; its name."""
        self._extra += 1
        name = f"worker-extra-{self._extra}"
        self.start(name)
        return name

    def leave(self, child: Child) -> None:
        """A clean stop, as of a deployment; `watch` sees to its end while faults go on."""
        if child.running and not child.frozen and not child.leaving and child.ready:
            self._record.note("leave", child.pid)
            child.leaving = time.monotonic() + LEAVING
            child.send(signal.SIGTERM)

    @property
    def leaving(self) -> bool:
        return any(child.leaving for child in self.children.values())

    def watch(self) -> None:
        for name, child in list(self.children.items()):
            if self._record.planned("start", name):
                continue
            if child.leaving and not child.running:
                if child.process.returncode != 0:
                    self.complain(f"{name} ended with {child.process.returncode} when it was asked to; see {name}.log")
                self._again(name)
            elif child.leaving and time.monotonic() > child.leaving and not child.frozen:
                self.complain(f"{name} did not end within {LEAVING:g} s when it was asked to; see {name}.log")
                child.show()
                child.kill_all()
                self._again(name)
            elif not child.running:
                self._ended(name, child)
                self._again(name)

    def _ended(self, name: str, child: Child) -> None:
        """By itself. What has begun has to wait until a server is back; what has not may say that it cannot."""
        text = f"{name} ended by itself with {child.process.returncode}; see {name}.log"
        if child.opened and self._servers:
            self._record.complaints.append(text)
        elif not self._servers or child.process.returncode != UNAVAILABLE:
            self.complain(text)
        else:
            self._record.counts["gave up"] += 1

    def _again(self, name: str) -> None:
        """Start one that has ended; not at once where it could not stay, and not one that was there for a while only."""
        if "extra" in name:
            self._orphans |= self.children.pop(name).known
        elif self._unwell():
            self._record.later(1.0, "start", name)
        else:
            self.start(name)

    def complain(self, text: str) -> None:
        """Where the disk was full, a file locked or a server away, a process may well say so and end."""
        if not self._unwell():
            self._record.complaints.append(text)
        else:
            self._record.counts["gave up"] += 1

    def end(self) -> None:
        """All but the outside, which handlers still call, one after another."""
        for name in sorted(self.children, reverse=True):
            if name != "outside" and (code := self.children[name].end(LEAVING)) != 0:
                self._record.complaints.append(f"{name} ended with {code} at the end; see {name}.log")
        if rest := [pid for pid, start in self._orphans if start and born(pid) == start]:
            self._record.complaints.append(f"{len(rest)} workers go on without their supervisor")
        for path in sorted(self._folder.glob("*.log")):
            self._record.complaints += wrong(path)

    def kill_all(self) -> None:
        for child in self.children.values():
            child.kill_all()
        kill_known(self._orphans)


def wrong(log: Path) -> list[str]:
    """What a process has said and should not."""
    with log.open(errors="replace") as lines:
        return [f"{log.name}: {line.strip()[:300]}" for line in lines if WRONG.search(line)]
