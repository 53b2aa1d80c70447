"""The thread that reads: one consumer of the client library, whose lists go to the event loop as finished runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from evenflow.engines.kafka.client import Client, KafkaError, KafkaException, TopicPartition, reason_of
from evenflow.engines.kafka.options import reader_settings
from evenflow.engines.kafka.records import Place, Run, runs_of

log = logging.getLogger("evenflow")

LIST = 500
POLL = 0.1
"""Seconds that an order to the thread may wait while nothing arrives."""
UNDER_WAY = 4
"""Lists that the event loop has not seen yet, after which the thread waits for it."""
CLOSING = 2.0

DECISIVE = frozenset(
    {
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
"""After these nothing more comes of a partition. All other errors the library overcomes by itself."""

Name = tuple[str, int]


class Arrived(NamedTuple):
    """What came of one partition since it was begun for the `turn`-th time."""

    turn: int
    run: Run


class Failed(NamedTuple):
    """Why nothing more comes of a partition."""

    name: Name
    turn: int
    error: KafkaError


class Sink(Protocol):
    """Who gets what was read, on the event loop."""

    def arrived(self, found: Sequence[Arrived | Failed]) -> None: ...


class ReaderThread:
    """Reads the partitions that it is told to, each from an offset on. All its methods are for the event loop."""

    def __init__(self, client: Client, sink: Sink) -> None:
        self._client = client
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._orders: deque[Callable[[Any], None]] = deque()
        self._wake = threading.Event()
        self._may = threading.Event()
        self._may.set()
        self._under_way = threading.Semaphore(UNDER_WAY)
        self._places: dict[Name, Place] = {}
        self._turns: dict[Name, int] = {}
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="evenflow-kafka-reader", daemon=True)
        self._thread.start()

    def begin(self, places: Iterable[tuple[Place, int, int]]) -> None:
        """Read each of these partitions from an offset on; what comes carries the number of the turn."""
        chosen = list(places)

        def order(consumer: Any) -> None:
            known = [name for place, _, _ in chosen if (name := _name(place)) in self._places]
            if known:
                consumer.incremental_unassign([TopicPartition(*name) for name in known])
            for place, _, turn in chosen:
                self._places[_name(place)], self._turns[_name(place)] = place, turn
            consumer.incremental_assign([TopicPartition(*_name(place), offset) for place, offset, _ in chosen])

        self._order(order)

    def end(self, place: Place) -> None:
        """Read no more of this partition."""

        def order(consumer: Any) -> None:
            if self._places.pop(_name(place), None) is not None:
                consumer.incremental_unassign([TopicPartition(*_name(place))])

        self._order(order)

    def pause(self, place: Place, *, on: bool) -> None:
        """Read nothing of this partition for a while, or go on with it."""

        def order(consumer: Any) -> None:
            if _name(place) in self._places:
                (consumer.pause if on else consumer.resume)([TopicPartition(*_name(place))])

        self._order(order)

    def may(self, read: bool) -> None:
        """Whether the thread may read on: there is room."""
        if read != self._may.is_set():
            self._may.set() if read else self._may.clear()

    def stop(self) -> None:
        """End the thread, without waiting for it: a client that hangs must not hold us up."""
        self._ended = True
        self._may.set()
        self._wake.set()

    def join(self) -> None:
        """Wait a little for a thread that was stopped."""
        self._thread.join(CLOSING)

    def _order(self, order: Callable[[Any], None]) -> None:
        self._orders.append(order)
        self._wake.set()

    # In the thread.

    def _run(self) -> None:
        consumer = None
        try:
            consumer = self._client.made("Consumer", reader_settings(self._client.options))
            while not self._ended:
                self._obey(consumer)
                self._read(consumer)
        except Exception as error:
            log.error("the thread that reads from Kafka has ended: %s: %s", type(error).__name__, error)
        finally:
            if consumer is not None:
                consumer.close()

    def _obey(self, consumer: Any) -> None:
        while self._orders:
            order = self._orders.popleft()
            try:
                order(consumer)
            except KafkaException as error:
                log.warning("Kafka's client refuses to read as told: %s", reason_of(error).str())

    def _read(self, consumer: Any) -> None:
        if not self._places:
            self._wake.wait()
            self._wake.clear()
            return
        if not self._may.wait(POLL):
            return
        first = consumer.poll(POLL)
        if first is None:
            return
        found = self._sorted([first, *consumer.consume(LIST - 1, 0)])
        while found and not self._under_way.acquire(timeout=POLL):
            if self._ended:
                return
        if found:
            self._hand_over(found)

    def _sorted(self, messages: list[Any]) -> list[Arrived | Failed]:
        failed: list[Failed] = []
        if any(map(type(messages[0]).error, messages)):
            for each in messages:
                error, name = each.error(), (each.topic(), each.partition())
                if error is not None and error.code() in DECISIVE and name in self._turns:
                    failed.append(Failed(name, self._turns[name], error))
            messages = [each for each in messages if each.error() is None]
        runs = runs_of(messages, self._places) if messages else ()
        return [*(Arrived(self._turns[_name(run.place)], run) for run in runs), *failed]

    def _hand_over(self, found: list[Arrived | Failed]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._received, found)
        except RuntimeError:  # the event loop has ended
            self._ended = True

    def _received(self, found: list[Arrived | Failed]) -> None:
        self._under_way.release()
        if not self._ended:
            self._sink.arrived(found)


def _name(place: Place) -> Name:
    return place.topic, place.partition.number
