"""Where the events and the data of a replay are: in files of its folder, or on servers, in what is its own there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

PATIENCE = 30.0


class Cursor(Protocol):
    """What a statement has found."""

    def fetchall(self) -> Sequence[tuple[Any, ...]]: ...


class Database(Protocol):
    """A connection of `sqlite3` or of `psycopg`: what they have in common is enough here."""

    def execute(self, sql: Any, /) -> Cursor: ...


@dataclass(frozen=True, slots=True)
class Places:
    """URLs of the engine's server and of the database server, empty for files. `name`: what is made there is called so.

    One database is made on each server of PostgreSQL, with a schema for each service; Kafka gets topics of this name.
    """

    engine: str = ""
    store: str = ""
    name: str = ""

    def settings(self, folder: Path) -> dict[str, str]:
        """What Evenflow has to be told, as its settings are called."""
        found = {"folder": str(folder)}
        if self.engine:
            found["engine"] = self._own(self.engine)
            found |= dict.fromkeys(("topic_prefix", "group_prefix"), f"{self.name}.")
        if self.store:
            found["store"] = self._own(self.store)
        return found

    def make(self) -> None:
        """Make the databases."""
        for server in self._databases():
            with _connected(server) as database:
                database.execute(f'create database "{self.name}"')

    def remove(self) -> None:
        """Remove all that a replay of this name has made on servers."""
        for server in self._databases():
            with _connected(server) as database:
                database.execute(f'drop database if exists "{self.name}" with (force)')
        if self.engine.startswith("kafka:"):
            _remove_topics(urlsplit(self.engine).netloc.rpartition("@")[2], f"{self.name}.")

    @contextmanager
    def open(self, folder: Path, name: str) -> Iterator[Database]:
        """The database of a service, to read it without Evenflow. Raises `Unreadable`."""
        try:
            if self.store:
                with _connected(self._own(self.store)) as database:
                    database.execute(f'set search_path = "{name}"')
                    yield database
            else:
                with ledger(folder, name) as database:
                    yield database
        except _errors() as error:
            raise Unreadable(str(error)) from error

    def _databases(self) -> list[str]:
        urls = [url for url in (self.engine, self.store) if url.startswith("postgres")]
        return list(dict.fromkeys(urls))

    def _own(self, url: str) -> str:
        if not url.startswith("postgres"):
            return url
        parts = urlsplit(url)
        return urlunsplit(parts._replace(path=f"/{self.name}"))


class Unreadable(Exception):
    """A database that is not there, or holds no such table."""


@contextmanager
def ledger(folder: Path, name: str) -> Iterator[sqlite3.Connection]:
    """A file of SQLite, to read it."""
    with closing(sqlite3.connect(f"file:{folder / name}.db?mode=ro", uri=True)) as database:
        yield database


@contextmanager
def _connected(url: str) -> Iterator[Database]:
    import psycopg

    with psycopg.connect(url, autocommit=True, connect_timeout=int(PATIENCE)) as database:
        yield database


def _errors() -> tuple[type[Exception], ...]:
    try:
        import psycopg
    except ImportError:
        return (sqlite3.Error,)
    return (sqlite3.Error, psycopg.Error)


def _remove_topics(brokers: str, prefix: str) -> None:
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": brokers})
    names = [name for name in admin.list_topics(timeout=PATIENCE).topics if name.startswith(prefix)]
    for removed in admin.delete_topics(names, operation_timeout=PATIENCE).values() if names else ():
        removed.result(PATIENCE)
