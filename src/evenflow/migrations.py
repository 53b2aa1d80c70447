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

_NAME = re.compile(r"(\d{4,})_([A-Za-z0-9][A-Za-z0-9_.-]*)\.sql")


def load_migrations(folder: Path | Traversable, owner: str) -> list[Migration]:
    """The migrations in a folder, by number. Numbers may leave gaps; only `.sql` files are looked at.

    Raises `Refused` for a folder that is not there, a file that is not called `0001_name.sql`, and a number used twice.
    """
    if not folder.is_dir():
        raise Refused(
            f"the migrations folder {folder} of {owner!r} does not exist", remedy="make it, or correct the path"
        )
    found: dict[int, Migration] = {}
    for file in sorted((each for each in folder.iterdir() if each.name.endswith(".sql")), key=lambda each: each.name):
        match = _NAME.fullmatch(file.name)
        if match is None or int(match[1]) == 0:
            raise Refused(f"{file} is not a migration's name", remedy="call it like 0001_what_it_does.sql")
        number = int(match[1])
        if number in found:
            raise Refused(
                f"two migrations of {owner!r} have the number {number}: {found[number].name} and {file.name}",
                remedy="give the one that is not applied yet the next free number",
            )
        found[number] = Migration(owner, number, file.name, file.read_text("utf-8"), str(file))
    return [found[number] for number in sorted(found)]


def checksum(migration: Migration) -> str:
    """SHA-256 of the text, whatever the line ends of its file."""
    return sha256(migration.sql.replace("\r\n", "\n").encode()).hexdigest()
