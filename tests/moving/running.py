"""A run of the program in many processes, with an engine to move from and one to move to."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from evenflow.clock import SystemClock
from evenflow.operate import Placed, placed
from evenflow.places import make_store
from evenflow.settings import Settings
from evenflow.settings_sources import masked
from tests.moving import program
from tests.moving.checker import READERS, violations

ROOT = Path(__file__).parent.parent.parent


class Run:
    """Processes by their role; a dead one is started again when asked for."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.settings = {"EVENFLOW_LEASE": "2", "EVENFLOW_FOLDER": str(folder), **env}
        kept = {name: text for name, text in os.environ.items() if not name.startswith("EVENFLOW_")}
        self.env = {**kept, **self.settings, "MOVING_FOLDER": str(folder), "PYTHONPATH": str(ROOT)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.publishers = 0
        self.log = (folder / "log.txt").open("ab")

    def start(self, *roles: str) -> None:
        """Start these: "handle NAME" or "publish"."""
        for role in roles:
            words = role.split()
            if words[0] == "publish":
                self.publishers += 1
                words.append(f"p{self.publishers}")
                role = " ".join(words)  # noqa: PLW2901
            self.processes[role] = self.spawn("-m", "tests.moving.program", *words)

    def say(self, what: str) -> None:
        """Write this into the log of all processes."""
        now = time.time()
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        self.log.write(f"{moment},{int(now % 1 * 1000):03d} {what}\n".encode())
        self.log.flush()

    def spawn(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *words], cwd=ROOT, env=self.env, stderr=self.log, stdout=self.log)

    def move(self, source: str, target: str, *more: str) -> subprocess.Popen[bytes]:
        """`evenflow move` as a process of its own."""
        words = ("move", "tests.moving.program:app", "--from", source, "--to", target, "--yes", *more)
        self.say(f"move {masked(source)} to {masked(target)}")
        return self.spawn("-m", "evenflow", *words)

    def kill(self, roles: Sequence[str]) -> str:
        """Kill one of these, with no time to say anything, and start it, or another publisher, again."""
        role = random.choice([each for each in self.processes if each.split()[0] in roles])
        process = self.processes.pop(role)
        self.say(f"kill {role}")
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.start(role if role.startswith("handle") else "publish")
        return role

    def stop(self, first: str, seconds: float = 30.0) -> None:
        """Tell those whose role begins so to stop, and wait."""
        chosen = [role for role in self.processes if role.startswith(first)]
        for role in chosen:
            self.processes[role].terminate()
        for role in chosen:
            self.processes.pop(role).wait(seconds)

    def end(self) -> None:
        """Leave nothing behind."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.processes.clear()
        self.log.close()

    def confirmed(self) -> dict[str, int]:
        """What publishers have on record, by key."""
        found: dict[str, int] = {}
        for file in self.folder.glob("p*.json"):
            found.update(json.loads(file.read_text())["confirmed"])
        return found

    def until_published(self, count: int, seconds: float = 60.0) -> None:
        """Wait until so many more were published at once."""
        deadline, before = time.monotonic() + seconds, sum(self.confirmed().values())
        while sum(self.confirmed().values()) < before + count:
            assert time.monotonic() < deadline, "nothing is published"
            time.sleep(0.05)

    def longest(self) -> dict[str, float]:
        """The longest time that any publisher waited between two confirmations, since its first, by what it does."""
        found: dict[str, float] = {}
        for file in self.folder.glob("p*.json"):
            for of, seconds in json.loads(file.read_text())["longest"].items():
                found[of] = max(round(seconds, 2), found.get(of, 0.0))
        return found

    def violations(self) -> list[str]:
        """What is wrong so far."""
        return asyncio.run(self._violations())

    async def _violations(self) -> list[str]:
        settings = Settings.load(env=self.settings, cwd=self.folder)
        rows, expected = [], {key: (n, n + 1) for key, n in self.confirmed().items()}
        for service in ("placing", "counting", "noting"):
            store = make_store(settings.store_url(service), service, SystemClock())
            await store.open()
            try:
                rows += await store.read("select reader, key, number from seen order by place")
                if service == "placing":
                    sent = await store.read("select key, number from sent")
                    expected |= {key: (number, number) for key, number in sent}
            finally:
                await store.close()
        return violations(rows, expected, READERS)

    def placed(self) -> list[Placed]:
        """Where topics are."""
        return asyncio.run(self._placed())

    async def _placed(self) -> list[Placed]:
        settings = Settings.load(env=self.settings, cwd=self.folder)
        async with program.app.running(settings=settings, join=False) as running:
            return await placed(running)

    def wait(self, seconds: float) -> list[str]:
        """Wait until nothing is wrong any more, so long at most; what is wrong then."""
        deadline = time.monotonic() + seconds
        while (wrong := self.violations()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return wrong
