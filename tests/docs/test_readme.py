"""The README names what a reader needs, its figures are those of the bench, and its links lead somewhere."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_site"))

import readme_figures  # noqa: E402


def test_the_readme_names_the_commands_of_this_folder() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [command for command in ("make run", "make test", "make docs") if command not in text] == []


def test_the_figures_are_those_of_the_bench() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    results = json.loads(readme_figures.RESULTS.read_text("utf-8"))
    assert readme_figures.filled(text, results) == text, "make docs"


def test_other_figures_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_figures, "CHOSEN", ("idle, of one core",))
    line = {"name": "idle, of one core", "unit": "%", "ours": {"median": 0.4}}
    results = {"machine": {"cores": 2, "cpu": "X", "python": "3"}, "cases": {"idle": {"lines": [line]}}}
    text = f"a\n{readme_figures.BEGIN}\nold\n{readme_figures.END}\nb\n"
    assert "| idle, of one core | 0.4 % |" in readme_figures.filled(text, results)
    assert "old" not in readme_figures.filled(text, results)
    with pytest.raises(ValueError, match="no place"):
        readme_figures.filled("a", results)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.4, "0.4"), (26.55, "26.6"), (999.4, "999"), (2116, "2,120"), (109994, "110,000")]
)
def test_three_digits_count(value: float, shown: str) -> None:
    assert readme_figures.number(value) == shown


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/adr/README.md"])
def test_links_inside_the_repository_lead_somewhere(page: str) -> None:
    file = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text("utf-8"))
    assert [link for link in links if not (file.parent / link).exists()] == []
