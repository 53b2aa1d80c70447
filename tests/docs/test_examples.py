"""Each example runs, does what it promises, and does not do it twice when it is run again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from reader_env import clean_env

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(file: Path) -> list[str]:
    command = [sys.executable, "-W", "error", str(file)]
    done = subprocess.run(command, cwd=file.parent, env=clean_env(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def counted(lines: list[str]) -> int:
    """The sum of the statistics, "2030-01-31: 2 signed up"; over midnight there are two lines."""
    return sum(int(match[1]) for line in lines if (match := re.fullmatch(r"\d{4}-\d\d-\d\d: (\d+) signed up", line)))


def test_sign_up_tells_each_member_once(tmp_path: Path) -> None:
    folder = tmp_path / "signup"
    shutil.copytree(EXAMPLES / "signup", folder, ignore=shutil.ignore_patterns(".evenflow", "__pycache__"))
    first = run(folder / "app.py")
    assert sorted(line for line in first if line.startswith("mail")) == [
        "mail to ada@example.org: Welcome, Ada!",
        "mail to alan@example.org: Welcome, Alan!",
    ]
    assert first[2:5] == [
        "ada@example.org: signed up",
        "alan@example.org: signed up",
        "ada@example.org: is a member already",
    ]
    assert counted(first) == 2
    again = run(folder / "app.py")
    assert [line for line in again if line.startswith("mail")] == []
    assert counted(again) == 2
