"""`evenflow dev`: it restarts on a change, survives mistakes, keeps the data, and leaves nothing behind."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import threading
from pathlib import Path

from evenflow.cli.dev_files import Watch
from evenflow.cli.dev_screen import Rates, summary

from .conftest import Shop, wait_for

APP = """
from evenflow import App, Event, Policy, Service, Topic, Transaction

class Made(Event, type="made", topic=Topic("t", partitions=1), key="key"):
    key: str

s = Service("s", policy=Policy(attempts=1))
app = App(s)

@s.on(Made, group="write", start="beginning")
async def write(made: Made, tx: Transaction) -> None:
    if made.key == "bad":
        raise ValueError("no good")
    print(f"VERSION 1: {made.key}")
"""


class Dev:
    """The command as a process, and everything that it has said."""

    def __init__(self, shop: Shop, *options: str) -> None:
        self.shop = shop
        self.process = shop.start("dev", "made:app", *options)
        self._said: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for each in self._readers:
            each.start()

    def _read(self, stream: object) -> None:
        assert stream is not None
        self._said.extend(iter(stream.readline, ""))  # type: ignore[attr-defined]  # a text stream

    @property
    def said(self) -> str:
        return "".join(self._said)

    def wait(self, text: str, times: int = 1) -> None:
        wait_for(lambda: self.said.count(text) >= times or self.process.poll() is not None)
        assert self.said.count(text) >= times, self.said

    def child(self) -> int:
        """The process below, as it was told last."""
        return int(re.findall(r"running as pid (\d+)", self.said)[-1])

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        for each in self._readers:
            each.join(10)
        return code


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_change_restarts_it_a_mistake_does_not_end_it_and_the_data_stays(shop: Shop) -> None:
    shop.write("made.py", APP)
    dev = Dev(shop)
    dev.wait("running as pid")
    assert shop.evenflow("publish", "made:app", "made", '{"key": "a"}').code == 0
    dev.wait("VERSION 1: a")

    shop.write("made.py", APP.replace("async def write(", "async def write(("))
    dev.wait("waiting for a change")
    assert "made.py:10\n    async def write((" in dev.said and "SyntaxError" in dev.said
    shop.write("made.py", APP.replace('key="key"', 'key="kye"'))
    dev.wait("waiting for a change", 2)
    assert "made.py:3: Made has key='kye', which is no field" in dev.said

    shop.write("made.py", APP.replace("VERSION 1", "VERSION 22"))
    dev.wait("running as pid", 2)
    assert shop.evenflow("publish", "made:app", "made", '{"key": "b"}').code == 0
    dev.wait("VERSION 22: b")
    assert shop.evenflow("publish", "made:app", "made", '{"key": "bad"}').code == 0
    dev.wait("s.write: 1 handled, 0 waiting, 1 parked (1 dead): ValueError: no good")
    assert "VERSION 22: a" not in dev.said
    assert "Traceback" not in dev.said.partition("is a dead letter")[0]

    child = dev.child()
    assert dev.end() == 0
    assert not alive(child)
    assert "\x1b" not in dev.said


def test_when_it_is_killed_the_process_below_ends_by_itself(shop: Shop) -> None:
    shop.write("made.py", APP)
    dev = Dev(shop)
    dev.wait("running as pid")
    child = dev.child()
    assert alive(child)
    assert dev.end(signal.SIGKILL) == -signal.SIGKILL
    wait_for(lambda: not alive(child))


def test_a_handler_that_does_not_end_is_ended(shop: Shop) -> None:
    shop.write("made.py", APP.replace("    print(", "    import time; time.sleep(3600)\n    print("))
    dev = Dev(shop, "--drain", "0.1")
    dev.wait("running as pid")
    child = dev.child()
    assert shop.evenflow("publish", "made:app", "made", '{"key": "a"}').code == 0
    assert dev.end() == 0
    assert not alive(child)


def test_an_app_that_is_not_there_is_told_at_once(shop: Shop) -> None:
    done = shop.run("dev", "nowhere:app")
    assert done.code == 3
    assert "there is no module 'nowhere'" in done.err
    assert "no app is named" in shop.evenflow("dev").err


def test_on_a_terminal_the_table_stays_below_and_is_never_wider(shop: Shop) -> None:
    shop.write("made.py", APP)
    master, slave = pty.openpty()
    env = {name: value for name, value in os.environ.items() if not name.startswith("EVENFLOW_")}
    command = ["stty", "cols", "60", "rows", "20"]
    subprocess.run(command, stdin=slave, check=True)
    process = shop.start_on(slave, "dev", "made:app", **{**env, "TERM": "xterm", "COLUMNS": "60", "NO_COLOR": "1"})
    os.close(slave)
    seen = b""
    while b"\r\ns.write " not in seen:
        seen += os.read(master, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while more := os.read(master, 4096):
            seen += more
    except OSError:  # the other end is closed
        pass
    os.close(master)
    assert process.wait(30) == 0
    text = seen.decode()
    assert "\x1b[4A\r\x1b[J" in text or "\x1b[2A\r\x1b[J" in text
    table = [line for line in re.split(r"\r?\n", text) if line.startswith(("─", "GROUP", "s.write "))]
    assert table
    assert max(map(len, table)) <= 60
    assert re.search(r"GROUP +STATE +RATE +HANDLED +WAITING +PARKED +LAST ERROR", text)
    assert "\x1b[31m" not in text


# -- parts ------------------------------------------------------------------------------------------------------------


def test_files_that_are_written_made_or_removed_are_found(tmp_path: Path) -> None:
    for name in ("a.py", "b/c.sql", "b/notes.txt", ".hidden/x.py", "env/pyvenv.cfg", "env/y.py", "node_modules/z.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    other = tmp_path / "env" / "y.py"
    watch = Watch(str(tmp_path))
    assert watch.changed() == []
    (tmp_path / "a.py").write_text("12")
    (tmp_path / "b" / "new.py").write_text("1")
    (tmp_path / "b" / "c.sql").unlink()
    for name in ("b/notes.txt", ".hidden/x.py", "env/y.py", "node_modules/z.py"):
        (tmp_path / name).write_text("changed")
    assert [Path(file).name for file in watch.changed()] == ["a.py", "c.sql", "new.py"]
    assert watch.changed() == []
    watch.also([str(other), str(tmp_path / "gone.py")])
    assert watch.changed() == []
    other.write_text("12345678901")
    assert watch.changed() == [str(other)]


def test_a_rate_is_that_of_the_last_seconds_and_begins_anew_with_a_process() -> None:
    rates = Rates()

    def at(now: float, handled: int) -> float:
        return rates.of({"group": "g", "handled": handled}, now)

    assert [at(0.0, 0), at(0.5, 100), at(1.0, 200), at(1.5, 300), at(2.0, 600)] == [0.0, 0.0, 200.0, 200.0, 400.0]
    assert at(4.0, 600) == 0.0
    assert at(4.5, 10) == 0.0
    assert at(5.5, 20) == 20.0


def test_a_group_in_a_line() -> None:
    group = {
        "group": "g",
        "state": "stopped",
        "handled": 1234,
        "waiting": None,
        "parked": 0,
        "dead": 0,
        "error": "a\nb",
    }
    assert summary(group) == "g: stopped, 1,234 handled, ? waiting: a"
