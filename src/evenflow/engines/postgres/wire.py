"""A connection that is made when it is needed, and made anew after it was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from evenflow.drivers.postgres.errors import PostgresError, Trouble, connect_in_vain, connect_remedy
from evenflow.drivers.postgres.link import Link, Statement
from evenflow.drivers.postgres.place import PostgresPlace
from evenflow.errors import EngineUnavailable, EvenflowError, Refused

T = TypeVar("T")
Rows = list[tuple[Any, ...]]
BEGIN = "begin isolation level read committed"
CONNECT_SECONDS = 10.0
GONE = frozenset({"57P01", "57P02", "57P03", "57P05"})
"""The server ended the connection, by a restart or by an administrator's hand."""


class Wire:
    """One socket. Calls at the same time run in the order of calling; who gives up a call breaks none of the others."""

    def __init__(self, place: PostgresPlace, limit: float) -> None:
        self.place = place
        self._limit = limit
        self._link: Link | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        self.leave()

    def leave(self) -> None:
        """Give up the connection, and the transaction that is open on it."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def links(self) -> list[Link]:
        return [] if self._link is None else [self._link]

    async def link(self) -> Link:
        """The open connection. Raises `PostgresError` that is not `lost`: nothing was sent."""
        link = self._link
        if link is not None and not link.dead:
            return link
        async with self._connecting:
            link = self._link
            if link is None or link.dead:
                if self._closed:
                    raise PostgresError("the connection to the event log is closed", remedy="open the engine first")
                self._link = link = await Link.connect(self.place, limit=min(self._limit, CONNECT_SECONDS))
            return link

    async def run(
        self, statements: Sequence[Statement], *, before: Iterable[str] = (), after: Iterable[str] = ()
    ) -> list[Rows]:
        """The rows of each statement; all are sent at once. Raises `PostgresError`; `lost` where nobody knows."""
        link = await self.link()
        try:
            async with asyncio.timeout(self._limit):
                return await link.rows(statements, before=before, after=after)
        except TimeoutError:
            link.close()
            raise PostgresError(f"no answer from {self.place.words} within {self._limit:g} s", lost=True) from None

    async def ask(self, statements: Sequence[Statement]) -> list[Rows]:
        """The rows of statements that change nothing: asked once more if the connection was lost meanwhile."""
        try:
            return await self.run(statements)
        except PostgresError as error:
            if not is_gone(error):
                raise
        return await self.run(statements)

    async def transaction(self, statements: Sequence[Statement], *, end: bool = True) -> list[Rows]:
        """The same in one transaction of its own, which is left open without `end`."""
        begin = (BEGIN, "set local idle_in_transaction_session_timeout = '30s'")
        try:
            return await self.run(statements, before=begin, after=("commit",) if end else ())
        except PostgresError:
            self.leave()  # it is open still, and whatever came after would fail in it
            raise


def is_gone(error: PostgresError) -> bool:
    """Whether the connection went away while an answer was owed."""
    return error.lost or error.sqlstate in GONE


def unavailable(error: PostgresError, place: PostgresPlace) -> EngineUnavailable:
    """What a user is told."""
    return EngineUnavailable(
        f"the event log at {place.words}: {error.message}",
        remedy=error.remedy or "see that the server is up and takes connections; this goes on by itself then",
    )


def cannot_open(error: PostgresError, place: PostgresPlace) -> EvenflowError:
    """The same at the start: `Refused` where waiting for the server does not help."""
    in_vain = error.trouble is Trouble.STATEMENT or connect_in_vain(error.message)
    return (Refused if in_vain else EngineUnavailable)(
        f"the event log at {place.words} cannot be opened: {error.message}",
        remedy=error.remedy or connect_remedy(error.message),
    )
