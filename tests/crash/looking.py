"""What stands in stores and logs, read by their own clients, in a process that never loads Evenflow."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

import psycopg
from confluent_kafka import Consumer, TopicPartition

SERVICES = ("orders", "billing", "shipping")
END = "select coalesce(max(last) + 1, 0) from evenflow_log.{packs} where serial = %s"
Ends = Mapping[tuple[str, int, int], int]
"""By topic, generation and partition: the offset that the next event has."""


class Stores(Protocol):
    """The stores of all services. `tables` are all those that a service has."""

    def rows(self, service: str, sql: str) -> Iterator[tuple[Any, ...]]: ...

    def tables(self, service: str) -> Sequence[str]: ...


class Log(Protocol):
    def ends(self) -> Ends: ...


class SqliteStores:
    """A file for each service."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, service: str, sql: str) -> Iterator[tuple[Any, ...]]:
        return iter(query(self.folder / f"{service}.db", sql))

    def tables(self, service: str) -> Sequence[str]:
        return [name for (name,) in self.rows(service, "select name from sqlite_schema where type = 'table'")]


class SqliteLog:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "log.db"

    def ends(self) -> Ends:
        sql = "select topic, generation, number, next from evenflow_partitions"
        return {(topic, generation, number): end for topic, generation, number, end in query(self.file, sql)}


class PostgresStores:
    """A schema for each service, which is called like it, in the database of that URL."""

    def __init__(self, urls: Mapping[str, str], stack: ExitStack) -> None:
        self._connections = {service: _connected(urls[service], stack, service) for service in SERVICES}

    def rows(self, service: str, sql: str) -> Iterator[tuple[Any, ...]]:
        with self._connections[service].transaction(), self._connections[service].cursor("rows") as cursor:
            cursor.itersize = 5000
            yield from cursor.execute(sql.encode())

    def tables(self, service: str) -> Sequence[str]:
        sql = f"select tablename from pg_tables where schemaname = '{service}'"
        return [name for (name,) in self.rows(service, sql)]


class PostgresLog:
    def __init__(self, url: str, stack: ExitStack) -> None:
        self._connection = _connected(url, stack, "public")

    def ends(self) -> Ends:
        sql = (
            "select p.serial, t.id, t.topic, p.generation, p.number, p.base from evenflow_log.partitions as p "
            "join evenflow_log.topics as t on t.id = p.topic"
        )
        found = {}
        for serial, topic, name, generation, number, base in self._connection.execute(sql).fetchall():
            last = END.format(packs=f'"packs_{topic}"').encode()
            ((end,),) = self._connection.execute(last, (serial,)).fetchall()
            found[name, generation, number] = max(base, end)
        return found


class KafkaLog:
    """Topics under their own names, of one generation each."""

    def __init__(self, bootstrap: str, stack: ExitStack) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "crash", "log_level": 0})
        stack.callback(self._consumer.close)

    def ends(self) -> Ends:
        found = {}
        for name, topic in self._consumer.list_topics(timeout=30.0).topics.items():
            for number in () if name.startswith("__") else topic.partitions:
                _, end = self._consumer.get_watermark_offsets(TopicPartition(name, number), timeout=30.0)
                found[name, 1, number] = end
        return found


class Look:
    """Everything of one run, as it stands now."""

    def __init__(self, stores: Stores, log: Log) -> None:
        self.stores = stores
        self.ends = log.ends

    def rows(self, service: str, sql: str) -> list[tuple[Any, ...]]:
        return list(self.stores.rows(service, sql))


def copy(stores: Stores, log: Log, folder: Path) -> None:
    """All of it as SQLite's files, as the embedded engine and stores have them; those that are such files stay."""
    if not isinstance(stores, SqliteStores):
        for service in SERVICES:
            with closing(sqlite3.connect(folder / f"{service}.db")) as file, file:
                for table in stores.tables(service):
                    _copy(file, table, stores, service)
    if not isinstance(log, SqliteLog):
        with closing(sqlite3.connect(folder / "log.db")) as file, file:
            file.execute("create table evenflow_partitions (topic, generation, number, next)")
            rows = ((*place, end) for place, end in log.ends().items())
            file.executemany("insert into evenflow_partitions values (?, ?, ?, ?)", rows)


def _copy(file: sqlite3.Connection, table: str, stores: Stores, service: str) -> None:
    sql = (
        "select column_name from information_schema.columns "
        f"where table_schema = '{service}' and table_name = '{table}' order by ordinal_position"
    )
    names = [f'"{name}"' for (name,) in stores.rows(service, sql)]
    file.execute(f"create table {table} ({', '.join(names)})")
    rows = stores.rows(service, f"select * from {table}")
    file.executemany(f"insert into {table} values ({', '.join('?' * len(names))})", rows)


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows, through a connection that cannot write."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)) as connection:
        return connection.execute(sql).fetchall()


def _connected(url: str, stack: ExitStack, schema: str) -> psycopg.Connection[tuple[Any, ...]]:
    options = f"-c search_path={schema}"
    return stack.enter_context(closing(psycopg.connect(url, autocommit=True, options=options, connect_timeout=10)))
