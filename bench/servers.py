"""The servers of the services room, for the cases that need one: a topic, a log and a schema of their own each time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.catalogue import LeftOut
from bench.processes import Plan
from bench.workload import Shape

Places = dict[str, str]
WARM_EVENTS = 100_000
WARMED: set[str] = set()
"""Brokers that have worked in this run."""


class Servers:
    """Names that nobody else has. What begins with `token` is dropped at the end."""

    def __init__(self, names: tuple[str, ...]) -> None:
        from services import shared

        self.token = f"bench{os.urandom(4).hex()}"
        self._number = itertools.count(1)
        self.kafka = shared.kafka() if "kafka" in names else None
        self.bootstrap = self.kafka.address if self.kafka else ""
        self.database = f"{shared.postgres().url(self.token)}?sslmode=disable" if "postgres" in names else ""
        """On loopback, as most measure it: what is encrypted there would cost both sides the same."""
        self._admin = shared.postgres().url() if "postgres" in names else ""
        if self._admin:
            self._execute(f"create database {self.token}")

    def fresh(self) -> str:
        """A name for a log or a schema: small letters and digits."""
        return f"{self.token}n{next(self._number)}"

    def ours(self, engine: str, log: str, store: str = "") -> Places:
        """Settings for an app whose log has this name on that engine. Each store has groups of its own there."""
        found = {"engine": f"{self.database}&schema={log}"}
        if engine == "kafka" and self.kafka:
            found = {"engine": self.kafka.url(), "topic_prefix": f"{log}."}
        if not store:
            return found
        return {**found, "group_prefix": f"{store}.", "store": f"{self.database}&schema={store}_{{service}}"}

    def twins(self, engine: str, log: str, store: str = "") -> Places:
        """The same for a twin; `engine` is what its log is on."""
        bootstrap = self.bootstrap if engine == "kafka" else ""
        return {"bootstrap": bootstrap, "database": self.database, "log": log, "schema": store}

    def drop(self) -> None:
        if self._admin:
            self._execute(f"drop database if exists {self.token} with (force)")
        if self.kafka:
            admin = self.kafka.admin()
            ours = [name for name in admin.list_topics(timeout=10.0).topics if name.startswith(self.token)]
            for done in admin.delete_topics(ours).values() if ours else ():
                done.exception(10.0)

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute(statement.encode())


def server_versions() -> dict[str, str]:
    """Of those that are installed."""
    from services.kafka_jars import jars
    from services.postgres import Postgres, program

    found = {} if Postgres.missing() else {"PostgreSQL": Path(program("initdb")).parent.parent.name}
    return {**found, "Kafka": jars().name.removeprefix("kafka-")} if jars().exists() else found


@contextmanager
def held() -> Iterator[None]:
    """Servers that a case has started run on until the last case has ended."""
    from services import shared

    with shared.Use():
        yield


@contextmanager
def servers(plan: Plan, *names: str) -> Iterator[Servers]:
    """These servers, running. Raises `LeftOut` where one is not installed, or what their twins are written with."""
    if missing := [package for package in ("confluent_kafka", "psycopg", "asyncpg") if find_spec(package) is None]:
        raise LeftOut(f"{', '.join(missing)}: not installed (`make bench` installs what it needs)")
    from services.kafka import Kafka
    from services.postgres import Postgres

    from services import shared

    kinds: dict[str, Any] = {"kafka": Kafka, "postgres": Postgres}
    for name in names:
        if why := kinds[name].missing():
            raise LeftOut(why)
    with shared.Use():
        shared.start(list(dict.fromkeys(names)))
        found = Servers(names)
        try:
            if found.kafka and not plan.quick:
                _warm(plan, found)
            yield found
        finally:
            found.drop()


def _warm(plan: Plan, found: Servers) -> None:
    """A broker that has just started runs code that is not compiled yet: who is measured first would look slow."""
    if found.bootstrap not in WARMED:
        given: dict[str, Any] = {"folder": "", "events": WARM_EVENTS, "shape": vars(Shape())}
        places = found.twins("kafka", found.fresh())
        plan.run("twins.kafka:backlog", **given, places=places)
        plan.run("twins.kafka:handles", **given, places=places)
        WARMED.add(found.bootstrap)
