"""The application of the page on SQLAlchemy, as its reader starts it: a web server, and a process that handles."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
from page_blocks import blocks
from reader_env import reader_env

from tests import servers

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "sqlalchemy.md"
DATABASE = "shop:secret@localhost/shop"
PATIENCE = 30.0


@contextmanager
def process(folder: Path, *command: str) -> Iterator[Path]:
    """A command of the reader's while the block lasts; the file of what it says. It ends by itself when it is told to."""
    said = folder / f"{command[0]}.log"
    with said.open("wb") as log:
        running = subprocess.Popen(command, cwd=folder, env=reader_env(), stdout=log, stderr=subprocess.STDOUT)
        try:
            yield said
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(PATIENCE)
            finally:
                running.kill()
    assert running.returncode in (0, -signal.SIGTERM), said.read_text()


def said_in(log: Path, pattern: str) -> re.Match[str]:
    deadline = time.monotonic() + PATIENCE
    while not (found := re.search(pattern, log.read_text())):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return found


def test_the_application_of_the_page_as_two_processes(tmp_path: Path) -> None:
    with servers.database("web") as url:
        page = PAGE.read_text("utf-8").replace(DATABASE, url.partition("://")[2])
        for block in blocks(page):
            if block.file in ("shop.py", "pyproject.toml"):
                (tmp_path / block.file).write_text(block.text, "utf-8")
        with process(tmp_path, "uvicorn", "shop:web", "--port", "0") as web:
            at = said_in(web, r"running on (http://[\d.:]+)")[1]
            with (
                process(tmp_path, "evenflow", "run", "shop:app"),
                httpx.Client(base_url=at, timeout=PATIENCE) as client,
            ):
                answers = [client.post("/orders", json={"customer": name}) for name in ("Ada", "Grace", "Ada", "Ada")]
                assert [answer.status_code for answer in answers] == [201, 201, 201, 409]
                deadline = time.monotonic() + PATIENCE
                while any(order["state"] == "new" for order in client.get("/orders").json()):
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
        with psycopg.connect(url) as connection:
            assert connection.execute("select customer, state from orders order by number").fetchall() == [
                ("Ada", "confirmed"),
                ("Grace", "confirmed"),
                ("Ada", "confirmed"),
            ]
            published = "select sum(number) from shop.evenflow_counter where topic = 'orders'"
            assert connection.execute(published.encode()).fetchall() == [(3,)]
            assert connection.execute("select count(*) from shop.evenflow_outbox").fetchall() == [(0,)]
