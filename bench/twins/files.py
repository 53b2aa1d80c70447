"""The twins' two files and their statements."""

from __future__ import annotations

import apsw
import msgspec

from bench.workload import HERE, INSERT, UPSERT

CHUNK = 500
INSERT_ROW = INSERT.replace("$", "?")
UPSERT_ROW = UPSERT.replace("$", "?")
ORDER, CHARGE = "order.placed", "order.charged"
APPEND = "insert into log (type, payload) values (?, ?)"
READ = "select id, type, payload from log where id > ? order by id limit ?"
MOVE = "update position set next = ?1 where name = 'charge' and next = ?2"
ENQUEUE = "insert into outbox (type, payload) values (?, ?)"

encode = msgspec.json.Encoder().encode


def opened(path: str) -> apsw.Connection:
    connection = apsw.Connection(path)
    connection.set_busy_timeout(5000)
    for pragma in (
        "page_size = 4096",
        "journal_mode = wal",
        "synchronous = full",
        "fullfsync = 1",
        "cache_size = -8000",
    ):
        connection.execute(f"pragma {pragma}")
    return connection


def open_log(folder: str) -> apsw.Connection:
    """The log: a row per event, whose number is also its id; and how far each outbox was moved into it."""
    log = opened(f"{folder}/by_hand_log.db")
    log.execute(
        "create table if not exists log (id integer primary key, type text not null, payload blob not null);"
        "create table if not exists relayed (source text primary key, upto integer not null);"
        "insert or ignore into relayed values ('billing', 0)"
    )
    return log


def open_store(folder: str) -> apsw.Connection:
    """The database with the effects, the position in the log, and the outbox."""
    store = opened(f"{folder}/by_hand.db")
    store.execute(
        (HERE / "sql" / "0001_effects.sql").read_text("utf-8")
        + "create table position (name text primary key, next integer not null);"
        "insert into position values ('charge', 0);"
        "create table outbox (id integer primary key autoincrement, type text not null, payload blob not null);"
    )
    return store


def kept(store: apsw.Connection) -> tuple[int, int]:
    """Rows and sums of the effects, to be compared with what was published."""
    ((rows, summed),) = store.execute("select (select count(*) from charges), (select sum(orders) from totals)")
    return rows, summed or 0


def logged(log: apsw.Connection) -> int:
    ((rows,),) = log.execute("select count(*) from log")
    return int(rows)
