"""What all stores say about migrations: whether a file was changed, whether a newer Evenflow was here."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import indent

from evenflow.errors import EvenflowError, Refused
from evenflow.migrations import checksum
from evenflow.store import Applied, Migration

OWNER = "evenflow"


def unchanged(migration: Migration, name: str, applied: str) -> None:
    """Raise `Refused` if the text that was applied is not this one."""
    if applied != checksum(migration):
        also = "" if name == migration.name else f" (applied as {name})"
        raise Refused(
            f"the migration {migration.name} of {migration.owner!r}{also} was changed after it was applied",
            remedy="put its text back, and write the change as a new migration",
        )


def not_newer(newest: int, own: Sequence[Migration], place: str) -> None:
    """Raise `Refused` if a newer Evenflow has migrated this database."""
    if newest > max((each.number for each in own), default=0):
        raise Refused(
            f"the store at {place} was migrated by a newer version of Evenflow (step {newest})",
            remedy="pip install --upgrade evenflow; nothing was changed there",
        )


def complete(applied: Sequence[Applied], own: Sequence[Migration]) -> bool:
    """Whether our own steps are applied, exactly."""
    there = {each.number: each.checksum for each in applied if each.owner == OWNER}
    return there == {each.number: checksum(each) for each in own}


def failed_at(migration: Migration, reason: str, line: int, statement: str, remedy: str = "") -> Refused:
    """What a migration says of which a statement fails."""
    return Refused(
        f"the migration {migration.name} of {migration.owner!r} fails: {reason}\n"
        f"  in {migration.file or migration.name}:{line}:\n"
        f"{indent(statement, '    ')}",
        remedy=remedy or "correct the file; nothing of it was applied",
    )


def failed(migration: Migration, error: EvenflowError) -> Refused:
    """What a migration that could not be committed says."""
    return Refused(
        f"the migration {migration.name} of {migration.owner!r} fails at its commit: {error.message}",
        remedy="correct the file; nothing of it was applied",
    )
