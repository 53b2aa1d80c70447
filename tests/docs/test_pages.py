"""Every page of the documentation, and the README, runs from top to bottom, and prints what it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from page_blocks import blocks, same
from reader_env import reader_env

from tests import servers

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
DATABASE, BROKER = "shop:secret@localhost/shop", "localhost:9092"
"""What pages call their database of PostgreSQL, and their Kafka."""
PAGES = ["../README.md"] + sorted(
    str(file.relative_to(DOCS))
    for file in DOCS.rglob("*.md")
    if "adr" not in file.parts and blocks(file.read_text("utf-8"))
)


def run(page: str, folder: Path) -> str:
    """What is wrong with the page."""
    command = [sys.executable, "-W", "error", str(HERE / "run_page.py"), str(DOCS / page), str(folder)]
    text, env = (DOCS / page).read_text("utf-8"), reader_env()
    with (
        servers.database("page") if DATABASE in text else nullcontext() as url,
        servers.topics() if BROKER in text else nullcontext() as kafka,
    ):
        if url:
            command += [f"{DATABASE}={url.partition('://')[2]}"]
        if kafka:
            command += [f"{BROKER}={kafka.bootstrap}", f"={kafka.prefix}"]
            env |= {"EVENFLOW_TOPIC_PREFIX": kafka.prefix, "EVENFLOW_GROUP_PREFIX": kafka.prefix}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[str]]]:
    """The pages that were asked for, two at a time."""
    chosen = [item.callspec.params["page"] for item in request.session.items if item.originalname == "test_a_page_runs"]
    with ThreadPoolExecutor(2) as pool:
        yield {page: pool.submit(run, page, tmp_path_factory.mktemp("page")) for page in chosen}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page: str, runs: dict[str, Future[str]]) -> None:
    assert runs[page].result() == ""


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "printed"),
        ("```python\nprint(1)\n```\n", "not shown"),
        ("```python\nraise ValueError(1)\n```\n", "ValueError"),
        ("```python\n# a.py\nprint(1)\n```\n\n```text\n2\n```\n", "printed"),
        ("```console\n$ echo 1\n2\n```\n", "printed"),
        ("```console\n$ false\n…\n```\n", "ended with 1"),
        ("```python\n# a.py\nx = 1\n```\n\n```diff\n--- a.py\n-y = 1\n+y = 2\n```\n", "does not hold"),
        ("```text\n2\n```\n", "nothing checks"),
        ("```\n2\n```\n", "nothing checks"),
        ("```sh\nrm -r x\n```\n", "would not be run"),
    ],
)
def test_a_wrong_page_is_found(tmp_path: Path, page: str, complaint: str) -> None:
    file = tmp_path / "wrong.md"
    file.write_text(page, "utf-8")
    assert complaint in run(str(file), tmp_path)


@pytest.mark.parametrize(
    ("shown", "came", "expected"),
    [
        ("a\n", "a", True),
        ("a …", "a b c", True),
        ("a …\nb", "a x\nb", True),
        ("a …", "a b\nc", False),
        ("a\n…\nc", "a\nb\nb\nc", True),
        ("a\n…\nc", "a\nc", True),
        ("a\n…\nc", "a\nb\nb\nd", False),
        ("", "a", False),
        ("08:00:00.123 pid 5 ready", "09:11:12.999 pid 77 ready", True),
        ("GROUP  PID", "GROUP     PID", True),
        ("a.c", "abc", False),
    ],
)
def test_outputs_are_compared_but_for_what_varies(shown: str, came: str, expected: bool) -> None:
    assert same(shown, came) is expected
