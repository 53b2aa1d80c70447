"""The same by hand: a log, a position, one event published, read, handled: python bench/first/by_hand.py FOLDER"""

import asyncio
import sys

import apsw
import msgspec


class OrderPlaced(msgspec.Struct, frozen=True):
    order: int
    customer: str


async def greet(order: OrderPlaced) -> None:
    print(f"order {order.order} of {order.customer}")


def opened(path: str, tables: str) -> apsw.Connection:
    connection = apsw.Connection(path)
    for statement in ("pragma journal_mode = wal", "pragma synchronous = full", tables):
        connection.execute(statement)
    return connection


async def main(folder: str) -> None:
    log = opened(f"{folder}/log.db", "create table log (id integer primary key, type text, payload blob)")
    store = opened(f"{folder}/shop.db", "create table position (next integer); insert into position values (0)")
    order = msgspec.json.encode(OrderPlaced(order=1, customer="Ada"))
    log.execute("insert into log (type, payload) values ('order.placed', ?)", (order,))
    decode = msgspec.json.Decoder(OrderPlaced).decode
    for number, _, payload in log.execute("select id, type, payload from log where id > 0 order by id").fetchall():
        await greet(decode(payload))
        store.execute("update position set next = ? where next < ?", (number, number))


asyncio.run(main(sys.argv[1]))
