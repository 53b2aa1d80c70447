"""The codecs of an open app that keep their schemas in a registry, and that registry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from evenflow.codec import Codec, SchemaCodec
from evenflow.codecs.schemas import Schemas
from evenflow.engine import Batch
from evenflow.errors import SettingsError
from evenflow.event import EventSpec
from evenflow.places import make_schemas
from evenflow.topic import Topic

Prepare = Callable[[Sequence[Batch]], Awaitable[None]]


class Learning:
    """Makes codecs learn what they need before events are written, and have what they need before batches are read."""

    def __init__(self, codecs: Iterable[Codec], url: str) -> None:
        self._codecs = {codec.name: codec for codec in codecs if isinstance(codec, SchemaCodec)}
        self._url = url
        self._schemas: Schemas | None = None

    async def open(self, topics: Iterable[Topic], specs: Iterable[EventSpec], place: Callable[[str], str]) -> None:
        """Learn what these classes are written with. Raises `SettingsError` without a registry, and `Refused`."""
        used = [topic for topic in topics if topic.codec in self._codecs]
        if not used:
            return
        if not self._url:
            raise SettingsError(
                f"the topic {used[0].name!r} is of {used[0].codec}, and no schema registry is set",
                remedy="EVENFLOW_REGISTRY=https://user:password@host:8081",
            )
        schemas = self._schemas = make_schemas(self._url)
        ours = list(specs)
        for name in dict.fromkeys(topic.codec for topic in used):
            await self._codecs[name].learn(schemas, [spec for spec in ours if spec.topic.codec == name], place)

    def preparing(self, topics: Iterable[Topic]) -> Prepare | None:
        """What is awaited before batches of these topics are read; None where nothing is needed."""
        codecs = {topic.name: self._codecs[topic.codec] for topic in topics if topic.codec in self._codecs}
        if not codecs:
            return None

        async def prepare(batches: Sequence[Batch]) -> None:
            for batch in batches:
                codec = codecs.get(batch.partition.topic)
                if codec is not None:
                    await codec.prepare(batch.envelopes.data)

        return prepare

    async def prepare(self, topic: Topic, data: Iterable[bytes]) -> None:
        """Have what reading these of a topic needs. Raises `SchemasUnavailable`."""
        codec = self._codecs.get(topic.codec)
        if codec is not None:
            await codec.prepare(data)

    async def close(self) -> None:
        if self._schemas is not None:
            await self._schemas.close()
