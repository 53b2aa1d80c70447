"""Records of others, from the log to the handler: skipped, handled once, set aside with a reason, waited for."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import fastavro
import pytest
from small_registry import SmallRegistry, small_registry

from evenflow import App, Event, Records, Service, Topic, Transaction, testing
from evenflow.codecs.avro import AvroCodec
from evenflow.codecs.json_schema import JsonSchemaCodec
from evenflow.describe import describe
from evenflow.errors import DefinitionError, SettingsError
from evenflow.envelopes import Given
from evenflow.position import Marks
from evenflow.settings import Settings
from evenflow.strangers import Record, envelope_of

SCHEMA = {"type": "record", "name": "Settled", "fields": [{"name": "payment_id", "type": "string"}]}
TEXT = json.dumps(SCHEMA)
HEADER = Topic("payments", records=Records(header="kind", names={"Settled": "payment.settled"}))
AVRO = Topic("payments", codec="avro", records=Records(always="payment.settled"))


@pytest.fixture
def registry() -> Iterator[SmallRegistry]:
    with small_registry() as made:
        yield made


def avro(number: int, payment: str) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(SCHEMA), {"payment_id": payment})
    return b"\0" + number.to_bytes(4, "big") + stream.getvalue()


def made(topic: Topic, *codecs: Any, kind: str = "chunk") -> tuple[App, list[str], type]:
    """An app whose handler, of each kind, writes down what it was given."""

    class Settled(Event, type="payment.settled", topic=topic, key="payment_id"):
        payment_id: str

    books, seen = Service("books"), list[str]()

    async def chunk(event: Settled, tx: Transaction) -> None:
        seen.append(event.payment_id)

    async def lanes(event: Settled) -> None:
        seen.append(event.payment_id)

    async def batch(events: list[Settled], tx: Transaction) -> None:
        seen.extend(event.payment_id for event in events)

    for function in (chunk, lanes, batch):
        function.__annotations__.update({"event": Settled, "events": list[Settled], "tx": Transaction, "return": None})
        function.__annotations__.pop("events" if function is not batch else "event")
        if function is lanes:
            function.__annotations__.pop("tx")
    if kind == "batch":
        books.on_batch(Settled, group="book", size=10, start="beginning")(batch)
    else:
        books.on(Settled, group="book", start="beginning")(chunk if kind == "chunk" else lanes)
    return App(books, codecs=codecs), seen, Settled


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


@pytest.mark.parametrize("kind", ["chunk", "lanes", "batch"])
def test_what_is_asked_for_is_handled_and_all_else_is_skipped_or_set_aside(kind: str) -> None:
    app, seen, _ = made(HEADER, kind=kind)
    ce = {"ce_specversion": "1.0", "ce_source": "acme", "ce_type": "Settled", "content-type": "application/json"}

    async def main() -> None:
        async with testing.world(app) as world:
            good = {"kind": "Settled"}
            await world.receive(HEADER, b'{"payment_id": "1"}', key=b"1", headers=good)
            await world.receive(HEADER, b"not ours at all", headers={"kind": "Unknown"})
            await world.receive(HEADER, b"not ours at all")
            await world.receive(HEADER, None, key=b"1", headers=good)  # a tombstone
            await world.receive(HEADER, b'{"payment_id": "2"}', headers={**ce, "ce_id": "a"})
            await world.receive(HEADER, b'{"payment_id": "2"}', headers={**ce, "ce_id": "a"})  # their repeat
            await world.receive(HEADER, b'{"payment_id": "3"}', headers=good)
            await world.receive(HEADER, b'{"payment_id": "3"}', headers=good)  # another record
            assert seen == ["1", "2", "3", "3"]
            (loop,) = world.running.loops()
            assert (loop.counters.skipped, loop.counters.duplicates) == (3, 1)
            assert await world.rows("books", "select count(*) from evenflow_inbox") == [(1,)]
            assert await world.parked() == []
            await world.receive(HEADER, b'{"payment_id"', headers=good)
            await world.receive(HEADER, b"{", headers={"content-type": "application/cloudevents+json"})
            await world.receive(HEADER, b'{"payment_id": 7}', headers={**ce, "ce_id": "b"})
            await world.receive(HEADER, b'{"payment_id": "9"}', headers={**ce, "ce_id": "c", "ce_time": "now"})
            dead = sorted(await world.parked(), key=lambda each: each.offset)
            assert [each.dead for each in dead] == [True] * 4
            reasons = ("truncated", "no JSON object", "Expected `str`, got `int`", "no RFC 3339 time")
            for each, reason in zip(dead, reasons, strict=True):
                assert reason in (each.error or "")
            assert seen == ["1", "2", "3", "3"]

    run(main)


@pytest.mark.parametrize("kind", ["chunk", "lanes", "batch"])
def test_avro_is_handled_without_a_request_for_each(registry: SmallRegistry, kind: str) -> None:
    app, seen, settled = made(AVRO, AvroCodec(), kind=kind)
    number = registry.add("payments-value", TEXT)

    async def main() -> None:
        async with testing.world(app, settings={"registry": registry.url}) as world:
            for each in "123":
                await world.receive(AVRO, avro(number, each), key=each.encode())
            await world.publish(settled(payment_id="4"))  # and we publish there ourselves
            assert seen == ["1", "2", "3", "4"]
            (envelope,) = world.envelopes()
            assert (envelope.data, envelope.number) == (avro(number, "4"), 1)
            assert await world.parked() == []

    run(main)
    assert sorted(registry.asked) == [f"GET /schemas/ids/{number}", "GET /subjects/payments-value/versions/latest"]


@pytest.mark.parametrize("kind", ["chunk", "lanes"])
def test_while_the_registry_is_down_the_group_waits_and_loses_nothing(registry: SmallRegistry, kind: str) -> None:
    app, seen, _ = made(AVRO, AvroCodec(), kind=kind)
    number = registry.add("payments-value", TEXT)

    async def main() -> None:
        async with testing.world(app, settings={"registry": registry.url}, patience=0.05) as world:
            registry.down = True
            for each in "12":
                with pytest.raises(testing.NotSettled, match="answers 503 to GET /schemas/ids/1: leader not known"):
                    await world.receive(AVRO, avro(number, each), key=b"k")
            await world.advance(120.0)
            assert (seen, await world.parked()) == ([], [])
            registry.down = False
            deadline = asyncio.get_running_loop().time() + 10
            while seen != ["1", "2"] and asyncio.get_running_loop().time() < deadline:
                await world.advance(1.0)
            assert seen == ["1", "2"]
            assert [loop.trouble for loop in world.running.loops()] == [""]
            assert await world.parked() == []

    run(main)


def test_a_group_that_waits_for_a_registry_can_be_stopped(registry: SmallRegistry) -> None:
    app, seen, _ = made(AVRO, AvroCodec())
    registry.down = True

    async def main() -> None:
        async with testing.world(app, settings={"registry": registry.url}, patience=0.05) as world:
            with pytest.raises(testing.NotSettled):
                await world.receive(AVRO, avro(1, "1"))
        assert world.running.clean

    run(main)
    assert seen == []


@pytest.mark.parametrize("kind", ["chunk", "lanes"])
def test_a_schema_that_is_not_there_makes_a_dead_letter_that_can_be_redriven(
    registry: SmallRegistry, kind: str
) -> None:
    app, seen, _ = made(AVRO, AvroCodec(), kind=kind)

    async def main() -> None:
        async with testing.world(app, settings={"registry": registry.url}) as world:
            await world.receive(AVRO, avro(1, "1"), key=b"1")
            (dead,) = await world.parked()
            assert dead.dead and f"the schema registry at {registry.url} has no schema 1" in (dead.error or "")
            registry.add("payments-value", TEXT)
            registry.add("payments-value", TEXT)
        async with testing.world(app, settings={"registry": registry.url}) as world:  # nothing is remembered
            await world.receive(AVRO, avro(1, "2"), key=b"1")
            assert seen == ["2"]

    run(main)


def test_a_parked_event_waits_for_the_registry_uncounted(registry: SmallRegistry) -> None:
    app, seen, _ = made(AVRO, AvroCodec())
    registry.add("payments-value", TEXT)

    async def main() -> None:
        async with testing.world(app, settings={"registry": registry.url}) as world:
            await world.receive(AVRO, avro(1, "1") + b"?", key=b"1")
            codec = app.codecs[0]
            assert isinstance(codec, AvroCodec)
            codec._parsed.clear()
            schemas: Any = codec.schemas
            schemas._known.clear()
            registry.down = True
            await world.redrive()
            await world.advance(60.0)
            (waits,) = await world.parked()
            assert not waits.dead and "not known yet" in (waits.error or "")
            assert waits.attempts == 1
            registry.down = False
            deadline = asyncio.get_running_loop().time() + 10
            while not (await world.parked())[0].dead and asyncio.get_running_loop().time() < deadline:
                await world.advance(5.0)
            (dead,) = await world.parked()
            assert dead.dead and "longer than what schema 1 describes" in (dead.error or "")

    run(main)
    assert seen == []


def test_in_a_test_no_registry_is_needed() -> None:
    topic = Topic("payments", codec="json-schema", records=Records(field="kind"))
    app, seen, settled = made(topic, JsonSchemaCodec(register=True))

    async def main() -> None:
        async with testing.world(app) as world:
            await world.publish(settled(payment_id="1"))
            await world.receive(topic, b'\0\0\0\0\1{"kind": "payment.settled", "payment_id": "2"}')
            assert seen == ["1", "2"]

    run(main)


def test_without_a_registry_the_start_says_where_it_is_to_be_named() -> None:
    app, *_ = made(AVRO, AvroCodec())

    async def main() -> None:
        settings = Settings.load({"engine": "memory:", "registry": ""} | {}, env={}, cwd="/")
        async with app.open(settings=settings):
            pass

    with pytest.raises(SettingsError, match="registry is ''|no schema registry is set"):
        asyncio.run(main())


def test_the_description_says_how_records_become_events() -> None:
    app, *_ = made(HEADER)
    assert describe(app)["topics"]["payments"]["records"] == {"header": "kind", "names": {"Settled": "payment.settled"}}
    assert "records" not in describe(made(Topic("payments"))[0])["topics"]["payments"]


def test_a_class_that_no_record_ever_becomes_is_refused() -> None:
    with pytest.raises(DefinitionError, match="every record of 'payments' is 'payment.setled'"):
        made(Topic("payments", records=Records(always="payment.setled")))


def test_remembered_ids_are_looked_up_one_by_one_however_many_there_are() -> None:
    app, *_ = made(HEADER)

    async def main() -> None:
        async with testing.world(app) as world:
            sql = world.running.stores["books"].sql["inbox_known"]
            plan = await world.running.stores["books"].read(f"explain query plan {sql}", ("g", "", "[]"))
            assert any("source=? AND id=?" in row[-1] for row in plan), plan

    run(main)


def test_a_run_of_records_that_are_known_by_their_place_takes_the_swift_way() -> None:
    places = [Record("payments", "log1", 0, n, 1.0, None, b"{}", [("kind", b"Settled")]) for n in range(3)]
    envelopes = Given([envelope_of(place, HEADER) for place in places])
    assert Marks().fork().take_run(envelopes)
    cloud = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "acme", "ce_type": "Settled"}
    known = places[0]._replace(headers=[(name, text.encode()) for name, text in cloud.items()])
    assert not Marks().fork().take_run(Given([*envelopes, envelope_of(known, HEADER)]))
