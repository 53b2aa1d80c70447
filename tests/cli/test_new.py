"""`evenflow new`: what it makes runs, is tested, is typed, and writes over nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from evenflow.cli import new as module

from .conftest import Shop

ORDER = '{"order_id": "1", "customer": "Ada", "cents": 500}'


def test_the_new_project_is_right_runs_and_its_tests_pass(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    done = shop.evenflow("new", "my-shop")
    assert done.code == 0, done.err
    made = sorted(str(each.relative_to(shop.folder)) for each in (shop.folder / "my-shop").rglob("*") if each.is_file())
    assert made == sorted(done.out.splitlines())
    assert "cd my-shop" in done.err and "evenflow dev" in done.err
    assert [name for name in made if "{{" in (shop.folder / name).read_text()] == []

    shop.folder /= "my-shop"
    monkeypatch.chdir(shop.folder)
    assert shop.evenflow("check").code == 0
    ran = shop.run("publish", "order.placed", ORDER)
    assert ran.code == 0, ran.err
    ran = shop.run("run", "--until-idle", "--log", "text")
    assert ran.code == 0, ran.err
    assert "idle: nothing is left to do\n" in ran.err
    seen = shop.run("tail", "--from", "beginning", "--no-follow", "--json")
    assert json.loads(seen.out)["data"]["customer"] == "Ada"
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"], cwd=shop.folder,
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    assert tests.returncode == 0, tests.stdout
    assert "2 passed" in tests.stdout


def test_its_readme_names_commands_that_there_are(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.evenflow("new", "shop2")
    monkeypatch.chdir(shop.folder / "shop2")
    readme = Path("README.md").read_text()
    lines = [line.strip() for line in readme.splitlines() if line.startswith("    evenflow ")]
    assert len(lines) >= 6
    for line in lines:
        words = line.split("  ")[0].split()[1:]
        name = " ".join(words[:2]) if words[0] in ("groups", "parked") else words[0]
        assert shop.evenflow(*name.split(), "--help").code == 0, line
    assert tomllib.loads(Path("pyproject.toml").read_text())["tool"]["evenflow"] == {"app": "shop2.main:app"}


def test_it_goes_into_an_empty_folder_and_writes_over_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop.folder / "fresh").mkdir()
    monkeypatch.chdir(shop.folder / "fresh")
    assert shop.evenflow("new", ".").code == 0
    assert "cd " not in shop.evenflow("new", "deep/er/thing").err.replace("cd deep/er/thing", "")
    before = {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()}
    for name in (".", "../fresh"):
        again = shop.evenflow("new", name)
        assert (again.code, again.out) == (4, "")
        assert "exists and is not empty" in again.err
    Path("file").write_text("mine")
    assert shop.evenflow("new", "file").code == 4
    assert {file: file.read_bytes() for file in before} == before
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("My Shop", "for example my-shop"),
        ("1st", "for example shop"),
        ("json", "try my-json"),
        ("class", "try my-class"),
        ("evenflow", "try my-evenflow"),
        ("a" * 41, "for example aaa"),
    ],
)
def test_a_name_that_cannot_be_used_is_told(shop: Shop, name: str, hint: str) -> None:
    done = shop.evenflow("new", name)
    assert done.code == 2
    assert hint in done.err
    assert not (shop.folder / name).exists()


def test_its_code_is_formatted_and_typed_as_ours() -> None:
    folder = Path(module.__file__).parent / "project"
    assert {f"{each}.tmpl" for each in module.FILES.values()} == {file.name for file in folder.iterdir()}
    for name in ("main.py", "test_main.py"):
        text = (folder / f"{name}.tmpl").read_text().replace("{{package}}", "shop").replace("{{name}}", "shop")
        run = subprocess.run(
            [sys.executable, "-m", "ruff", "format", "--diff", "-"], input=text, capture_output=True, text=True,
            cwd=Path(__file__).parents[2], timeout=60,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout
