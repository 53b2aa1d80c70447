"""Which engine and which store a run has: servers of its own, what stands between them and the program, its settings."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

from services.kafka import Kafka
from services.places import ServiceError
from services.postgres import Postgres
from services.private import private_kafka, private_postgres
from services.proxy import Proxy
from services.server import Server

from .harm import Disk
from .looking import SERVICES, KafkaLog, Log, Look, PostgresLog, PostgresStores, SqliteLog, SqliteStores, Stores, copy

ENGINES = ("sqlite", "postgres", "kafka")
STORES = ("sqlite", "postgres")


class Pair(NamedTuple):
    engine: str = "sqlite"
    store: str = "sqlite"

    @property
    def files(self) -> tuple[str, ...]:
        """What is a SQLite file here."""
        return (*(SERVICES if self.store == "sqlite" else ()), *(("log",) if self.engine == "sqlite" else ()))


class Machine(NamedTuple):
    """A server, and the disk below it."""

    server: Server
    disk: Disk


class System:
    """`machines` are the servers by their kind, `links` what stands before them: a proxy for the engine, one for stores.

    In every second run each service has a database of its own, else a schema in the same one, and PostgreSQL's log too.
    """

    def __init__(self, folder: Path, pair: Pair, seed: int, *, disk: bool) -> None:
        self.pair = pair
        self.files = folder / "files"
        self.disk = Disk(self.files, small=disk and bool(pair.files))
        self.machines: dict[str, Machine] = {}
        self.links: dict[str, Proxy] = {}
        self.environment = {"EVENFLOW_FOLDER": str(self.files)}
        self._split = bool(seed % 2)
        self._stack = ExitStack()
        self._stack.callback(self.disk.close)
        try:
            if "postgres" in pair:
                self._postgres(disk=disk)
            if pair.engine == "kafka":
                self._kafka(disk=disk)
        except BaseException:
            self._stack.close()
            raise

    def _postgres(self, *, disk: bool) -> None:
        machine = self._machine("postgres", lambda place: private_postgres(place, extra="max_connections = 500"), disk)
        server = machine.server
        assert isinstance(server, Postgres)
        with psycopg.connect(server.url(), autocommit=True) as connection:
            for name in ("crash", "log", *SERVICES):
                connection.execute(f"create database {name}".encode())
        if self.pair.store == "postgres":
            port = self._link("store", server.port)
            for service in SERVICES:
                self.environment[f"EVENFLOW_STORES__{service.upper()}"] = self._url(server, service, port)
        if self.pair.engine == "postgres":
            self.environment["EVENFLOW_ENGINE"] = self._url(server, "log", self._link("engine", server.port))

    def _kafka(self, *, disk: bool) -> None:
        server = self._machine("kafka", private_kafka, disk).server
        assert isinstance(server, Kafka)
        proxy = self.links["engine"] = self._stack.enter_context(server.proxied())
        self.environment["EVENFLOW_ENGINE"] = f"kafka://{proxy.address}?allow_unsafe=single"

    def _machine(self, name: str, made: Callable[[Path], object], disk: bool) -> Machine:  # noqa: FBT001
        small = self._stack.enter_context(_disk(small=disk))
        server = self._stack.enter_context(made(small.path))  # type: ignore[arg-type]
        machine = self.machines[name] = Machine(server, small)
        return machine

    def _link(self, name: str, port: int) -> int:
        self.links[name] = self._stack.enter_context(Proxy(port))
        return self.links[name].port

    def _url(self, server: Postgres, name: str, port: int | None = None) -> str:
        return server.url(name if self._split else "crash", port=port) + "?sslmode=disable"

    @contextmanager
    def look(self) -> Iterator[Look]:
        """What stands there, past the proxies. All servers have to be well."""
        with ExitStack() as stack:
            yield Look(self._stores(stack), self._log(stack))

    def copy(self) -> None:
        """Whatever is no file becomes one."""
        with ExitStack() as stack:
            copy(self._stores(stack), self._log(stack), self.files)

    def _stores(self, stack: ExitStack) -> Stores:
        if self.pair.store == "sqlite":
            return SqliteStores(self.files)
        return PostgresStores({service: self.database(service) for service in SERVICES}, stack)

    def _log(self, stack: ExitStack) -> Log:
        if self.pair.engine == "sqlite":
            return SqliteLog(self.files)
        if self.pair.engine == "postgres":
            return PostgresLog(self.database("log"), stack)
        return KafkaLog(self.machines["kafka"].server.address, stack)

    def database(self, name: str) -> str:
        """The URL of the database in which the store of this service is, or the log, past the proxies."""
        server = self.machines["postgres"].server
        assert isinstance(server, Postgres)
        return self._url(server, name)

    def close(self) -> None:
        self._stack.close()


@contextmanager
def _disk(*, small: bool) -> Iterator[Disk]:
    """A folder that the servers' users may enter, and which may become full."""
    with tempfile.TemporaryDirectory(prefix="evenflow-crash-disk-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)
        disk = Disk(Path(folder, "disk"), small=small)
        try:
            yield disk
        finally:
            disk.close()


def missing(pair: Pair) -> str | None:
    """What has to be installed before a run on this pair, or None."""
    kinds = {"postgres": Postgres, "kafka": Kafka}
    return next((why for name in pair if name in kinds and (why := kinds[name].missing())), None)


__all__ = ["ENGINES", "STORES", "Machine", "Pair", "ServiceError", "System", "missing"]
