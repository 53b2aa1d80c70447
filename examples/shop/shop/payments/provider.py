"""The provider of payments, as this service sees it: two calls over HTTP."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import aiohttp

TIMEOUT = aiohttp.ClientTimeout(total=2.0)
"""A provider that does not answer within this time, in seconds, is asked again later."""


class ProviderFailed(Exception):
    """The provider gave no answer that can be used. It may have done what it was asked for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """state   "taken", "declined" or "pending"
    charge  the provider's name for it
    """

    state: str
    charge: str


FREE = Answer("taken", "")
"""What is to be said of an order that costs nothing, without a call."""


class Provider:
    """Asked twice with the same order, it does the work once and gives the same answer."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/charges"

    async def charge(self, order_id: int, cents: int) -> Answer:
        answer = await self._post(self._url, order_id, {"order_id": order_id, "cents": cents})
        return Answer(answer["state"], answer["charge"])

    async def void(self, order_id: int) -> None:
        """Give up a charge that was never confirmed."""
        await self._post(f"{self._url}/{order_id}/void", order_id, {})

    async def _post(self, url: str, order_id: int, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Idempotency-Key": str(order_id), "Content-Type": "application/json"}
        try:
            async with self._session.post(url, data=json.dumps(body), headers=headers) as response:
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ProviderFailed(f"no answer about order {order_id}: {error!r}") from error
        if response.status != 200:
            raise ProviderFailed(f"answer {response.status} about order {order_id}: {text[:200]!r}")
        found: dict[str, Any] = json.loads(text)
        return found
