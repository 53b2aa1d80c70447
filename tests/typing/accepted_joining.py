"""What `on=` takes: connections and sessions of the user's own."""

import sqlite3

import apsw
import psycopg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from evenflow import App, Service, Transaction
from evenflow.sync import SyncTransaction

shop = Service("shop")
app = App(shop)


async def asynchronous(
    session: AsyncSession,
    connection: AsyncConnection,
    scoped: async_scoped_session[AsyncSession],
    driver: psycopg.AsyncConnection[tuple[object, ...]],
    stdlib: sqlite3.Connection,
    embedded: apsw.Connection,
) -> None:
    for on in (session, connection, scoped, driver, stdlib, embedded):
        async with app.transaction(shop, on=on) as tx:
            joined: Transaction = tx
            joined.write("select 1")
    async with app.transaction("shop", on=None, wait=1.0):
        pass


def blocking(
    session: Session,
    connection: Connection,
    scoped: scoped_session[Session],
    driver: psycopg.Connection[tuple[object, ...]],
    stdlib: sqlite3.Connection,
) -> None:
    with app.sync.transaction(shop, on=session) as tx:
        joined: SyncTransaction = tx
        joined.write("select 1")
    with app.sync.transaction(shop, on=connection), app.sync.transaction(shop, on=driver, wait=1.0):
        pass
    with app.sync.transaction(shop, on=scoped), app.sync.transaction(shop, on=stdlib):
        pass
