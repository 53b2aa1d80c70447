"""The twins keep what they are said to keep: a twin that promises less than the page says would be a cheat."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import apsw
import pytest

from bench.twins import commits, consuming, files, relay, waiting
from bench.workload import Shape, Shop


def in_time(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it; what never ends fails."""
    return asyncio.run(asyncio.wait_for(work, 20.0))


def rows(connection: apsw.Connection, sql: str) -> list[Any]:
    return connection.execute(sql).fetchall()


def test_every_commit_is_synced(tmp_path: Path) -> None:
    for connection in (files.open_log(str(tmp_path)), files.open_store(str(tmp_path))):
        assert rows(connection, "pragma journal_mode") == [("wal",)]
        assert rows(connection, "pragma synchronous") == [(2,)]


def test_one_failing_unit_costs_no_other(tmp_path: Path) -> None:
    store = files.open_store(str(tmp_path))

    async def main() -> list[Any]:
        group = commits.units(store)
        good = [[(files.INSERT_ROW, (name, "c", 1.0))] for name in "ab"]
        bad = [(files.INSERT_ROW, ("d", "c", 1.0)), (files.INSERT_ROW, ("a", "c", 1.0))]
        units = (group.run(good[0]), group.run(bad), group.run(good[1]))
        return await asyncio.gather(*units, return_exceptions=True)

    first, failed, last = in_time(main())
    assert (first, last) == (None, None)
    assert isinstance(failed, apsw.ConstraintError)
    assert rows(store, "select order_id from charges order by 1") == [("a",), ("b",)]


def test_what_is_asked_for_at_once_shares_a_commit(tmp_path: Path) -> None:
    log = files.open_log(str(tmp_path))
    ended = []
    log.set_commit_hook(lambda: bool(ended.append(1)))

    async def main() -> None:
        group = commits.appends(log, files.APPEND)
        await asyncio.gather(*(group.run((files.ORDER, b"x")) for _ in range(10)))

    in_time(main())
    assert (len(ended), files.logged(log)) == (1, 10)


def test_a_relay_that_died_before_it_cleared_the_outbox_appends_nothing_twice(tmp_path: Path) -> None:
    store, log = files.open_store(str(tmp_path)), files.open_log(str(tmp_path))
    for number in range(3):
        store.execute(files.ENQUEUE, (files.ORDER, b"%d" % number))
    store.execute("create trigger died before delete on outbox begin select raise(abort, 'died'); end")
    with pytest.raises(apsw.ConstraintError, match="died"):
        relay.Relay(store, log).move()
    store.execute("drop trigger died")
    again = relay.Relay(store, log)
    assert again.move() is False
    store.execute(files.ENQUEUE, (files.ORDER, b"3"))
    assert again.move() is True
    assert rows(log, "select payload from log order by id") == [(b"0",), (b"1",), (b"2",), (b"3",)]


def test_effects_and_position_are_one_transaction(tmp_path: Path) -> None:
    consuming.backlog(str(tmp_path), 4, vars(Shape()))
    store, log = files.open_store(str(tmp_path)), files.open_log(str(tmp_path))
    read = log.execute(files.READ, (0, 4)).fetchall()

    def fails() -> None:
        store.execute(files.INSERT_ROW, ("a", "c", 1.0))
        raise LookupError

    with pytest.raises(LookupError):
        consuming.chunk(store, store.execute, read, 0, fails)
    with pytest.raises(RuntimeError, match="somebody else"):
        consuming.chunk(store, store.execute, read, 1, lambda: store.execute(files.INSERT_ROW, ("a", "c", 1.0)))
    assert files.kept(store) == (0, 0)
    assert rows(store, "select next from position") == [(0,)]
    assert consuming.chunk(store, store.execute, read, 0, lambda: None) == 4


def test_waiting_keeps_the_order_of_a_key_and_works_on_others_meanwhile(tmp_path: Path) -> None:
    events, shape = 60, Shape(keys=6)
    consuming.backlog(str(tmp_path), events, vars(shape))
    store, log = files.open_store(str(tmp_path)), files.open_log(str(tmp_path))
    begun: list[Any] = []
    at_once: list[int] = []
    running: set[str] = set()

    class Seen(waiting.Waiting):
        async def handle(self, order: Any) -> None:
            assert order.customer not in running, "two of one key at once"
            running.add(order.customer)
            at_once.append(len(running))
            begun.append(order)
            await super().handle(order)
            running.discard(order.customer)

    import msgspec

    async def main() -> None:
        await Seen(log, store, msgspec.json.Decoder(Shop(shape).OrderPlaced).decode).run(events)

    in_time(main())
    assert len(begun) == events
    assert max(at_once) == 6
    for key in {order.customer for order in begun}:
        ours = [order.order_id for order in begun if order.customer == key]
        assert ours == sorted(ours)
    assert rows(store, "select next from position") == [(events,)]
