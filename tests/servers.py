"""The real servers for tests: started on first use, shared by all workers, skipped where missing, a failure in CI.

As fixtures: `postgres_url` and `kafka_at` (tests/conftest.py). As calls: `database()` and `topics()`, which are context
managers, and `shared(name)` for the server itself. What may be harmed is private: `services.private`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from services import shared as _shared
from services.kafka import Kafka
from services.pgbouncer import PgBouncer
from services.places import ServiceError
from services.postgres import Postgres
from services.server import Server

KINDS: dict[str, type[Server]] = {"postgres": Postgres, "pgbouncer": PgBouncer, "kafka": Kafka}
used: list[_shared.Use] = []


@dataclass(frozen=True)
class KafkaAt:
    """Where Kafka is, and what the names of a test's topics and groups begin with: they are dropped afterwards."""

    url: str
    bootstrap: str
    prefix: str


def need(*names: str) -> None:
    """Skip the test where one of these is not installed; with CI=true that is a failure."""
    for name in _shared.chosen(names):
        if why := KINDS[name].missing():
            refuse(why)


def refuse(why: str) -> None:
    """Skip a test that cannot run here, saying why; with CI=true that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def postgres() -> Postgres:
    _start("postgres")
    return _shared.postgres()


def pgbouncer() -> PgBouncer:
    _start("pgbouncer")
    return _shared.pgbouncer()


def kafka() -> Kafka:
    _start("kafka")
    return _shared.kafka()


@contextmanager
def database(prefix: str = "t") -> Iterator[str]:
    """The URL of a fresh database, which is dropped afterwards, whoever is still connected."""
    import psycopg

    server = postgres()
    name = f"{prefix}_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"create database {name}".encode())
    try:
        yield server.url(name)
    finally:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"drop database if exists {name} with (force)".encode())


@contextmanager
def topics() -> Iterator[KafkaAt]:
    """Kafka with a prefix of our own; topics and groups whose names begin with it are dropped afterwards."""
    server = kafka()
    at = KafkaAt(server.url(), server.address, f"t{uuid.uuid4().hex[:10]}.")
    try:
        yield at
    finally:
        drop(server.admin(), at.prefix)


def drop(admin: Any, prefix: str) -> None:
    """Delete the topics and groups of Kafka whose names begin so."""
    if ours := [name for name in admin.list_topics(timeout=10.0).topics if name.startswith(prefix)]:
        for done in admin.delete_topics(ours).values():
            done.exception(10.0)
    listed = admin.list_consumer_groups(request_timeout=10.0).result(10.0).valid
    if groups := [each.group_id for each in listed if each.group_id.startswith(prefix)]:
        for done in admin.delete_consumer_groups(groups).values():
            done.exception(10.0)


def leave() -> None:
    """Called when a process of tests ends: the last one stops what was started for the tests alone."""
    while used:
        used.pop().leave()


def _start(name: str) -> None:
    if used and _shared.servers()[name].running:
        return
    need(name)
    if not used:
        used.append(_shared.Use())
    try:
        _shared.start([name])
    except ServiceError as error:
        pytest.fail(f"{name} is installed and cannot be started: {error}")
