"""A store on a server, seen from virtual time: time stands still for as long as the server is waited for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from evenflow.store import Session, Store

_CALLS = frozenset(
    {"open", "transact", "read", "migrate", "join", "beat", "processes", "beat_and_look", "forget", "end", "close"}
)


class Waits:
    """How many calls wait for a server now."""

    __slots__ = ("_given_up", "count")

    def __init__(self) -> None:
        self.count = 0
        self._given_up = 0

    def give_up(self) -> None:
        """Count those that wait now no longer: what they wait for is not the server, but a transaction here."""
        self.count = 0
        self._given_up += 1

    def counted(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The same call, counted while it runs."""

        async def made(*args: Any, **more: Any) -> Any:
            self.count += 1
            given_up = self._given_up
            try:
                return await call(*args, **more)
            finally:
                if given_up == self._given_up:
                    self.count -= 1

        return made


def attended(store: Store, waits: Waits) -> Store:
    """The same store, of which every call is counted; not one in memory, where nobody waits but for others here."""
    if not store.capabilities.durable:
        return store
    made: Any = _Attended(store, waits)
    return made  # type: ignore[no-any-return]  # it has all that the store has


class _Attended:
    def __init__(self, store: Store, waits: Waits) -> None:
        self._store = store
        self._waits = waits

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return self._waits.counted(found) if name in _CALLS else found

    def session(self) -> Session:
        made: Any = _AttendedSession(self._store.session(), self._waits)
        return made  # type: ignore[no-any-return]  # it has all that the session has


class _AttendedSession:
    def __init__(self, session: Session, waits: Waits) -> None:
        self._session = session
        self._waits = waits

    def __getattr__(self, name: str) -> Any:
        return self._waits.counted(getattr(self._session, name))
