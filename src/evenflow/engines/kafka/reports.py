"""The library's producer, and the thread that collects what became of the records that it was handed."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from evenflow.engines.kafka.client import Client, KafkaError, KafkaException
from evenflow.engines.kafka.options import producer_settings

POLL = 0.1
CLOSING = 2.0


class Call:
    """One append: how many of its records are still open, and what became of each."""

    __slots__ = ("began", "count", "errors", "future", "left", "size")

    def __init__(self, count: int, size: int, began: float) -> None:
        self.count = count
        self.left = count
        self.size = size
        self.began = began
        self.errors: dict[int, KafkaError] = {}
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Owner(Protocol):
    """Who hears what the thread finds, on the event loop."""

    def settled(self, reports: Reports, calls: Sequence[Call], fatal: bool) -> None:
        """These are over. `fatal`: this producer is of no more use."""
        ...

    def reachable(self, reports: Reports, up: bool) -> None:
        """A broker has answered, or none can be reached."""
        ...


class Reports:
    """One producer of the library, and the thread that collects its reports.

    `batch`: bytes that it sends together. `down`: no broker could be reached before. Then it asks until one answers, as
    after it has found so itself.
    """

    def __init__(self, owner: Owner, client: Client, batch: int, *, down: bool = False) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._done: list[Call] = []
        self._fatal = False
        self._down = down
        self._ended = False
        self._refusals: deque[tuple[Call, int, KafkaError]] = deque()
        self.producer = client.made("Producer", producer_settings(client.options, batch), self._heard)
        self._thread = threading.Thread(target=self._run, name="evenflow-kafka-reports", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is under way is dropped."""
        self._ended = True

    def join(self) -> None:
        self._thread.join(CLOSING)

    def refused(self, call: Call, index: int, error: KafkaError) -> None:
        """The library has not taken a record: reported like the others, by the thread."""
        self._refusals.append((call, index, error))

    # In the thread.

    def reported(self, call: Call, index: int, error: KafkaError | None, _: Any) -> None:
        if error is not None:
            call.errors[index] = error
        call.left -= 1
        if not call.left:
            self._done.append(call)

    def _heard(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = True
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._down:
            self._down = True
            self._tell(partial(self._owner.reachable, self, False))

    def _run(self) -> None:
        producer, refusals = self.producer, self._refusals
        while not self._ended:
            producer.poll(POLL)
            while refusals:
                call, index, error = refusals.popleft()
                self.reported(call, index, error, None)
            if self._done or self._fatal:
                done, self._done = self._done, []
                fatal, self._fatal = self._fatal, False
                self._down = self._down and not done
                self._tell(partial(self._owner.settled, self, done, fatal))
            elif self._down:
                self._try()
        producer.purge()
        producer.poll(0)

    def _try(self) -> None:
        """Ask whether a broker answers again."""
        try:
            self.producer.list_topics("evenflow--marks", timeout=0.5)
        except KafkaException:
            return
        self._down = False
        self._tell(partial(self._owner.reachable, self, True))

    def _tell(self, work: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(work)
        except RuntimeError:  # the event loop has ended
            self._ended = True
