"""The shop's replay, run as its user does: in processes of its own, with its state in a folder of the test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "examples" / "shop"
sys.path.insert(0, str(SHOP))

LONG = 300.0
"""Seconds after which a test gives up: a replay takes some, on a machine that has much else to do many more."""


class Shop:
    """A folder with the state of one replay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "state"
        self._started: list[subprocess.Popen[str]] = []

    def start(self, purchases: int, *options: str) -> subprocess.Popen[str]:
        """Begin a replay, or go on with it ("--resume"); its time to pay is short."""
        command = [sys.executable, "-W", "error", "-m", "replay", "--window", "1", "--purchases", str(purchases)]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("EVENFLOW_", "SHOP_"))}
        env["PYTHONPATH"] = str(ROOT / "src")
        process = subprocess.Popen(
            [*command, "--folder", str(self.folder), *options],
            cwd=SHOP, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self._started.append(process)
        return process

    def replay(self, purchases: int, *options: str) -> list[str]:
        """The lines of a replay that succeeds."""
        process = self.start(purchases, *options)
        out, err = process.communicate(timeout=LONG)
        assert (process.returncode, err) == (0, ""), f"{out}\n{err}\n{self.logs()}"
        return out.splitlines()

    def end(self) -> None:
        """End what a test that failed has left running; the processes of a replay end with it."""
        for process in self._started:
            with process:
                process.kill()

    def logs(self) -> str:
        """The end of what its processes have said."""
        return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in sorted(self.folder.glob("*.log")))

    def copy(self, folder: Path) -> Path:
        """The databases, in a folder where they can be spoilt."""
        return Path(shutil.copytree(self.folder, folder / "copy"))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.end()
