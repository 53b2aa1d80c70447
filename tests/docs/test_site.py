"""The site builds without a warning, no link of it is dead, and its pictures are those of their texts."""

from __future__ import annotations

import dataclasses
import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from reader_env import reader_env

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_site"))

import links  # noqa: E402
import loglines  # noqa: E402
import pictures  # noqa: E402
import tables  # noqa: E402


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ["--nitpicky", "--fail-on-warning", "-q", "-d", str(folder / "trees")]
    env = reader_env() | {"PYTHONWARNINGS": "default"}  # those of other people's extensions are not ours
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder / "html")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return folder / "html"


def test_no_link_of_the_site_is_dead(site: Path) -> None:
    found = links.follow(site)
    assert found.dead == []
    assert found.followed > 500


def test_every_command_has_a_section(site: Path) -> None:
    from evenflow.cli.commands import COMMANDS

    text = (site / "reference" / "commands.html").read_text("utf-8")
    assert [each.name for each in COMMANDS if f'id="evenflow-{each.name.replace(" ", "-")}"' not in text] == []


def test_every_page_is_in_the_contents(site: Path) -> None:
    index = (site / "index.html").read_text("utf-8")
    pages = {str(file.relative_to(DOCS).with_suffix(".html")) for file in DOCS.rglob("*.md")}
    pages -= {"index.html", "adr/README.html"}  # adr/index includes it
    assert sorted(page for page in pages if f'href="{page}"' not in index) == []


def test_every_public_name_is_described(site: Path) -> None:
    import evenflow

    text = (site / "reference" / "api.html").read_text("utf-8")
    names = [name for name in evenflow.__all__ if not name.startswith("__")]
    assert [name for name in names if f'id="evenflow.{name}"' not in text] == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<p id="here"><a href="#here"></a><a href="#gone"></a><a href="b.html#x"></a>')
    (tmp_path / "b.html").write_text(
        '<a href="a.html#here"></a><img src="none.svg"><a href="https://example.org/"></a>'
    )
    found = links.follow(tmp_path)
    assert [line.partition(" ")[2] for line in found.dead] == [
        "#gone has no anchor 'gone'",
        "b.html#x has no anchor 'x'",
        "none.svg is no file",
    ]
    assert list(found.outside) == ["https://example.org/"]


def test_the_pictures_are_those_of_their_texts() -> None:
    assert pictures.stale() == [], "make pictures"


def test_a_changed_text_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PICTURES", shutil.copytree(pictures.PICTURES, tmp_path / "pictures"))
    changed = pictures.sources()[0]
    changed.write_text(changed.read_text("utf-8") + "\nmore\n", "utf-8")
    assert pictures.stale() == [changed.with_suffix(".svg").name]


def test_every_setting_is_described() -> None:
    from evenflow.settings_sources import FIELDS, TABLES

    text = (DOCS / "settings.md").read_text("utf-8")
    assert [name for name in (*FIELDS, *(f"{table}.<" for table in TABLES)) if f"`{name}" not in text] == []


def test_every_figure_of_a_group_is_described() -> None:
    from evenflow.operate import GroupStatus

    text = (DOCS / "reference" / "figures.md").read_text("utf-8")
    assert [each.name for each in dataclasses.fields(GroupStatus) if f"| `{each.name}` |" not in text] == []


def test_every_log_line_is_shown(site: Path) -> None:
    found = loglines.all_lines()
    assert len(found) > 15
    shown = html.unescape((site / "reference" / "figures.html").read_text("utf-8"))
    plain = re.sub(r"\s+", " ", re.sub("<[^>]+>", "", shown))
    assert [line for _, line in found if re.sub(r"\s+", " ", line) not in plain] == []


def test_log_lines_are_read_from_code() -> None:
    source = 'def f():\n    log.warning("%s waits %.1f s", a, b)\n    log.debug("no")\n    other.info("no")\n'
    assert list(loglines.lines(source)) == [("warning", "… waits … s")]


def test_no_table_is_left_out(site: Path) -> None:
    files = [file for file in tables.SQL.rglob("*.sql") if "postgres" not in f"{file.parent.name}/{file.name}"]
    sql = "".join(file.read_text("utf-8") for file in files)
    text = (site / "reference" / "tables.html").read_text("utf-8")
    names = re.findall(r"^create table (\w+)", sql, re.MULTILINE)
    assert len(names) > 10
    assert [name for name in names if text.count(f'id="{name.replace("_", "-")}"') != 1] == []
    assert len(re.findall("^alter table", sql, re.MULTILINE)) == len(tables.ADDED.findall(sql)), "a column is not shown"
    assert not re.search(r"drop table|drop column|^alter table \w+ rename", sql, re.MULTILINE), "what is gone is shown"


COLUMNS = re.compile(
    r'^    "?(\w+)"? (?:text|integer|real|blob|bigint|int|smallint|float8|double precision|bytea|bool|json)\b',
    re.MULTILINE,
)


def columns(folder: str) -> dict[str, set[str]]:
    """The columns of each table that the migrations of a folder make."""
    sql = "".join(file.read_text("utf-8") for file in sorted((tables.SQL / folder).glob("*.sql")))
    made = re.findall(r"^create table (\w+) \(\n(.*?)^\)", sql, re.MULTILINE | re.DOTALL)
    found = {name: set(COLUMNS.findall(body)) for name, body in made}
    for table, column in re.findall(r'^alter table (\w+) add column "?(\w+)"?', sql, re.MULTILINE):
        found[table].add(column)
    return found


def test_the_tables_on_postgres_are_those_that_are_shown() -> None:
    shown, there = columns("migrations_sqlite"), columns("migrations_postgres")
    shown["evenflow_lot"].add("slot")  # the page says so
    assert there == shown
    page = (DOCS / "reference" / "tables.md").read_text("utf-8")
    log = (tables.SQL / "engine_postgres.sql").read_text("utf-8")
    assert [
        name
        for name in re.findall(r'^create table evenflow_log\."?(\w+)', log, re.MULTILINE)
        if f"`{name}`" not in page
    ] == []


def test_the_columns_of_a_table_are_read() -> None:
    text = (
        "-- About it.\ncreate table t (\n    a text not null,\n    b real,   -- when\n    primary key (a)\n) strict\n"
    )
    text += "-- More.\nalter table t add column c blob;  -- since when\n"
    (table,) = tables.tables(text)
    columns = (("a", "text not null", ""), ("b", "real", "when"), ("c", "blob", "since when"))
    assert table == tables.Table("t", "About it.", columns, "a")
