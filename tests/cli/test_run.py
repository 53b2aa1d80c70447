"""`evenflow run` as a process: stopping cleanly, in time or not, at once, and going on."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from evenflow.cli import blocked
from .conftest import Shop, wait_for

EVENTS = 60
WORK = """
import asyncio, pathlib
from evenflow import App, Event, Service, Topic, Transaction

T = Topic("t", partitions=2)
HERE = pathlib.Path(__file__).parent

class Made(Event, type="made", topic=T, key="key"):
    key: str

s = Service("s", migrations="sql")
app = App(s)

@s.on(Made, group="write", start="beginning")
async def write(made: Made, tx: Transaction) -> None:
    await asyncio.sleep(0.05)
    tx.write("insert into done values ($1)", made.key)

@s.on(Made, group="slow", start="beginning", concurrency=2)
async def slow(made: Made) -> None:
    (HERE / "slow").touch()
    await asyncio.sleep(SLOW)

async def fill() -> None:
    async with app.open():
        await app.publish(*[Made(key=str(n)) for n in range(60)])

if __name__ == "__main__":
    asyncio.run(fill())
"""


def prepare(shop: Shop, slow: float) -> None:
    shop.write("work.py", WORK.replace("SLOW", str(slow)))
    shop.write("sql/0001_done.sql", "create table done (key text not null);")
    subprocess.run([sys.executable, "work.py"], cwd=shop.folder, check=True, timeout=60)


def done(folder: Path) -> list[str]:
    file = folder / ".evenflow" / "s.db"
    if not file.exists():
        return []
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        return [key for (key,) in connection.execute("select key from done")]
    except sqlite3.OperationalError:
        return []
    finally:
        connection.close()


def test_sigterm_in_the_middle_drains_and_the_next_run_goes_on(shop: Shop) -> None:
    prepare(shop, 0.001)
    first = shop.start("run", "work:app", "--drain", "20")
    wait_for(lambda: len(done(shop.folder)) >= 3)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    assert "SIGTERM: finishing what is begun" in err
    some = done(shop.folder)
    assert 0 < len(some) < EVENTS
    second = shop.run("run", "work:app", "--until-idle")
    assert second.code == 0, second.err
    assert sorted(done(shop.folder), key=int) == [str(n) for n in range(EVENTS)]


def test_until_idle_ends_beside_a_process_that_leads_and_owns(shop: Shop) -> None:
    prepare(shop, 0.001)
    web = "import asyncio, work\nasync def main():\n async with work.app.open():\n  print('open', flush=True)\n  "
    publisher = subprocess.Popen(
        [sys.executable, "-c", web + "await asyncio.sleep(600)\nasyncio.run(main())"],
        cwd=shop.folder,
        stdout=subprocess.PIPE,
    )
    try:
        assert publisher.stdout is not None
        assert publisher.stdout.readline() == b"open\n"  # it has the outbox, and will not give it up
        ran = shop.run("run", "work:app", "--until-idle")
        assert ran.code == 0, ran.err
        assert len(done(shop.folder)) == EVENTS
        other = shop.start("run", "work:app")  # now another one has the partitions
        assert other.stderr is not None
        wait_for(lambda: "ready" in other.stderr.readline())
        ran = shop.run("run", "work:app", "--until-idle")
        assert ran.code == 0, ran.err
    finally:
        publisher.kill()
        publisher.communicate()


def test_a_drain_that_runs_out_is_told_and_the_work_is_done_again(shop: Shop) -> None:
    prepare(shop, 3600)
    process = shop.start("run", "work:app", "--drain", "0.3")
    wait_for((shop.folder / "slow").exists)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 7, err
    assert "is done again at the next start" in err


def test_a_second_ctrl_c_ends_it_at_once(shop: Shop) -> None:
    prepare(shop, 3600)
    process = shop.start("run", "work:app", "--drain", "600", "--log", "text")
    wait_for((shop.folder / "slow").exists)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    for line in process.stderr:
        if "again to end at once" in line:
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


def test_a_handler_that_blocks_the_loop_does_not_outlive_the_second_ctrl_c(shop: Shop) -> None:
    prepare(shop, 0)
    source = (shop.folder / "work.py").read_text()
    shop.write("work.py", source.replace("await asyncio.sleep(0)", "import time; time.sleep(3600)"))
    process = shop.start("run", "work:app", "--drain", "600")
    wait_for((shop.folder / "slow").exists)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: process.send_signal(signal.SIGINT) is None and process.poll() is not None)
    assert process.returncode == 130


def test_an_error_of_the_users_lifespan_shows_its_line(shop: Shop) -> None:
    shop.write(
        "life.py",
        """
from contextlib import asynccontextmanager
from evenflow import App
@asynccontextmanager
async def life(app):
    raise RuntimeError("no mail server")
    yield
app = App(lifespan=life)
""",
    )
    ran = shop.run("run", "life:app", "--log", "text")
    assert ran.code == 2
    assert "life.py:5 in life" in ran.err and "RuntimeError: no mail server" in ran.err
    assert "running.py" not in ran.err


def test_one_service_alone(shop: Shop) -> None:
    ran = shop.run("run", "shop:app", "--service", "orders", "--until-idle", "--log", "text")
    assert ran.code == 0
    assert "no group is handled here" in ran.err
    assert not (shop.folder / ".evenflow" / "billing.db").exists()


def test_who_blocks_the_event_loop_is_told_while_it_stands_still(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blocked, "LOOK", 0.01)
    monkeypatch.setattr(blocked, "PATIENCE", 0.05)

    async def handler() -> None:
        wait_for(lambda: "stood still" in caplog.text)

    async def test() -> None:
        with blocked.told():
            await asyncio.sleep(0.02)
            await handler()

    asyncio.run(test())
    (told,) = [record.getMessage() for record in caplog.records]
    assert "test_run.py" in told
    assert "in handler" in told
    assert "make it a plain def" in told
