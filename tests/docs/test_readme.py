"""Every Python block of the README runs by itself, in an empty folder, and prints what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from reader_env import clean_env

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str | None]]:
    """The Python blocks, each with the output that a text block right after it promises."""
    found: list[tuple[str, str | None]] = []
    for match in FENCE.finditer((ROOT / "README.md").read_text("utf-8")):
        if match[1] == "python":
            found.append((match[2], None))
        elif match[1] == "text":
            found[-1] = (found[-1][0], match[2])
    return found


@pytest.mark.parametrize("number", range(len(blocks())))
def test_a_block_of_the_readme_runs(tmp_path: Path, number: int) -> None:
    source, promised = blocks()[number]
    file = tmp_path / "shop.py"
    file.write_text(source, "utf-8")
    command = [sys.executable, "-W", "error", str(file)]
    run = subprocess.run(command, cwd=tmp_path, env=clean_env(), capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    if promised is not None:
        assert run.stdout == promised
        assert {"log.db", "shop.db"} <= {each.name for each in (tmp_path / ".evenflow").iterdir()}


def test_the_readme_has_python_with_promised_output_and_names_both_commands() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert sum(output is not None for _, output in blocks()) >= 1
    assert text.count("```") == 2 * len(FENCE.findall(text))
    assert "make run" in text
    assert "make test" in text


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/adr/README.md"])
def test_links_inside_the_repository_lead_somewhere(page: str) -> None:
    file = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text("utf-8"))
    assert [link for link in links if not (file.parent / link).exists()] == []
