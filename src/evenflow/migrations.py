"""Numbered `.sql` files: a service's schema, step by step."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from evenflow.errors import Refused
from evenflow.store import Migration

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

DIALECTS = ("sqlite", "postgres")
"""Of SQL: the dialects of the stores that there are."""
ANY = ""
"""For who only looks whether a folder is in order, and has no store."""
_NAME = re.compile(r"(\d{4,})_([A-Za-z0-9][A-Za-z0-9_.-]*?)(?:\.(?P<dialect>" + "|".join(DIALECTS) + r"))?\.sql")


def load_migrations(folder: Path | Traversable, owner: str, dialect: str) -> list[Migration]:
    """The migrations in a folder, by number. Numbers may leave gaps; only `.sql` files are looked at.

    `0001_name.postgres.sql` is for stores of that dialect alone; there it takes the place of `0001_name.sql`.
    Raises `Refused` for a folder that is not there, a file that is not called `0001_name.sql`, a number used twice, and
    one that has files for other dialects only.
    """
    if not folder.is_dir():
        raise Refused(
            f"the migrations folder {folder} of {owner!r} does not exist", remedy="make it, or correct the path"
        )
    found: dict[int, dict[str, Migration]] = {}
    for file in sorted((each for each in folder.iterdir() if each.name.endswith(".sql")), key=lambda each: each.name):
        match = _NAME.fullmatch(file.name)
        if match is None or int(match[1]) == 0:
            raise Refused(f"{file} is not a migration's name", remedy="call it like 0001_what_it_does.sql")
        number, of = int(match[1]), match["dialect"] or ""
        others = found.setdefault(number, {})
        if of in others:
            raise Refused(
                f"two migrations of {owner!r} have the number {number}: {others[of].name} and {file.name}",
                remedy="give the one that is not applied yet the next free number",
            )
        others[of] = Migration(owner, number, file.name, file.read_text("utf-8"), str(file))
    return [_chosen(found[number], dialect) for number in sorted(found)]


def _chosen(files: dict[str, Migration], dialect: str) -> Migration:
    other = next(iter(files.values()))
    chosen = files.get(dialect) or files.get("") or (other if dialect == ANY else None)
    if chosen is None:
        raise Refused(
            f"{other.file} has no counterpart for a store that speaks {dialect}",
            remedy=f"write {other.number:04d}_….{dialect}.sql (empty where nothing is to do), or one .sql for all",
        )
    return chosen


def checksum(migration: Migration) -> str:
    """SHA-256 of the text, whatever the line ends of its file."""
    return sha256(migration.sql.replace("\r\n", "\n").encode()).hexdigest()
