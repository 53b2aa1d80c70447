"""Bad input of every kind: a clear error (what, whose fault, what to do), nothing lost, and later events go on."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Delivery, Envelope, Event, Policy, Service, Settings, Topic, Transaction, event, testing
from evenflow.errors import (
    DefinitionError,
    EventInvalid,
    EventTooLarge,
    EvenflowError,
    Refused,
    SettingsError,
    StoreUnavailable,
    TransactionError,
)
from evenflow.ids import new_id, slot_of
from evenflow.parking import Parked
from evenflow.testing import World

ORDERS = Topic("orders", partitions=1)
ONCE = Policy(attempts=1)


class Order(Event, type="order", topic=ORDERS, key="id"):
    id: str
    amount: float = 0.0
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    detail: Any = None


class Done(Event, type="done", topic=Topic("done", partitions=4), key="id"):
    id: str


def run(test: Callable[[], Awaitable[None]], seconds: float = 30.0) -> None:
    asyncio.run(asyncio.wait_for(test(), seconds))


class Kept:
    """Three groups, one of each kind, that note what they handle."""

    def __init__(self, policy: Policy = ONCE) -> None:
        service = Service("shop", policy=policy)
        self.seen: dict[str, list[str]] = {"chunk": [], "lane": [], "list": []}

        @service.on(Order, group="chunk")
        async def chunk(order: Order, tx: Transaction) -> None:
            self.seen["chunk"].append(order.id)

        @service.on(Order, group="lane")
        async def lane(order: Order) -> None:
            self.seen["lane"].append(order.id)

        @service.on_batch(Order, group="list")
        async def several(orders: list[Order], tx: Transaction) -> None:
            self.seen["list"] += [order.id for order in orders]

        self.app = App(service)


async def append(world: World, data: bytes, *, type: str = "order", version: int = 1, key: str = "bad") -> None:
    """What a stranger has written into the log."""
    id_ = new_id()
    engine = await world.running.ready("orders")
    await engine.append("orders", [Envelope(id_, "stranger", type, version, key, slot_of(key), 0.0, data)])
    await world.settle()


# -- bytes that are not what they claim to be --------------------------------------------------------------------------

GOOD = b'{"id": "x", "at": "2026-01-01T00:00:00Z"}'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "truncated"),
        (b"\x00\xff no json", "malformed"),
        (b'{"id": "x"', "truncated"),
        (b"[1, 2]", "Expected `object`, got `array`"),
        (b'{"id": 7}', "Expected `str`, got `int`"),
        (b'{"amount": 1.0}', "missing required field `id`"),
        (b'{"id": "x", "amount": NaN}', "malformed"),
        (b'{"id": "x", "at": "2026-01-01T00:00:00"}', "no zone"),
        (b'{"id": "x", "detail": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"id": "x", "detail": "' + b"x" * 10_000_000, "truncated"),
    ],
    ids=["empty", "binary", "cut", "array", "wrong-type", "missing", "nan", "no-zone", "deep", "10-mb"],
)
def test_bytes_that_are_not_the_event_are_a_dead_letter_and_hold_up_nobody(data: bytes, said: str) -> None:
    async def test() -> None:
        kept = Kept(Policy(attempts=9))
        async with testing.world(kept.app) as world:
            await append(world, data)
            await world.publish(Order(id="good"))
            assert kept.seen == {"chunk": ["good"], "lane": ["good"], "list": ["good"]}
            parked = await world.parked()
            assert [each.group for each in parked] == ["shop.chunk", "shop.lane", "shop.list"]
            for each in parked:
                assert each.dead and each.error_type == "DecodeError" and each.envelope.data == data
                assert "cannot decode 'order'" in (each.error or "") and said in (each.error or "")

    run(test)


def test_a_type_nobody_asked_for_is_passed_over() -> None:
    async def test() -> None:
        kept = Kept()
        async with testing.world(kept.app) as world:
            await append(world, b"\x00", type="never.heard.of")
            await world.publish(Order(id="good"))
            assert kept.seen == {"chunk": ["good"], "lane": ["good"], "list": ["good"]}
            assert await world.parked() == []
            assert [loop.counters.skipped for loop in world.running.loops()] == [1, 1, 1]

    run(test)


def test_a_newer_version_waits_for_newer_code_and_is_no_dead_letter() -> None:
    async def test() -> None:
        kept = Kept()
        async with testing.world(kept.app) as world:
            await append(world, GOOD, version=7)
            await world.publish(Order(id="good"))
            await world.advance(3600.0)
            assert kept.seen == {"chunk": ["good"], "lane": ["good"], "list": ["good"]}
            for each in await world.parked():
                assert not each.dead and each.due is not None and each.due > world.clock.now()
                assert "it has version 7, this code knows 1" in (each.error or "")

    run(test)


def test_a_large_event_of_a_stranger_is_handled() -> None:
    async def test() -> None:
        kept = Kept()
        async with testing.world(kept.app) as world:
            for _ in range(5):
                await append(world, b'{"id": "large", "detail": "' + b"x" * 10_000_000 + b'"}', key="large")
            assert kept.seen["chunk"] == kept.seen["lane"] == kept.seen["list"] == ["large"] * 5

    run(test)


# -- refused at publish ------------------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    value: Any = "end"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("bad", "error", "said", "remedy"),
    [
        (
            lambda: Order(id="b", amount=math.nan),
            EventInvalid,
            "Order cannot be published: amount is not a finite number",
            "send None",
        ),
        (lambda: Order(id="b", amount=math.inf), EventInvalid, "Order cannot be published: amount is", "→"),
        (lambda: Order(id="b", at=datetime(2026, 1, 1)), EventInvalid, "Order cannot be published: at .*zone", "→"),
        (
            lambda: Order(id="b", detail="x" * 10_000_000),
            EventTooLarge,
            r"10,000,\d+ bytes, 1,048,576 are",
            "reference",
        ),
        (lambda: Order(id="b", detail=nested(100_000)), EventTooLarge, "Order cannot be published: .*nested", "→"),
        (lambda: Order(id=""), EventInvalid, "its key id is empty", "key=None"),
        (lambda: Order(id="k" * 2000), EventTooLarge, "its key id has 2000 bytes", "1024"),
        (lambda: Order(id=7), EventInvalid, "Order cannot be published", "→"),  # type: ignore[arg-type]
        (lambda: Order(id="b", detail=object()), EventInvalid, "Order cannot be published: .*type object", "→"),
        (lambda: "text", DefinitionError, "str is not an event class", "derive it from Event"),
    ],
    ids=["nan", "infinite", "no-zone", "10-mb", "deep", "empty-key", "long-key", "wrong-type", "object", "no-event"],
)
def test_what_would_not_survive_the_trip_is_refused_at_publish(
    bad: Callable[[], Any], error: type[EvenflowError], said: str, remedy: str
) -> None:
    async def test() -> None:
        kept = Kept()
        async with testing.world(kept.app) as world:
            with pytest.raises(error, match=said) as raised:
                await world.publish(Order(id="first"), bad())
            assert remedy in str(raised.value)
            with pytest.raises(error, match=said):
                async with world.transaction("shop") as tx:
                    tx.publish(Order(id="first"))
                    tx.publish(bad())
            await world.settle()
            assert world.envelopes() == []  # all or nothing
            await world.publish(Order(id="good"))
            assert kept.seen == {"chunk": ["good"], "lane": ["good"], "list": ["good"]}

    run(test)


def test_what_a_handler_publishes_wrongly_belongs_to_its_event() -> None:
    async def test() -> None:
        service = Service("shop", policy=ONCE)

        @service.on(Order, group="work")
        async def work(order: Order, tx: Transaction) -> Order | None:
            tx.write("insert into t values ($1)", order.id)
            return Order(id="b", amount=math.nan) if order.id == "bad" else None

        async with testing.world(App(service)) as world:
            await make_table(world)
            await world.publish(Order(id="1"), Order(id="bad"), Order(id="2"))
            (parked,) = await world.parked()
            assert parked.key == "bad" and "amount is not a finite number" in (parked.error or "")
            assert await world.rows("shop", "select id from t") == [("1",), ("2",)]

    run(test)


async def make_table(world: World) -> None:
    async with world.transaction("shop") as tx:
        await tx.execute("create table t (id text primary key)")


# -- wrong definitions -------------------------------------------------------------------------------------------------


def wrong(define: Callable[[Service], object], said: str, remedy: str = "") -> None:
    service = Service("shop")
    with pytest.raises(DefinitionError, match=said) as raised:
        define(service)
        App(service)
    assert "test_bad_input.py:" in str(raised.value)
    assert remedy in str(raised.value).partition("→")[2]


class Twin(Event, type="order", topic=ORDERS, key="id"):
    id: str


class NoSuchKey(Event, type="no.such.key", topic=ORDERS, key="order_id"):
    id: str


def test_two_classes_with_one_wire_type() -> None:
    def define(service: Service) -> None:
        @service.on(Order, group="a")
        async def a(order: Order) -> None: ...

        @service.on(Twin, group="b")
        async def b(order: Twin) -> None: ...

    wrong(define, r"Twin is of type 'order', and so is Order \(.*test_bad_input", "another type")


def test_a_key_that_is_no_field() -> None:
    def define(service: Service) -> None:
        @service.on(NoSuchKey, group="a")
        async def a(order: NoSuchKey) -> None: ...

    wrong(define, "NoSuchKey has key='order_id', which is no field", "name one of its fields: id")


def test_a_handler_without_annotations() -> None:
    def define(service: Service) -> None:
        @service.on(Order, group="a")
        async def bare(order, tx): ...  # type: ignore[no-untyped-def]

    wrong(
        define, "handler 'bare' has no type for its parameter 'order'", "write it: every parameter is found by its type"
    )


def test_a_start_that_is_none() -> None:
    def define(service: Service) -> None:
        @service.on(Order, group="a", start="now")  # type: ignore[call-overload, untyped-decorator, unused-ignore]
        async def late(order: Order) -> None: ...

    wrong(define, "handler 'late' has start='now'", 'use "beginning" or "end"')


def test_a_handler_with_a_parameter_that_nothing_provides() -> None:
    service = Service("shop")

    @service.on(Order, group="a")
    async def strange(order: Order, what: bytearray) -> None: ...

    app = App(service)
    (problem,) = app.check()
    assert "test_bad_input.py:" in str(problem) and "nothing provides bytearray (provided: none)" in str(problem)
    assert "@app.provide" in problem.remedy

    async def test() -> None:
        with pytest.raises(DefinitionError, match="nothing provides bytearray"):
            async with testing.world(app):
                raise AssertionError("opened")

    run(test)


def test_a_handler_of_another_event_and_one_without_any() -> None:
    def other(service: Service) -> None:
        @service.on(Order, group="a")  # type: ignore[arg-type]
        async def of_done(done: Done) -> None: ...

    def none(service: Service) -> None:
        @service.on(Order, group="a")  # type: ignore[arg-type]
        async def nothing() -> None: ...

    wrong(other, "handler 'of_done' is given Order but takes Done", "say the same")
    wrong(none, "handler 'nothing' takes no event", "first parameter is the event")


def test_two_handlers_with_one_group() -> None:
    def define(service: Service) -> None:
        @service.on(Order, group="a")
        async def first(order: Order) -> None: ...

        @service.on(Done, group="a")
        async def second(done: Done) -> None: ...

    wrong(
        define, r"the group 'shop.a' has two handlers, the other at .*test_bad_input.py:\d+", "a group has one handler"
    )


def test_a_class_that_is_no_event() -> None:
    @dataclass
    class Plain:
        id: str

    def define(service: Service) -> None:
        @service.on(Plain, group="a")
        async def a(plain: Plain) -> None: ...

    service = Service("shop")
    with pytest.raises(DefinitionError, match="Plain is not an event class"):
        define(service)
        App(service)


# -- what cannot be opened ----------------------------------------------------------------------------------------------


def test_a_lifespan_that_fails_leaves_nothing_open_and_its_own_error() -> None:
    async def test() -> None:
        steps: list[str] = []
        fails = True

        @asynccontextmanager
        async def lifespan(app: App) -> AsyncGenerator[None]:
            steps.append("in")
            if fails:
                raise ConnectionError("no mail server")
            yield
            steps.append("out")

        kept = Kept()
        kept.app.lifespan = lifespan
        with pytest.raises(ConnectionError, match="no mail server"):
            async with testing.world(kept.app):
                raise AssertionError("opened")
        fails = False
        async with testing.world(kept.app) as world:
            await world.publish(Order(id="good"))
        assert steps == ["in", "in", "out"] and kept.seen["chunk"] == ["good"]

    run(test)


def test_a_provider_that_fails_closes_those_before_it() -> None:
    async def test() -> None:
        steps: list[str] = []
        service = Service("shop")

        @service.on(Order, group="a")
        async def work(order: Order, first: bytearray, second: memoryview) -> None: ...

        app = App(service)

        @app.provide
        async def first() -> AsyncGenerator[bytearray]:
            yield bytearray()
            steps.append("closed")

        @app.provide
        def second() -> memoryview:
            raise ConnectionError("refused")

        with pytest.raises(ConnectionError, match="refused"):
            async with testing.world(app):
                raise AssertionError("opened")
        assert steps == ["closed"]

    run(test)


def files(folder: Path, **more: Any) -> Settings:
    return Settings.load({"folder": str(folder), **more}, env={}, cwd=folder)


def test_a_store_that_cannot_be_opened_is_named_with_the_remedy(tmp_path: Path) -> None:
    async def test() -> None:
        kept = Kept()
        (tmp_path / "file").write_text("no folder")
        (tmp_path / "shop.db").write_bytes(b"this is no database, whatever its name says" * 100)
        for settings, said in (
            (files(tmp_path, store=f"sqlite:///{tmp_path}/file/{{service}}.db"), "the store"),
            (files(tmp_path), "the store at .*shop.db"),
        ):
            with pytest.raises(Refused, match=said) as raised:
                async with kept.app.running(handle=None, settings=settings):
                    raise AssertionError("opened")
            assert raised.value.remedy
        with pytest.raises(SettingsError, match="oracle") as wrong_url:
            async with kept.app.running(handle=None, settings=files(tmp_path, store="oracle://{service}")):
                raise AssertionError("opened")
        assert wrong_url.value.remedy
        (tmp_path / "shop.db").unlink()
        async with kept.app.running(handle=None, settings=files(tmp_path)) as running:
            await kept.app.publish(Order(id="good"))
            await idle(running)
        assert kept.seen == {"chunk": ["good"], "lane": ["good"], "list": ["good"]}

    run(test)


async def idle(running: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not await running.idle():
        assert time.monotonic() < deadline, [(loop.name, loop.trouble, loop.counters) for loop in running.loops()]
        await asyncio.sleep(0.005)


@contextmanager
def small_disk(kilobytes: int) -> Iterator[Path]:
    folder = tempfile.mkdtemp()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]
    try:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a tmpfs needs root")
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        os.rmdir(folder)


def test_a_full_disk_is_nobodys_fault_and_nothing_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        service = Service("shop", policy=ONCE)

        @service.on(Order, group="work")
        async def work(order: Order, tx: Transaction) -> None:
            tx.write("insert into t values ($1)", order.id)

        app = App(service)
        with small_disk(8000) as disk:
            settings = files(tmp_path, store=f"sqlite:///{disk}/{{service}}.db")
            async with app.running(handle=None, settings=settings) as running:
                async with app.transaction(service) as tx:
                    await tx.execute("create table t (id text primary key)")
                await app.publish(Order(id="first"))
                await idle(running)
                filler = disk / "filler"
                with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
                    while True:
                        file.write(b"\0" * 4096)
                await app.publish(*[Order(id=str(n).zfill(200)) for n in range(3000)])
                with pytest.raises(StoreUnavailable, match="full"):
                    for n in range(3000):
                        async with app.transaction(service) as tx:
                            tx.write("insert into t values ($1)", f"mine{n}".zfill(400))
                (loop,) = running.loops()
                deadline = time.monotonic() + 20
                while "full" not in loop.trouble:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.005)
                filler.unlink()
                await idle(running)
                store = running.stores["shop"]
                assert await store.read("select count(*) from t where id not like '%mine%'") == [(3001,)]
                assert await store.read("select count(*) from evenflow_parked") == [(0,)]

    run(test, 60.0)
    assert any("group shop.work waits: " in r.getMessage() and "full" in r.getMessage() for r in caplog.records)


# -- handlers that misbehave --------------------------------------------------------------------------------------------


class OwnBase(BaseException):
    pass


@pytest.mark.parametrize("kind", ["chunk", "lane", "list"])
@pytest.mark.parametrize(
    "error", [SystemExit, OwnBase, asyncio.CancelledError, GeneratorExit, MemoryError, RecursionError]
)
def test_whatever_a_handler_raises_is_a_failure_of_its_event(kind: str, error: type[BaseException]) -> None:
    async def test() -> None:
        service = Service("shop", policy=ONCE)
        seen: list[str] = []

        async def work(orders: list[Order]) -> None:
            for order in orders:
                if order.id == "bad":
                    raise error("out")
                seen.append(order.id)

        if kind == "chunk":

            @service.on(Order, group="work")
            async def chunk(order: Order, tx: Transaction) -> None:
                await work([order])

        elif kind == "lane":

            @service.on(Order, group="work")
            async def lane(order: Order) -> None:
                await work([order])

        else:

            @service.on_batch(Order, group="work", size=1)
            async def several(orders: list[Order]) -> None:
                await work(orders)

        async with testing.world(App(service)) as world:
            await world.publish(Order(id="1"), Order(id="bad"), Order(id="2"))
            await world.publish(Order(id="3"))
            assert seen == ["1", "2", "3"]
            (parked,) = await world.parked()
            assert parked.dead and parked.key == "bad" and parked.error_type == error.__name__
            assert "test_bad_input.py" in (parked.error or "")

    run(test)


INTERRUPTED = """
import asyncio, os, sys
from evenflow import App, Event, Policy, Service, Settings, Topic, Transaction
class Order(Event, type="order", topic=Topic("orders", partitions=1), key="id"):
    id: str
service = Service("shop", policy=Policy(attempts=1))
@service.on(Order, group="work")
async def work(order: Order, tx: Transaction) -> None:
    if order.id == "bad" and "first" in sys.argv:
        raise KeyboardInterrupt
    tx.write("insert into t values ($1)", order.id)
app = App(service)
async def main() -> None:
    settings = Settings.load({"folder": sys.argv[1]}, env={}, cwd=sys.argv[1])
    async with app.running(handle=None, settings=settings) as running:
        if "first" in sys.argv:
            async with app.transaction(service) as tx:
                await tx.execute("create table t (id text primary key)")
            await app.publish(*[Order(id=id) for id in ("1", "bad", "2")])
        while not await running.idle():
            await asyncio.sleep(0.005)
        store = running.stores["shop"]
        for table in ("t", "evenflow_parked"):
            print((await store.read(f"select count(*) from {table}"))[0][0])
asyncio.run(main())
"""


def test_ctrl_c_ends_the_process_and_not_the_event(tmp_path: Path) -> None:
    import sys

    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED)
    command = [sys.executable, str(program), str(tmp_path)]
    first = subprocess.run([*command, "first"], capture_output=True, text=True, timeout=60, check=False)
    assert first.returncode != 0 and "KeyboardInterrupt" in first.stderr and first.stdout == ""
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.stdout.split() == ["3", "0"], second.stderr


@pytest.mark.parametrize("transactional", [True, False])
@pytest.mark.parametrize("stubborn", [True, False])
def test_a_handler_that_never_returns_ends_by_its_timeout(transactional: bool, stubborn: bool) -> None:
    async def test() -> None:
        service = Service("shop", policy=Policy(attempts=1, timeout=20.0))
        seen: list[str] = []

        async def work(order: Order) -> None:
            while order.id == "bad":
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    if not stubborn:
                        raise
            seen.append(order.id)

        if transactional:

            @service.on(Order, group="work")
            async def chunk(order: Order, tx: Transaction) -> None:
                await tx.execute("insert into t values ($1)", order.id)
                await work(order)

        else:

            @service.on(Order, group="work", concurrency=1)
            async def lane(order: Order) -> None:
                await work(order)

        app = App(service)
        async with testing.world(app, patience=0.05) as world:
            await make_table(world)
            await app.publish(Order(id="1"), Order(id="bad"), Order(id="2"))
            await world.advance(60.0)
            await world.publish(Order(id="3"))
            assert seen[-2:] == ["2", "3"] and (transactional or seen == ["1", "2", "3"])
            (parked,) = await world.parked()
            assert parked.error_type == "HandlerTimeout" and "did not return within 20 s" in (parked.error or "")
            rows = await world.rows("shop", "select id from t")
            assert rows == ([("1",), ("2",), ("3",)] if transactional else [])

    run(test)


def test_a_handler_that_blocks_the_loop_is_named_and_nothing_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        service = Service("shop", policy=ONCE)

        @service.on(Order, group="sleepy")
        async def sleepy(order: Order, tx: Transaction) -> None:
            if order.id == "1":
                time.sleep(1.5)
            tx.write("insert into t values ($1)", order.id)

        app = App(service)
        async with app.running(handle=None, settings=files(tmp_path, lease=1.0)) as running:
            async with app.transaction(service) as tx:
                await tx.execute("create table t (id text primary key)")
            await app.publish(Order(id="1"), Order(id="2"))
            await idle(running)
            assert await running.stores["shop"].read("select count(*) from t") == [(2,)]
            assert await running.stores["shop"].read("select count(*) from evenflow_parked") == [(0,)]
            deadline = time.monotonic() + 10
            while not any("stood still" in record.getMessage() for record in caplog.records):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)

    run(test)
    (said, *_) = [r.getMessage() for r in caplog.records if "stood still" in r.getMessage()]
    assert "at work: shop.sleepy" in said and "plain def" in said


def test_a_transaction_that_is_kept_is_refused_later() -> None:
    async def test() -> None:
        service = Service("shop", policy=ONCE)
        kept: list[Transaction] = []

        @service.on(Order, group="work")
        async def work(order: Order, tx: Transaction) -> None:
            kept.append(tx)
            tx.write("insert into t values ($1)", order.id)

        async with testing.world(App(service)) as world:
            await make_table(world)
            await world.publish(Order(id="1"))
            (tx,) = kept
            for use in (
                lambda: tx.write("insert into t values ('late')"),
                lambda: tx.publish(Done(id="late")),
                lambda: tx.cancel("late"),
            ):
                with pytest.raises(TransactionError, match="this transaction is over") as raised:
                    use()
                assert "do not keep a Transaction" in raised.value.remedy
            for statement in (tx.execute, tx.fetch_all, tx.fetch_one, tx.fetch_value):
                with pytest.raises(TransactionError, match="is over"):
                    await statement("insert into t values ('late')")
            with pytest.raises(TransactionError, match="is over"):
                await tx.flush()
            with pytest.raises(TransactionError, match="is over"):
                async with tx.savepoint():
                    raise AssertionError("opened")
            await world.publish(Order(id="2"))
            assert await world.rows("shop", "select id from t") == [("1",), ("2",)]

    run(test)


def test_a_transaction_given_to_a_background_task_cannot_write_into_another_event() -> None:
    async def test() -> None:
        service = Service("shop", policy=ONCE)
        tasks: list[asyncio.Task[None]] = []

        async def later(tx: Transaction, id: str) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            await tx.execute("insert into t values ($1)", f"late {id}")

        @service.on(Order, group="work")
        async def work(order: Order, tx: Transaction) -> None:
            await tx.execute("insert into t values ($1)", order.id)
            tasks.append(asyncio.create_task(later(tx, order.id)))

        async with testing.world(App(service)) as world:
            await make_table(world)
            await world.publish(*[Order(id=str(n)) for n in range(5)])
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [TransactionError] * 5
            assert await world.rows("shop", "select id from t") == [(str(n),) for n in range(5)]

    run(test)


def test_publishing_directly_inside_of_a_transaction_is_refused() -> None:
    async def test() -> None:
        service = Service("shop", policy=ONCE)

        @service.on(Order, group="work")
        async def work(order: Order, tx: Transaction) -> None:
            await app.publish(Done(id=order.id))

        app = App(service, events=[Done])
        async with testing.world(app) as world:
            await world.publish(Order(id="1"))
            (parked,) = await world.parked()
            assert "app.publish inside an open transaction" in (parked.error or "") and "use tx.publish" in (
                parked.error or ""
            )
            with pytest.raises(TransactionError, match="inside an open transaction"):
                async with world.transaction("shop"):
                    await app.publish(Done(id="2"))
            assert world.published(Done) == []

    run(test)


def test_a_handler_that_publishes_a_hundred_thousand_events() -> None:
    async def test() -> None:
        service = Service("shop", policy=ONCE)

        @service.on(Order, group="fan")
        async def fan(order: Order, tx: Transaction) -> None:
            for n in range(100_000 if order.id == "many" else 1):
                tx.publish(Done(id=f"{order.id} {n}"))

        count = 0

        @service.on(Done, group="count")
        async def counted(done: Done, tx: Transaction) -> None:
            nonlocal count
            count += 1

        async with testing.world(App(service)) as world:
            await world.publish(Order(id="one"), Order(id="many"), Order(id="two"))
            assert count == 100_002 and await world.parked() == []
            by_slot: dict[int, list[int]] = {}
            for envelope in world.envelopes()[3:]:
                by_slot.setdefault(envelope.slot, []).append(envelope.number)
            assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in by_slot.values())

    run(test, 60.0)


def test_a_batch_handler_that_is_given_a_newer_version_goes_on_with_the_rest() -> None:
    async def test() -> None:
        kept = Kept()
        async with testing.world(kept.app) as world:
            engine = await world.running.ready("orders")
            envelopes = [
                Envelope(new_id(), "stranger", "order", version, f"k{n}", slot_of(f"k{n}"), 0.0, GOOD)
                for n, version in enumerate([1, 9, 1])
            ]
            await engine.append("orders", envelopes)
            await world.settle()
            assert all(seen == ["x", "x"] for seen in kept.seen.values())

    run(test)
