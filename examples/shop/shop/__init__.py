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
from shop.payments.provider import TIMEOUT as PROVIDER_TIMEOUT
from shop.stock import Supplier, stock
from shop.stock.supplier import TIMEOUT as SUPPLIER_TIMEOUT

app = App(orders, stock, payments, notifications, analytics, name="shop")


@app.provide
async def provider() -> AsyncGenerator[Provider]:
    url = os.environ.get("SHOP_PROVIDER", "http://127.0.0.1:8701")
    async with aiohttp.ClientSession(timeout=PROVIDER_TIMEOUT) as session:
        yield Provider(session, url)


@app.provide
async def supplier() -> AsyncGenerator[Supplier]:
    url = os.environ.get("SHOP_SUPPLIER", "http://127.0.0.1:8703")
    async with aiohttp.ClientSession(timeout=SUPPLIER_TIMEOUT) as session:
        yield Supplier(session, url)


@app.provide
async def mailer() -> AsyncGenerator[Mailer]:
    host, _, port = os.environ.get("SHOP_MAIL", "127.0.0.1:8702").rpartition(":")
    mailer = Mailer(host, int(port))
    yield mailer
    mailer.close()
