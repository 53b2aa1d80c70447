"""CONTRACT: what a schema registry is asked for; and the shortest one there is, in memory, for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, Protocol

from evenflow.errors import DecodeError


class Schema(NamedTuple):
    """A schema. `kind` is "AVRO", "PROTOBUF" or "JSON"; `parts` are the texts of those it refers to, before it."""

    number: int
    kind: str
    text: str
    parts: tuple[str, ...] = ()


class Schemas(Protocol):
    """A schema registry. Every `async` method may raise `SchemasUnavailable`."""

    def known(self, number: int) -> Schema:
        """The schema of this number, from memory alone.

        Raises `DecodeError` for one that the registry does not have, and `SchemasUnavailable` for one that it was not
        asked for: it is being asked then.
        """
        ...

    async def fetch(self, numbers: Iterable[int]) -> None:
        """Ask for those that are not known, once for all who want them. What is not there is remembered for a while."""
        ...

    async def latest(self, subject: str) -> Schema | None:
        """The latest schema of a subject."""
        ...

    async def number_of(self, subject: str, kind: str, text: str) -> int | None:
        """The number under which the subject has exactly this schema."""
        ...

    async def misfits(self, subject: str, kind: str, text: str) -> list[str]:
        """Why the subject's rule of compatibility forbids this schema; nothing where it fits, or is the first."""
        ...

    async def register(self, subject: str, kind: str, text: str) -> int:
        """Add a schema to a subject; its number. Raises `Refused` for one that does not fit what is there."""
        ...

    def later(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do this in the background, where an event loop runs; what goes wrong shows when it is wanted again."""
        ...

    async def close(self) -> None: ...


class MemorySchemas:
    """A registry in this process that takes every schema, also those that are only looked for."""

    def __init__(self) -> None:
        self._schemas: list[Schema] = []
        self._latest: dict[str, Schema] = {}

    def known(self, number: int) -> Schema:
        if not 1 <= number <= len(self._schemas):
            raise DecodeError(f"schema {number}", f"the schema registry in memory has no schema {number}")
        return self._schemas[number - 1]

    async def fetch(self, numbers: Iterable[int]) -> None:
        """All is known here at once."""

    async def latest(self, subject: str) -> Schema | None:
        return self._latest.get(subject)

    async def number_of(self, subject: str, kind: str, text: str) -> int | None:
        return await self.register(subject, kind, text)

    async def misfits(self, subject: str, kind: str, text: str) -> list[str]:  # noqa: ARG002  # all fit
        return []

    async def register(self, subject: str, kind: str, text: str) -> int:
        found = next((each for each in self._schemas if (each.kind, each.text) == (kind, text)), None)
        if found is None:
            found = Schema(len(self._schemas) + 1, kind, text)
            self._schemas.append(found)
        self._latest[subject] = found
        return found.number

    def later(self, work: Callable[[], Awaitable[None]]) -> None:
        """Nothing is ever late here."""

    async def close(self) -> None: ...
