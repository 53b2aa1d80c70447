"""A replay that was killed anywhere goes on, and comes to the same line."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from replay.folder import Asked, Folder, InUse
from replay.processes import RECORD, born, end_leftovers

from .conftest import LONG, Shop
from .test_shop_reconcile import last_line

PURCHASES = 400
SLOWLY = ("--ahead", "50")
"""A hundred at a time, and then a look: so there is something left to be killed in."""
SEED = 19970101
SERVERS = 3

HOLDS = (  # what grows while the shop works: at a random height of one of them it is killed
    ("orders", "orders", PURCHASES),
    ("stock", "reservations", PURCHASES),
    ("payments", "charges", PURCHASES),
    ("notifications", "mails", PURCHASES),
)


def rows(shop: Shop, database: str, table: str) -> int:
    """How many rows there are; none while there is no such table."""
    with suppress(sqlite3.OperationalError):
        file = f"file:{shop.folder / database}.db?mode=ro"
        with closing(sqlite3.connect(file, uri=True, timeout=10.0)) as connection:
            return int(connection.execute(f"select count(*) from {table}").fetchone()[0])
    return 0


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def children(shop: Shop) -> list[tuple[int, str]]:
    """Pid and birth of each process that the replay has started so far, in that order."""
    with suppress(FileNotFoundError):
        return [(pid, since) for pid, since in json.loads((shop.folder / RECORD).read_text("utf-8"))]
    return []


def kill_at(shop: Shop, process: subprocess.Popen[str], chance: random.Random, whom: str, part: float) -> str:
    """Kill -9 at a random moment in this part of the work; what the replay has said to it."""
    database, table, most = chance.choice(HOLDS)
    height = round(most * (part + chance.random() * 0.2))
    until(
        lambda: rows(shop, database, table) >= height or process.poll() is not None,
        f"{table} never came to {height}\n{shop.logs()}",
    )
    if whom == "worker":
        until(lambda: len(children(shop)) == SERVERS + 1, f"no worker was started\n{shop.logs()}")
    time.sleep(chance.random() * 0.2)
    assert process.poll() is None, f"{process.communicate()}\n{shop.logs()}"
    started = children(shop)
    pids = [pid for pid, _ in started]
    victims = {"worker": pids[-1:], "driver": [process.pid], "all": [process.pid, *pids]}
    for pid in victims[whom]:
        os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=LONG)
    code = 1 if whom == "worker" else -signal.SIGKILL
    assert process.returncode == code, f"{process.returncode}\n{out}\n{err}\n{shop.logs()}"
    if whom == "driver" and sys.platform == "linux":
        until(lambda: not any(born(pid) == since for pid, since in started), "the others did not end with the driver")
    return err


def test_kills_of_all_of_the_worker_and_of_the_driver_and_ctrl_c(shop: Shop) -> None:
    """One replay, ended four times; each time it goes on, and at last it comes to the line of an undisturbed one."""
    chance = random.Random(SEED)
    assert kill_at(shop, shop.start(PURCHASES, *SLOWLY), chance, "all", 0.05) == ""
    said = kill_at(shop, shop.start(PURCHASES, *SLOWLY, "--resume"), chance, "worker", 0.3)
    assert "the process 'worker' was killed by SIGKILL" in said
    assert "`make run RESUME=1` goes on from here" in said
    interrupt(shop, shop.start(PURCHASES, *SLOWLY, "--resume"))
    kill_at(shop, shop.start(PURCHASES, *SLOWLY, "--resume"), chance, "driver", 0.6)
    assert shop.replay(PURCHASES, "--resume")[-1] == last_line(PURCHASES)


def interrupt(shop: Shop, process: subprocess.Popen[str]) -> None:
    """Ctrl-C as soon as the worker is at work: all end in order."""
    ready = rows(shop, "payments", "charges")
    log = shop.folder / "worker.log"
    until(lambda: rows(shop, "payments", "charges") > ready or process.poll() is not None, "nothing was charged")
    started = children(shop)
    assert len(started) == SERVERS + 1
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert (process.returncode, err) == (130, "stopped; `make run RESUME=1` goes on from here\n")
    assert [pid for pid, since in started if born(pid) == since] == []
    assert "stopped: all that was begun is finished" in log.read_text("utf-8")


def test_leftovers_are_ended_by_pid_and_birth_and_nobody_else(tmp_path: Path) -> None:
    sleeping = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(2)]
    left, other = sleeping
    try:
        record = [[left.pid, born(left.pid)], [other.pid, "another boot 1"], [left.pid, ""]]
        (tmp_path / RECORD).write_text(json.dumps(record), "utf-8")
        assert end_leftovers(tmp_path, patience=0.0) == 1
        assert end_leftovers(tmp_path) == 0
        assert left.wait(LONG) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for each in sleeping:
            each.kill()
            each.wait()


def test_two_replays_do_not_meet(tmp_path: Path) -> None:
    with Folder(tmp_path / "state") as folder:
        with pytest.raises(InUse, match="another replay works in"):
            Folder(tmp_path / "state").__enter__()
        assert folder.begin(Asked(7, faults=True), resume=False) == Asked(7, faults=True)
        (folder.path / "orders.db").write_text("of the first run")
    with Folder(tmp_path / "state") as folder:
        assert folder.begin(Asked(8), resume=True) == Asked(7, faults=True)
        assert (folder.path / "orders.db").exists()
        assert folder.begin(Asked(), resume=False) == Asked()
        assert folder.begin(Asked(9, faults=True), resume=True) == Asked()
        assert sorted(each.name for each in tmp_path.iterdir()) == ["state"]
        assert [each.name for each in folder.path.iterdir()] == ["asked.json"]
