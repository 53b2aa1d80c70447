"""start-up: what a process pays before its first event. Each is a process of its own, by wall time, in turns.

Imports are given without what the interpreter takes by itself.
"""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from bench.catalogue import Case
from bench.processes import Plan, Record, folder
from bench.rounds import case, line

ROUNDS = 15
FIRST = Path(__file__).parent.parent / "first"
PASS, BY_HAND = "pass", "import apsw, msgspec, asyncio"
OURS, RIVAL = "from evenflow import App, Event, Service", "from faststream import FastStream"
"""Names that an application uses: the bare packages import less, as they load on demand."""


def start_up(plan: Plan) -> Record:
    program = Path(sys.executable).parent / "evenflow"
    helps = [str(program), "--help"] if program.exists() else [sys.executable, "-m", "evenflow", "--help"]
    commands = {each: [sys.executable, "-c", each] for each in (PASS, OURS, BY_HAND)}
    commands |= {"help": helps}
    commands |= {script: [sys.executable, str(FIRST / f"{script}.py")] for script in ("ours", "by_hand")}
    if find_spec("faststream"):
        commands[RIVAL] = [sys.executable, "-c", RIVAL]
    took: dict[str, list[Record]] = {name: [] for name in commands}
    for number in range(plan.turns(ROUNDS) + (not plan.quick)):
        for name, command in commands.items():
            seconds = _seconds(command, in_folder=name in ("ours", "by_hand"))
            if number or plan.quick:  # the first time fills caches
                took[name].append({"ms": seconds * 1000})
    return case(_lines(took))


def _lines(took: dict[str, list[Record]]) -> list[Record]:
    def alone(name: str) -> list[Record]:
        """Without what the interpreter takes to start and end, in the same round."""
        return [{"ms": max(0.01, each["ms"] - bare["ms"])} for each, bare in zip(took[name], took[PASS], strict=True)]

    lines = [
        _line(f"`{OURS}`", alone(OURS), alone(BY_HAND), f"`{BY_HAND}`", "<= 60 ms"),
        _line("`evenflow --help`", took["help"], took[PASS], "`python -c pass`", "<= 150 ms"),
        _line("first event handled, from a cold start", took["ours"], took["by_hand"], "by hand", ""),
    ]
    if RIVAL in took:
        lines.append(_line(f"`{OURS}`", alone(OURS), alone(RIVAL), f"`{RIVAL}`", ""))
    return lines


def _line(name: str, ours: list[Record], other: list[Record], beside: str, goal: str) -> Record:
    return line(name, ours, other, figure="ms", unit="ms", goal=goal, beside=beside)


def _seconds(command: list[str], *, in_folder: bool) -> float:
    with folder() as place:
        began = time.perf_counter()
        done = subprocess.run([*command, *([place] if in_folder else [])], capture_output=True, text=True, check=False)
        took = time.perf_counter() - began
    if done.returncode or (in_folder and done.stdout != "order 1 of Ada\n"):
        raise SystemExit(f"{' '.join(command)}: {done.returncode} {done.stdout}{done.stderr}")
    return took


def cases() -> list[Case]:
    return [Case("start-up", "rest", "import evenflow, evenflow --help, the first event from a cold start", start_up)]
