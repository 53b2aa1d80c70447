"""`python -m tests.takeover`: how long events wait when workers are killed, when all are, and over a reload.

About 200 events a second for two groups of 8 partitions, in two workers. Exit 1 when a bound is not kept.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = Path(__file__).parent / "program.py"
LOADED = 5.0
"""Seconds of load before the fault."""
AFTER = 8.0
BOUNDS = {"kill": 3.0, "kill all": 3.0, "reload": 1.0}


class Run:
    """A supervisor with two workers, and a loader."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "TAKEOVER_FOLDER": str(folder)}
        self.log = (folder / "log.txt").open("a")
        self.supervisor = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "evenflow", "run", f"{PROGRAM}:app", "--workers", "2", "--log", "text"]
        return subprocess.Popen(command, cwd=self.folder, env=self.env, stderr=self.log)

    def load(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(PROGRAM), str(LOADED + AFTER)]
        return subprocess.Popen(command, cwd=self.folder, env=self.env)

    def workers(self) -> list[int]:
        pid = self.supervisor.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def handled(self) -> list[tuple[str, float, float]]:
        """Group, when it was published, how long it has waited."""
        found = [line.split() for line in (self.folder / "handled.txt").read_text().splitlines()]
        return [(group, float(at), float(waited)) for group, at, waited in found]

    def fault(self, what: str) -> float:
        """When it struck; for "kill all" when the new ones were started."""
        if what == "reload":
            self.supervisor.send_signal(signal.SIGHUP)
        elif what == "kill":
            os.kill(self.workers()[0], signal.SIGKILL)
        else:
            for pid in [*self.workers(), self.supervisor.pid]:
                os.kill(pid, signal.SIGKILL)
            self.supervisor.wait()
            at = time.monotonic()
            self.supervisor = self.start()
            return at
        return time.monotonic()


def measure(what: str) -> float:
    with tempfile.TemporaryDirectory(prefix="evenflow-takeover-") as name:
        run = Run(Path(name))
        loader = run.load()
        try:
            time.sleep(LOADED)
            at = run.fault(what)
            loader.wait()
            time.sleep(1.0)
        finally:
            loader.kill()
            run.supervisor.terminate()
            code = run.supervisor.wait()
        waited: dict[str, list[float]] = {}
        for group, published, seconds in run.handled():
            if published > at - 0.5:
                waited.setdefault(group, []).append(seconds)
        for group, all_of_it in sorted(waited.items()):
            all_of_it.sort()
            p99 = all_of_it[int(0.99 * len(all_of_it))]
            print(f"{what:9} {group:14} {len(all_of_it):6} events, p99 {p99:.3f} s, longest {all_of_it[-1]:.3f} s")
        if code:
            print(f"{what:9} the supervisor ended with {code}")
        return max(max(each) for each in waited.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="takeover", description=__doc__)
    parser.add_argument("fault", nargs="*", help="kill, 'kill all', reload; all of them by default")
    failed = 0
    for what in parser.parse_args().fault or BOUNDS:
        longest = measure(what)
        if longest > BOUNDS[what]:
            failed = 1
            print(f"{what:9} {longest:.3f} s is more than {BOUNDS[what]:g} s")
    return failed


sys.exit(main())
