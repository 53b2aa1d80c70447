"""A shop of five services that share nothing but events. Here they are put together.

`evenflow run shop:app` runs them all in one process, `evenflow run shop:app --service stock` one of them alone.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator

import aiohttp
from evenflow import App

from shop.analytics import analytics
from shop.notifications import Mailer, notifications
from shop.orders import orders
from shop.payments import Provider, payments
from shop.payments.provider import TIMEOUT
from shop.stock import stock

app = App(orders, stock, payments, notifications, analytics, name="shop")


@app.provide
async def provider() -> AsyncGenerator[Provider]:
    url = os.environ.get("SHOP_PROVIDER", "http://127.0.0.1:8701")
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        yield Provider(session, url)


@app.provide
async def mailer() -> AsyncGenerator[Mailer]:
    host, _, port = os.environ.get("SHOP_MAIL", "127.0.0.1:8702").rpartition(":")
    mailer = Mailer(host, int(port))
    yield mailer
    mailer.close()
