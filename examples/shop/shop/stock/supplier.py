"""The supplier of some titles, as this service sees it: one call over HTTP."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

TIMEOUT = aiohttp.ClientTimeout(total=1.0)
"""A supplier that does not answer within this time, in seconds, is asked again later."""


class SupplierFailed(Exception):
    """The supplier gave no answer that can be used. It may have taken the order."""


class Supplier:
    """Asked twice with the same key, it delivers once and gives the same answer."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/orders"

    async def order(self, key: int, title: int, cds: int) -> str:
        """Order CDs of a title; the name of their delivery."""
        headers = {"Idempotency-Key": str(key), "Content-Type": "application/json"}
        body = json.dumps({"title": title, "cds": cds})
        try:
            async with self._session.post(self._url, data=body, headers=headers) as response:
                text = await response.read()
        except TimeoutError as error:
            raise SupplierFailed("no answer in time") from error
        except aiohttp.ClientError as error:
            raise SupplierFailed(f"no answer: {error!r}") from error
        if response.status != 200:
            raise SupplierFailed(f"answer {response.status}: {text[:200].decode(errors='replace').strip()}")
        found: dict[str, Any] = json.loads(text)
        return str(found["delivery"])
