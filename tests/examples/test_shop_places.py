"""The same shop on servers: the same last line, whatever engine and store, as one process or as one for each service."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from replay.folder import ASKED, Asked

from tests import servers

from .conftest import Shop
from .test_shop_reconcile import last_line

PURCHASES = 250


@pytest.fixture
def kept(shop: Shop) -> Iterator[Shop]:
    yield shop
    asked = shop.folder / ASKED
    if asked.exists():
        Asked.read(asked.read_text()).places.remove()


def url(name: str) -> str:
    return {"kafka": servers.kafka, "postgres": servers.postgres}[name]().url()


@pytest.mark.parametrize(
    ("engine", "store", "options"),
    [("kafka", "postgres", ["--split"]), ("postgres", "postgres", []), ("postgres", "", ["--split", "--faults"]), ("kafka", "", [])],
    ids=["kafka-postgres-split", "postgres-postgres", "postgres-sqlite-split-faults", "kafka-sqlite"],
)  # fmt: skip
def test_the_shop_ends_with_the_same_line(kept: Shop, engine: str, store: str, options: list[str]) -> None:
    places = ["--engine", url(engine), *(["--store", url(store)] if store else [])]
    assert kept.replay(PURCHASES, *places, *options)[-1] == last_line(PURCHASES)


def test_a_new_replay_removes_what_the_last_one_made_on_servers(kept: Shop) -> None:
    import psycopg

    def databases() -> set[str]:
        with psycopg.connect(server) as connection:
            return {name for (name,) in connection.execute("select datname from pg_database").fetchall()}

    server = url("postgres")
    kept.replay(30, "--store", server)
    first = json.loads((kept.folder / ASKED).read_text())["places"]["name"]
    assert first in databases()
    kept.replay(30)
    assert first not in databases()
