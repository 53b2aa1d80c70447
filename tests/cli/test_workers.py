"""`evenflow run --workers`: replaced when they end or hang, reloaded one after another, stopped cleanly."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from evenflow.cli.supervising import (
    FIRST_DELAY,
    LONGEST_DELAY,
    LOOK,
    Ended,
    Fate,
    delay,
    fate,
    outcome,
    silent,
)
from .conftest import Shop, wait_for

APP = """
import asyncio, os, pathlib, sys, time
from evenflow import App, Event, Policy, Service, Topic, Transaction

T = Topic("t", partitions=4)
HERE = pathlib.Path(__file__).parent
VERSION = "first"

class Made(Event, type="made", topic=T, key="key"):
    key: str

s = Service("s", policy=Policy(attempts=2, first_delay=0.1, timeout=1.0))
app = App(s, events=[Made])
OUT = os.open(HERE / "done.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

@s.on(Made, group="write", start="beginning")
async def write(made: Made, tx: Transaction) -> None:
    if made.key == "block" and (HERE / "blocked").exists():
        os.kill(os.getpid(), 9)  # so that only its first worker has to be found hanging
    if made.key == "block":
        (HERE / "blocked").touch()
        time.sleep(3600)
    os.write(OUT, f"{made.key} {os.getpid()} {VERSION}\\n".encode())
    tx.write("create table if not exists effects (key text)")
    tx.write("insert into effects values ($1)", made.key)

async def fill(keys) -> None:
    async with app.open():
        await app.publish(*[Made(key=key) for key in keys])

if __name__ == "__main__":
    asyncio.run(fill(sys.argv[1:]))
"""


class Workers:
    """A supervisor at work, and what it and its workers have logged."""

    def __init__(self, shop: Shop, *options: str) -> None:
        self.shop = shop
        self.lines: list[dict[str, object]] = []
        self.other: list[str] = []
        self.process = shop.start("run", "app:app", "--log", "json", "--hang", "5", *options)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.other.append(line)

    def said(self, text: str) -> list[dict[str, object]]:
        return [each for each in list(self.lines) if text in str(each["message"])]

    def wait_said(self, text: str, times: int = 1) -> list[dict[str, object]]:
        wait_for(lambda: len(self.said(text)) >= times or self.process.poll() is not None)
        assert len(self.said(text)) >= times, (text, self.lines, self.other)
        return self.said(text)

    def pids(self) -> list[int]:
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(10)
        return code


def ready(shop: Shop, count: int = 2, *options: str) -> Workers:
    workers = Workers(shop, "--workers", str(count), *options)
    found = workers.wait_said("ready", count)
    assert sorted(each["worker"] for each in found if each["message"] == "ready") == list(range(1, count + 1))
    return workers


@pytest.fixture
def app(shop: Shop) -> Iterator[Shop]:
    shop.write("app.py", APP)
    yield shop


def publish(shop: Shop, *keys: str) -> None:
    subprocess.run([sys.executable, "app.py", *keys], cwd=shop.folder, check=True, timeout=60)


def done(shop: Shop) -> list[list[str]]:
    file = shop.folder / "done.txt"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def dead(shop: Shop) -> int:
    """Dead letters in the store."""
    sql = "select count(*) from evenflow_parked where head = 1 and due is null"
    with closing(sqlite3.connect(f"file:{shop.folder}/.evenflow/s.db?mode=ro", uri=True)) as connection:
        return int(connection.execute(sql).fetchone()[0])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_worker_is_replaced_and_a_reload_takes_changed_code_over_and_broken_code_not(app: Shop) -> None:
    workers = ready(app)
    publish(app, *"abcdef")
    wait_for(lambda: len(done(app)) == 6)
    os.kill(workers.pids()[0], signal.SIGKILL)
    workers.wait_said("was ended by SIGKILL; another starts at once")
    workers.wait_said("ready", 3)
    old = workers.pids()
    app.write("app.py", APP.replace('"first"', '"second"'))
    workers.process.send_signal(signal.SIGHUP)
    workers.wait_said("all workers are replaced")
    new = workers.pids()
    assert (len(new), set(old) & set(new)) == (2, set())
    publish(app, *"ghijkl")
    wait_for(lambda: len(done(app)) == 12)
    assert [version for _, _, version in done(app)] == ["first"] * 6 + ["second"] * 6
    app.write("app.py", "import nothing_of_this_name\n")
    workers.process.send_signal(signal.SIGHUP)
    workers.wait_said("before it was ready: the reload ends here, and the workers of before go on")
    assert workers.pids() == new
    assert workers.end() == 0
    assert sorted(key for key, *_ in done(app)) == list("abcdefghijkl")


def test_a_handler_that_blocks_the_loop_is_dumped_and_replaced_and_its_event_is_parked_in_the_end(app: Shop) -> None:
    workers = ready(app)
    publish(app, "block", *"abcdef")
    workers.wait_said("event loop stands still")
    wait_for(lambda: any("in write" in line for line in workers.other))
    publish(app, *"ghijkl")
    wait_for(lambda: {key for key, *_ in done(app)} == set("abcdefghijkl"), 60)
    wait_for(lambda: dead(app) == 1, 60)
    assert workers.end() == 0
    with closing(sqlite3.connect(f"file:{app.folder}/.evenflow/s.db?mode=ro", uri=True)) as connection:
        effects = connection.execute("select key from effects order by key").fetchall()
    assert effects == [(key,) for key in "abcdefghijkl"], "each has its effect once, also those beside it"


def test_an_app_that_cannot_start_ends_the_supervisor_with_its_code(app: Shop) -> None:
    app.write("app.py", "import nothing_of_this_name\n")
    workers = Workers(app, "--workers", "2")
    assert workers.process.wait(60) == 2
    assert "it cannot start before that is mended" in workers.wait_said("so all stop")[0]["message"]


def test_the_workers_of_a_killed_supervisor_end_cleanly(app: Shop) -> None:
    workers = ready(app)
    pids = workers.pids()
    workers.process.kill()
    wait_for(lambda: not any(map(alive, pids)))
    workers._reader.join(10)
    assert len(workers.said("stopped: all that was begun is finished")) == 2


def test_a_second_signal_ends_all_at_once(app: Shop) -> None:
    workers = ready(app, 2, "--drain", "600")
    pids = workers.pids()
    publish(app, "block")
    wait_for(lambda: bool(workers.said("ready")))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    workers.process.send_signal(signal.SIGINT)
    workers.wait_said("again to end at once")
    assert workers.end(signal.SIGINT) == 130
    assert not any(map(alive, pids))


def test_what_does_not_go_together_is_refused(shop: Shop) -> None:
    refused = {
        ("--workers", "2", "--until-idle"): "--until-idle goes with one process",
        ("--workers", "2", "--hang", "1"): "is too short",
        ("--hang", "3"): "nobody watches a single process",
        ("--workers", "none"): "is no number of workers",
        ("--workers", "0"): "is no number of workers",
    }
    for options, said in refused.items():
        ran = shop.evenflow("run", "shop:app", *options)
        assert (ran.code, said in ran.err) == (2, True), ran.err


def test_an_engine_in_memory_is_refused_with_the_remedy(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENFLOW_ENGINE", "memory:")
    ran = shop.evenflow("run", "shop:app", "--workers", "2")
    assert (ran.code, "each worker would have one of its own" in ran.err) == (2, True), ran.err
    assert "EVENFLOW_ENGINE" in ran.err


def test_a_hangup_stops_a_single_process_cleanly(app: Shop) -> None:
    process = app.start("run", "app:app", "--log", "text")
    assert process.stderr is not None
    for line in process.stderr:
        if line.endswith("ready\n"):
            break
    process.send_signal(signal.SIGHUP)
    rest = process.stderr.read()
    assert (process.wait(60), "SIGHUP: finishing" in rest) == (0, True), rest


# -- the decisions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "follows"),
    [
        (Ended(0, told=True, running=True), Fate.NOTHING),
        (Ended(-9, told=True), Fate.NOTHING),
        (Ended(2), Fate.GIVE_UP),
        (Ended(3), Fate.GIVE_UP),
        (Ended(4), Fate.GIVE_UP),
        (Ended(5), Fate.AGAIN),
        (Ended(70), Fate.AGAIN),
        (Ended(-11), Fate.AGAIN),
        (Ended(0, ready=True, running=True), Fate.AGAIN),
        (Ended(2, running=True), Fate.AGAIN),
        (Ended(2, replaces=True, running=True), Fate.KEEP_OLD),
        (Ended(-9, replaces=True, running=True), Fate.KEEP_OLD),
        (Ended(-9, replaces=True, ready=True, running=True), Fate.AGAIN),
    ],
)
def test_what_follows_from_an_end(ended: Ended, follows: Fate) -> None:
    assert fate(ended) is follows


def test_the_delay_before_the_next_start_grows_up_to_a_bound() -> None:
    delays = [delay(n) for n in range(1, 12)]
    assert delays[:4] == [0.0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY
    assert delay(10_000) == LONGEST_DELAY


def test_a_machine_that_slept_makes_no_worker_silent() -> None:
    assert silent(3.0, 3600.0, heard=False) == 3.0 + 2 * LOOK
    assert silent(3.0, 3600.0, heard=True) == 0.0


@pytest.mark.parametrize(
    ("codes", "code"), [([], 0), ([0, 0], 0), ([0, 7], 7), ([0, -9], 7), ([0, 5], 5), ([7, 70], 7)]
)
def test_the_exit_code_of_all(codes: list[int], code: int) -> None:
    assert outcome(codes) == code


def test_the_supervisor_imports_nothing_that_opens_an_engine_or_a_store() -> None:
    code = "import evenflow.cli.supervisor, sys; print([m for m in sys.modules if m in ('apsw', 'sqlite3', 'asyncio')])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "[]\n"
