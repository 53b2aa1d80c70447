"""What `on=` does not take."""

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from evenflow import App, Service

shop = Service("shop")
app = App(shop)


async def asynchronous(session: AsyncSession, engine: AsyncEngine, made: async_sessionmaker[AsyncSession]) -> None:
    app.transaction(shop, session)  # expect-error
    app.transaction(shop, on=engine)  # expect-error
    app.transaction(shop, on=made)  # expect-error
    app.transaction(shop, on="postgresql://localhost/shop")  # expect-error
    with app.transaction(shop, on=session):  # expect-error
        pass


def blocking(session: Session, engine: Engine, made: sessionmaker[Session]) -> None:
    app.sync.transaction(shop, session)  # expect-error
    app.sync.transaction(shop, on=engine)  # expect-error
    app.sync.transaction(shop, on=made)  # expect-error
    app.sync.transaction(shop, on={})  # expect-error
