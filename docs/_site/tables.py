"""The reference of the tables: read from the statements that make them, with their comments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from docutils.parsers.rst import Directive

SQL = Path(__file__).parents[2] / "src" / "evenflow" / "sql"
TABLE = re.compile(r"((?:^-- (?!name:).*\n)*)^create table (\w+) \(\n((?:.*\n)*?)^\)", re.MULTILINE)
COLUMN = re.compile(r'^    "?(\w+)"? (text|integer|real|blob)([^-\n]*?),?(?: +-- (.*))?$', re.MULTILINE)
ADDED = re.compile(r'^alter table (\w+) add column "?(\w+)"? (.+?); *(?:-- (.*))?$', re.MULTILINE)
KEY = re.compile(r"primary key \((.*?)\)")


class Table(NamedTuple):
    """A table as its statement says it."""

    name: str
    about: str
    columns: tuple[tuple[str, str, str], ...]
    key: str


def tables(sql: str) -> list[Table]:
    """All tables that this text makes, with the columns that it adds to them later."""
    found = []
    for about, name, body in TABLE.findall(sql):
        columns = tuple(
            (column, f"{kind} {rest.strip()}".strip(), note) for column, kind, rest, note in COLUMN.findall(body)
        )
        columns += tuple((column, kind, note) for table, column, kind, note in ADDED.findall(sql) if table == name)
        key = KEY.search(body)
        lines = (line.removeprefix("-- ").strip() for line in about.splitlines())
        found.append(Table(name, " ".join(lines), columns, key[1] if key else ""))
    return found


class Tables(Directive):
    """A section for each table of one `.sql` file, or of all in a folder."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        place = SQL / self.arguments[0]
        files = sorted(place.glob("*.sql")) if place.is_dir() else [place]
        found = tables("".join(file.read_text("utf-8") for file in files))
        if not found:
            raise self.error(f"{place.name} makes no table")
        return [self.section(table) for table in found]

    def section(self, table: Table) -> nodes.section:
        section = nodes.section(ids=[table.name.replace("_", "-")], names=[table.name])
        self.state.document.note_implicit_target(section, section)
        section += nodes.title("", "", nodes.literal(text=table.name))
        if table.about:
            section += nodes.paragraph("", "", *told(table.about))
        section += columns(table)
        if table.key:
            section += nodes.paragraph(
                "", "Primary key: ", nodes.literal(text=table.key.replace('"', "")), nodes.Text(".")
            )
        return section


def columns(table: Table) -> nodes.table:
    """The columns as a table of the page."""
    rows = [
        row([nodes.literal(text=name)], [nodes.literal(text=kind)], told(note)) for name, kind, note in table.columns
    ]
    head = nodes.thead("", row(told("column"), told("type"), told("meaning")))
    specs = [nodes.colspec(colwidth=width) for width in (20, 30, 50)]
    return nodes.table("", nodes.tgroup("", *specs, head, nodes.tbody("", *rows), cols=3))


def told(text: str) -> list[nodes.Node]:
    """A comment, with `code` in it."""
    parts = re.split(r"`([^`]+)`", text)
    return [nodes.literal(text=part) if number % 2 else nodes.Text(part) for number, part in enumerate(parts)]


def row(*cells: list[nodes.Node]) -> nodes.row:
    """A row with one paragraph in each cell."""
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells))


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("evenflow-tables", Tables)
    return {"parallel_read_safe": True}
