"""Fixtures of real servers for every test, and leaving them when the tests end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from services import shared
from tests import on_postgres, servers

# pytest-xdist tells its workers the size of a terminal; what tests run would take theirs for one
for _each in ("COLUMNS", "LINES"):
    os.environ.pop(_each, None)


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """The URL of a fresh database of PostgreSQL."""
    with servers.database() as url:
        yield url


@pytest.fixture
def kafka_at() -> Iterator[servers.KafkaAt]:
    """Apache Kafka, and a prefix of our own for topics and groups."""
    with servers.topics() as at:
        yield at


def pytest_sessionstart(session: pytest.Session) -> None:
    """Who starts workers uses the servers as long as any of them might."""
    servers.used.append(shared.Use())
    if on_postgres.ON:
        on_postgres.begin()


def pytest_sessionfinish(session: pytest.Session) -> None:
    on_postgres.end()
    servers.leave()
