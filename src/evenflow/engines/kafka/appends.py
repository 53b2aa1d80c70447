"""Appends of each topic, in call order also while the topic gets another generation.

Who has not heard of a new generation appends to the old one, which refuses. Then what was refused, and behind it all
that has come meanwhile, goes to the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from evenflow.clock import Clock
from evenflow.engine import Outcome
from evenflow.engines.generations import sealed_words
from evenflow.engines.kafka.client import Client, KafkaError
from evenflow.engines.kafka.options import BATCH
from evenflow.engines.kafka.producer import Producer, Target
from evenflow.engines.kafka.records import FLAT
from evenflow.engines.kafka.topics import ENDS_ONLY, Topics
from evenflow.envelope import Envelope
from evenflow.errors import EngineUnavailable, EvenflowError, Refused

HEADROOM = 4096
"""Bytes that key, header and framing of a record take at most, unless they are unusual."""
_CHANGED = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD)
"""Answers of a topic that is not what it was when we looked: closed, compacted, or with another limit."""
PROBE = Envelope("evenflow--probe", "evenflow", "evenflow--probe", 1, None, 0, 0.0, b"")


class _Stream:
    """The appends of one topic."""

    def __init__(self, target: Target, limit: int, sealed: str, producer: Producer) -> None:
        self.target = target
        self.limit = limit
        self.sealed = sealed
        self.producer = producer
        self.open = 0
        self.moving = False
        self.refused: list[asyncio.Future[None]] = []
        self.later: list[asyncio.Future[None]] = []
        self.drained = asyncio.Event()


class Appends:
    """Sends each append to the last generation of its topic. `trouble` says why the last one was not stored."""

    def __init__(self, client: Client, topics: Topics, clock: Clock) -> None:
        self.trouble = ""
        self._client = client
        self._topics = topics
        self._clock = clock
        self._producer = Producer(client, clock)
        self._others: dict[int, Producer] = {}
        """By the size of their batches, for topics that take only smaller ones than we send: a batch counts as one."""
        self._streams: dict[str, _Stream] = {}
        self._opening: dict[str, asyncio.Task[_Stream]] = {}

    async def append(self, topic: str, envelopes: Sequence[Envelope]) -> Sequence[Outcome]:
        """See `Engine.append`."""
        try:
            stream = self._streams.get(topic) or await self._stream(topic)
        except EngineUnavailable as unavailable:
            self.trouble = str(unavailable)
            return [Outcome.REFUSED] * len(envelopes)
        if stream.moving:
            await _behind(stream.later)
        outcomes, error = await self._send(stream, envelopes)
        if error is not None and error.code() in _CHANGED:
            outcomes = await self._elsewhere(topic, stream, envelopes, outcomes)
        elif error is not None:
            self.trouble = f"Kafka at {self._client.address}: {error.str()}"
        elif outcomes and outcomes[0] is not Outcome.STORED:
            self.trouble = str(self._client.unavailable("it has not confirmed what was appended"))
        elif all(each is Outcome.STORED for each in outcomes):
            self.trouble = ""
        return outcomes

    async def refuses(self, name: str, partition: int) -> bool:
        """Whether this partition takes no records. One that it takes nobody has asked for."""
        target = Target(name, 1 << 30, compacted=True)
        probe = replace(PROBE, slot=partition)
        (outcome,), error = await self._producer.append(target, [probe])
        if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return True
        if outcome is Outcome.STORED:
            return False
        raise self._client.unavailable(f"whether {name!r} is closed")

    def forget(self, topic: str) -> None:
        """The topic may have changed: look at it again before the next append."""
        stream = self._streams.get(topic)
        if stream is not None and not stream.open and not stream.moving:
            del self._streams[topic]

    async def limit(self, topic: str) -> int | None:
        """See `Engine.limit`."""
        state = await self._topics.state(topic)
        try:
            limit = int((await self._topics.config(state.last))["max.message.bytes"])
        except Refused:  # we may only read here
            return None
        if limit <= ENDS_ONLY:  # closed, or being closed
            return None
        stream = self._streams.get(topic)
        if stream is not None and limit != stream.limit and not stream.moving:
            await self._move(topic, stream)
        return max(0, min(limit, self._client.options.max_bytes) - FLAT)

    async def close(self) -> None:
        await asyncio.gather(*(each.close() for each in (self._producer, *self._others.values())))

    async def _stream(self, topic: str) -> _Stream:
        opening = self._opening.get(topic)
        if opening is None:
            opening = self._opening[topic] = asyncio.ensure_future(self._open(topic))
            opening.add_done_callback(lambda _: self._opening.pop(topic, None))
        return await asyncio.shield(opening)

    async def _open(self, topic: str) -> _Stream:
        stream = self._streams[topic] = _Stream(*await self._target(topic))
        return stream

    async def _target(self, topic: str) -> tuple[Target, int, str, Producer]:
        state = await self._topics.state(topic)
        last = state.log.generations[-1]
        config = await self._topics.config(state.last)
        cloudevents = self._client.options.headers == "cloudevents"
        target = Target(
            state.last,
            last.partitions,
            compacted="compact" in config["cleanup.policy"],
            shown=state.declared if cloudevents or state.declared.records is not None else None,
        )
        limit, sealed = int(config["max.message.bytes"]), sealed_words(state.log) if state.log.sealed else ""
        return target, limit, sealed, self._sending(limit)

    def _sending(self, limit: int) -> Producer:
        """The producer for a topic with this limit."""
        if limit <= ENDS_ONLY or limit >= BATCH:
            return self._producer
        if limit not in self._others:
            self._others[limit] = Producer(self._client, self._clock, limit)
        return self._others[limit]

    async def _send(self, stream: _Stream, envelopes: Sequence[Envelope]) -> tuple[list[Outcome], KafkaError | None]:
        closed = stream.limit <= ENDS_ONLY
        limit = min(1 << 62 if closed else stream.limit, self._client.options.max_bytes)
        fitting, over = _prefixes(envelopes, limit)
        stream.open += 1
        try:
            if not over:
                return await stream.producer.append(stream.target, envelopes)
            outcomes, error = await stream.producer.append(stream.target, [envelopes[n] for n in fitting])
        finally:
            stream.open -= 1
            if not stream.open:
                stream.drained.set()
        found = [Outcome.REFUSED] * len(envelopes)
        for place, outcome in zip(fitting, outcomes, strict=True):
            found[place] = outcome
        broken = {
            envelopes[n].slot for n, outcome in zip(fitting, outcomes, strict=True) if outcome is not Outcome.STORED
        }
        for place in over:
            if envelopes[place].slot not in broken and not closed:
                found[place] = Outcome.OVERSIZE
        return found, error or KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)

    # -- another generation -------------------------------------------------------------------------------------------

    async def _elsewhere(
        self, topic: str, stream: _Stream, envelopes: Sequence[Envelope], outcomes: list[Outcome]
    ) -> list[Outcome]:
        """The brokers, or we, have found a record too large: is it, or is the topic closed?"""
        if stream.moving:
            await _behind(stream.refused)
        else:
            await self._move(topic, stream)
        again = [n for n, outcome in enumerate(outcomes) if outcome in (Outcome.REFUSED, Outcome.OVERSIZE)]
        found, error = await self._send(stream, [envelopes[n] for n in again])
        for place, outcome in zip(again, found, strict=True):
            outcomes[place] = outcome
        if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE and stream.limit > ENDS_ONLY:
            _name(envelopes, outcomes, stream.limit)
        if error is not None and error.code() == KafkaError.INVALID_RECORD:
            self.trouble = f"Kafka at {self._client.address}: {error.str()}"
        elif error is not None:
            largest = max(len(each.data) for each in envelopes)
            self.trouble = stream.sealed or (
                f"the topic {topic!r} is closed: another generation of it was begun and not finished; "
                "start the app that declares it again"
                if stream.limit <= ENDS_ONLY
                else f"a record of {largest:,} bytes is more than Kafka takes: the topic {topic!r} allows "
                f"{stream.limit:,} (max.message.bytes), this client {self._client.options.max_bytes:,} (max_bytes= in "
                "the engine's URL); raise both, or publish a smaller event"
            )
        return outcomes

    async def _move(self, topic: str, stream: _Stream) -> None:
        """Wait for what is under way, look at the topic, and let those go on who wait, in the order of their calls."""
        stream.moving = True
        try:
            while stream.open:
                stream.drained.clear()
                await stream.drained.wait()
            await self._topics.log(topic)
            stream.target, stream.limit, stream.sealed, stream.producer = await self._target(topic)
        except EvenflowError as error:
            self.trouble = str(error)
        finally:
            asyncio.get_running_loop().call_soon(_go_on, stream)  # behind us, who were the first


def _prefixes(envelopes: Sequence[Envelope], limit: int) -> tuple[Sequence[int], Sequence[int]]:
    """Which may be sent: of each slot, all before the first that is too large; and those first ones."""
    if max([len(each.data) for each in envelopes], default=0) + HEADROOM <= limit:
        return (), ()
    fitting, over, broken = [], [], set()
    for n, each in enumerate(envelopes):
        if each.slot not in broken and _size(each) > limit:
            broken.add(each.slot)
            over.append(n)
        if each.slot not in broken:
            fitting.append(n)
    return fitting, over


def _size(envelope: Envelope) -> int:
    """Bytes of its record, about."""
    headers = sum(map(len, (envelope.headers or {}).values()))
    return len(envelope.data) + FLAT + 4 * len(envelope.key or "") + headers


def _name(envelopes: Sequence[Envelope], outcomes: list[Outcome], limit: int) -> None:
    """Of those that a broker has refused for their size, say which these were: it tells of a whole batch."""
    slots = set()
    for n, each in enumerate(envelopes):
        if outcomes[n] is not Outcome.STORED and each.slot not in slots:
            slots.add(each.slot)
            if outcomes[n] is Outcome.REFUSED and _size(each) + HEADROOM > limit:
                outcomes[n] = Outcome.OVERSIZE


async def _behind(line: list[asyncio.Future[None]]) -> None:
    mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    line.append(mine)
    await mine


def _go_on(stream: _Stream) -> None:
    """Let those go on who wait. Who comes before they have gone waits behind them."""
    waiting, stream.refused, stream.later = [*stream.refused, *stream.later], [], []
    stream.moving = bool(waiting)
    for each in waiting:
        if not each.done():
            each.set_result(None)
    if waiting:
        asyncio.get_running_loop().call_soon(_go_on, stream)
