"""Removing topics and groups that were made for a test, by how their names begin."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from evenflow.engines.kafka.client import ASK, Client
from evenflow.engines.kafka.marks import Marks
from evenflow.engines.kafka.options import Address, KafkaOptions
from evenflow.engines.kafka.peek import Peek
from evenflow.errors import EvenflowError


async def remove(address: Address, options: KafkaOptions, topics: Collection[str], groups: Collection[str]) -> None:
    """Delete those whose names begin so. Raises `EvenflowError` for the first that cannot be deleted."""
    client = Client(address, options)
    peek = Peek(client)
    marks = Marks(client, peek)
    try:
        marked = await marks.names()
        first, begins = tuple(topics), tuple(groups)
        ours = [name for name in await client.listed() if marked.get(name, (name, 1))[0].startswith(first)]
        for name in sorted({topic for topic, _ in marked.values() if topic.startswith(first)}):
            await marks.drop(name)
        told = [each for each in await client.groups() if each.startswith(begins)]
        work = [
            *(client.admin.delete_topics(ours, request_timeout=ASK).values() if ours else ()),
            *(client.admin.delete_consumer_groups(told, request_timeout=ASK).values() if told else ()),
        ]
        answers = [client.ask(each, "remove what was made for a test") for each in work]
        failed = [each for each in await asyncio.gather(*answers, return_exceptions=True) if each is not None]
        for each in failed:
            if isinstance(each, EvenflowError):
                raise each
    finally:
        await asyncio.to_thread(peek.close)
        client.close()
