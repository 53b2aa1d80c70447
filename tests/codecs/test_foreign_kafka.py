"""Records that other teams' clients write to Apache Kafka, read by handlers; and what these clients see of ours."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import NewTopic
from small_registry import small_registry

from evenflow import App, Event, Records, Service, Topic, Transaction
from evenflow.clock import SystemClock
from evenflow.codecs.avro import AvroCodec
from evenflow.settings import Settings
from tests import servers

SCHEMA = {"type": "record", "name": "Settled", "fields": [{"name": "payment_id", "type": "string"}]}
PAYMENTS = Topic("payments", codec="avro", records=Records(header="kind", names={"Settled": "payment.settled"}))
TABLE = {
    "sqlite": "create table booked (n integer primary key autoincrement, payment text)",
    "postgres": "create table booked (n bigserial, payment text)",
}
GOOD = {"kind": "Settled"}


class Settled(Event, type="payment.settled", topic=PAYMENTS, key="payment_id"):
    payment_id: str


def avro(number: int, payment: str) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(SCHEMA), {"payment_id": payment})
    return b"\0" + number.to_bytes(4, "big") + stream.getvalue()


def an_app() -> App:
    books = Service("books")

    async def book(event: Settled, tx: Transaction) -> None:
        tx.write("insert into booked (payment) values ($1)", event.payment_id)

    books.on(Settled, group="book", start="beginning")(book)
    return App(books, codecs=[AvroCodec()])


@pytest.mark.parametrize(("partitions", "store"), [(1, "sqlite"), (6, "postgres")])
def test_records_of_others_on_kafka_are_handled_once_and_in_order(
    kafka_at: servers.KafkaAt, tmp_path: Path, partitions: int, store: str, request: pytest.FixtureRequest
) -> None:
    path = f"sqlite:///{tmp_path}/{{service}}.db"
    where = path if store == "sqlite" else request.getfixturevalue("postgres_url")
    name, admin = f"{kafka_at.prefix}payments", servers.kafka().admin()
    admin.create_topics([NewTopic(name, partitions, 1)])[name].result(20.0)
    with small_registry() as registry:
        number = registry.add(f"{name}-value", json.dumps(SCHEMA))
        write(kafka_at, name, number)
        settings = Settings.load(
            {
                "engine": kafka_at.url,
                "stores": {"books": where},
                "group_prefix": kafka_at.prefix,
                "registry": registry.url,
                "topics": {"payments": {"name": name}},
            },
            env={},
            cwd=tmp_path,
        )
        asyncio.run(handled(settings, TABLE[store]))
        assert registry.asked.count(f"GET /schemas/ids/{number}") == 1
        ours = [each for each in everything(kafka_at, name) if (each.value() or b"").endswith(b"ours")]
    (record,) = ours
    headers = dict(record.headers())
    assert record.value() == avro(number, "ours")
    assert (record.key(), headers["kind"], headers["ce_type"]) == (b"ours", b"Settled", b"payment.settled")


def write(at: servers.KafkaAt, name: str, number: int) -> None:
    """What their clients write."""
    theirs = Producer({"bootstrap.servers": at.bootstrap, "partitioner": "murmur2_random"})
    for place in range(40):
        theirs.produce(name, avro(number, f"{place % 7}:{place}"), key=f"{place % 7}".encode(), headers=GOOD)
    theirs.produce(name, b"nobody asks", headers={"kind": "Requested"})
    theirs.produce(name, b"nobody knows")
    theirs.produce(name, None, key=b"1", headers=GOOD)
    theirs.produce(name, b"no frame", key=b"broken", headers=GOOD)
    theirs.produce(name, avro(number, "behind"), key=b"broken", headers=GOOD)
    for _ in range(2):
        attributes = {"ce_specversion": "1.0", "ce_id": "7", "ce_source": "acme", "ce_type": "Settled"}
        theirs.produce(name, avro(number, "cloud"), key=b"cloud", headers=attributes)
    assert theirs.flush(20.0) == 0


async def handled(settings: Settings, table: str) -> None:
    app = an_app()
    expected = {"cloud", "ours", *(f"{place % 7}:{place}" for place in range(40))}
    for again in (False, True):
        async with app.running(handle=None, settings=settings) as running:
            store = running.stores["books"]
            if not again:
                await store.transact(lambda session: session.execute(table, ()))
                await app.publish(Settled(payment_id="ours"))
            deadline = running.clock.monotonic() + 30.0
            rows: list[Any] = []
            while {row[0] for row in rows} != expected and running.clock.monotonic() < deadline:
                await running.clock.sleep(0.05)
                rows = await store.read("select payment from booked order by n", ())
            assert sorted(row[0] for row in rows) == sorted(expected)  # each once
            for key in range(7):
                ours = [int(row[0].partition(":")[2]) for row in rows if row[0].startswith(f"{key}:")]
                assert ours == sorted(ours)
            if again:
                continue
            parked = await store.read('select envelope, head, error from evenflow_parked order by "offset"', ())
            assert [(row[1], "number of a schema" in (row[2] or "")) for row in parked] == [(1, True), (0, False)]
            assert sum(loop.counters.duplicates for loop in running.loops()) == 1


def everything(at: servers.KafkaAt, name: str) -> list[Any]:
    """All records, as their clients read them."""
    theirs = Consumer(
        {
            "bootstrap.servers": at.bootstrap,
            "group.id": f"{at.prefix}theirs",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": False,
        }
    )
    theirs.subscribe([name])
    found: list[Any] = []
    clock = SystemClock()
    deadline = clock.monotonic() + 30.0
    while len(found) < 48 and clock.monotonic() < deadline:
        found += [each for each in theirs.consume(100, 0.2) if each.error() is None]
    theirs.close()
    return found
