"""The statements of the core in their dialects: what is the contract between them."""

import re
from collections.abc import Mapping
from importlib.resources import files

import pytest

from evenflow.sql import load

SQLITE, POSTGRES = load("store", "store_sqlite"), load("store", "store_postgres")
TEXT = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"")


def placeholders(statement: str) -> set[str]:
    return set(re.findall(r"\$\d+", statement))


def columns(statement: str) -> int:
    """How many columns a plain `select` or `returning` gives; 0 where the statement gives none."""
    text = TEXT.sub("x", statement)
    while (flat := re.sub(r"\([^()]*\)", "x", text)) != text:
        text = flat
    match = re.search(r"\breturning\b(.*)", text, re.DOTALL) or re.search(
        r"(?:^|\bx\s+)select\b(.*?)(\bfrom\b|$)", text, re.DOTALL
    )
    return 0 if match is None or text.startswith("insert") and "returning" not in text else match[1].count(",") + 1


def test_both_dialects_have_the_same_statements() -> None:
    assert set(POSTGRES) - {"counters_draw_alone"} == set(SQLITE)


@pytest.mark.parametrize("name", sorted(SQLITE))
def test_a_statement_takes_and_gives_the_same(name: str) -> None:
    ours, theirs = SQLITE[name], POSTGRES[name]
    assert placeholders(ours) == placeholders(theirs)
    assert placeholders(theirs) == {f"${n + 1}" for n in range(len(placeholders(theirs)))}
    if name != "position_guard":  # a lock gives a row, of which the count alone is looked at
        assert columns(ours) == columns(theirs)
    for mark in (":filter", ":value"):
        assert (mark in ours) == (mark in theirs)


def test_what_is_compared_is_seen() -> None:
    """The comparison above sees what it is for."""
    assert columns("select a, b from t") == 2
    assert columns("with t (x) as (select 1) select a, max(b, c), 'd, e' from t") == 3
    assert columns("delete from t returning a, b") == 2
    assert columns("insert into t select a, b from u") == 0


def tables(folder: str) -> Mapping[str, set[str]]:
    """Columns by table, as the migrations of a dialect leave them."""
    text = "\n".join(
        each.read_text("utf-8")
        for each in sorted((files("evenflow.sql") / folder).iterdir(), key=lambda each: each.name)
    )
    text = re.sub(r"--[^\n]*", "", text)
    found = {}
    for name, body in re.findall(r"create table (\w+) \((.*?)\n\)", text, re.DOTALL):
        words = [line.split()[0].strip('"') for line in body.strip().splitlines()]
        found[name] = {word for word in words if word != "primary"}
    for name, column in re.findall(r"alter table (\w+) add column (\w+)", text):
        found[name].add(column)
    return found


def test_both_dialects_have_the_same_tables_and_columns() -> None:
    ours, theirs = dict(tables("migrations_sqlite")), dict(tables("migrations_postgres"))
    assert theirs.pop("evenflow_lot") - ours.pop("evenflow_lot") == {"slot"}
    assert theirs == ours
