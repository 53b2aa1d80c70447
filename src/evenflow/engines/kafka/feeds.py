"""What was read and not yet taken. Groups of a process that are near each other share one reading of a partition.

A reader can stand at one place of a partition only. A group that is elsewhere (far behind, slower, or just begun) gets
another reader, which it leaves when it has caught up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence

from evenflow.clock import Signal
from evenflow.engine import Batch, Partition
from evenflow.engines.kafka.client import Client, KafkaError
from evenflow.engines.kafka.reader import Arrived, Failed, Name, ReaderThread
from evenflow.engines.kafka.records import Place, Run
from evenflow.envelopes import Envelopes, joined

EVENTS = 10_000
SIZE = 16 << 20
"""What one reader reads ahead. A partition that is set aside is not counted, up to `SET_ASIDE` times this in all."""
SET_ASIDE = 3


class Cursor:
    """Where one group stands in one partition."""

    __slots__ = ("feed", "offset", "partition", "paused", "signal")

    def __init__(self, partition: Partition, offset: int, signal: Signal) -> None:
        self.partition = partition
        self.offset = offset
        self.signal = signal
        self.paused = False
        self.feed: Feed | None = None


class Feed:
    """One reading of one partition: runs that somebody has yet to take, and the last one that all have."""

    def __init__(self, reader: Reader, place: Place, offset: int, turn: int) -> None:
        self.reader = reader
        self.place = place
        self.turn = turn
        self.start = offset
        self.end = offset
        self.events = 0
        self.bytes = 0
        self.aside = False
        self.failed: KafkaError | None = None
        self.cursors: list[Cursor] = []
        self._runs: deque[Run] = deque()
        self._last: Run | None = None

    def serves(self, offset: int) -> bool:
        """Whether a group that stands there may read along."""
        return self.start <= offset <= self.end and self.failed is None

    def add(self, run: Run) -> None:
        self._runs.append(run)
        self.events += len(run.offsets)
        self.bytes += sum(run.sizes)
        self.end = run.next
        for cursor in self.cursors:
            cursor.signal.set()

    def fail(self, error: KafkaError) -> None:
        """Nothing more comes: whoever reads along is to look why."""
        self.failed = error
        for cursor in self.cursors:
            cursor.signal.set()

    def waiting(self, offset: int) -> bool:
        """Whether there is something to take from this offset on."""
        return offset < self.end

    def take(self, cursor: Cursor, limit: int, size: int) -> tuple[Batch, int] | None:
        """Events from the cursor on, and their bytes; at least one if there is any."""
        parts: list[tuple[Envelopes, int, int]] = []
        offsets: list[int] = []
        taken = 0
        for run in self._from(cursor.offset):
            start = bisect_left(run.offsets, cursor.offset) if run.offsets[0] < cursor.offset else 0
            stop = min(len(run.offsets), start + limit - len(offsets))
            bytes_ = sum(run.sizes[start:stop])
            if taken + bytes_ > size:
                stop, bytes_ = _within(run.sizes, start, stop, size - taken, at_least=0 if offsets else 1)
            if stop <= start:
                break
            parts.append((run.envelopes, start, stop))
            offsets += run.offsets[start:stop]
            taken += bytes_
            if len(offsets) >= limit or taken >= size:
                break
        if not offsets:
            return None
        return Batch(cursor.partition, offsets, joined(parts), offsets[-1] + 1), taken

    def _from(self, offset: int) -> Iterator[Run]:
        if self._last is not None and offset < self._last.next:
            yield self._last
        for run in self._runs:
            if offset < run.next:
                yield run

    def forget(self) -> None:
        """Let go of what all have taken."""
        slowest = min((each.offset for each in self.cursors), default=self.end)
        while self._runs and self._runs[0].next <= slowest:
            last = self._last = self._runs.popleft()
            self.events -= len(last.offsets)
            self.bytes -= sum(last.sizes)
            self.start = last.offsets[0]


class Reader:
    """One reader thread and its feeds."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds
        self.thread = ReaderThread(feeds.client, self)
        self.feeds: dict[Partition, Feed] = {}
        self.arrivals = 0
        self.full = False
        self._heaped = False
        self._turn = 0
        self._by_name: dict[Name, Feed] = {}

    def begin(self, place: Place, offset: int) -> Feed:
        self._turn += 1
        feed = Feed(self, place, offset, self._turn)
        self.feeds[place.partition] = self._by_name[place.topic, place.partition.number] = feed
        self.thread.begin([(place, offset, feed.turn)])
        return feed

    def end(self, feed: Feed) -> None:
        if self.feeds.get(feed.place.partition) is feed:
            del self.feeds[feed.place.partition], self._by_name[feed.place.topic, feed.place.partition.number]
            self.thread.end(feed.place)
            self.regulate()

    def arrived(self, found: Sequence[Arrived | Failed]) -> None:
        """What the thread has read: only what belongs to a feed as it stands now."""
        self.arrivals += 1
        self._feeds.client.answered()
        for each in found:
            if isinstance(each, Failed):
                feed = self._by_name.get(each.name)
                if feed is not None and feed.turn == each.turn:
                    feed.fail(each.error)
            else:
                feed = self.feeds.get(each.run.place.partition)
                if feed is not None and feed.turn == each.turn:
                    feed.add(each.run)
        self.regulate()

    def regulate(self) -> None:
        """Let the thread read on while there is room."""
        events = bytes_ = aside = aside_bytes = 0
        for feed in self.feeds.values():
            if feed.aside and feed.events < EVENTS // 100:
                feed.aside = False
                self.thread.pause(feed.place, on=False)
            if feed.aside:
                aside, aside_bytes = aside + feed.events, aside_bytes + feed.bytes
            else:
                events, bytes_ = events + feed.events, bytes_ + feed.bytes
        self._heaped = aside >= SET_ASIDE * EVENTS or aside_bytes >= SET_ASIDE * SIZE
        self.full = self._heaped or events >= EVENTS or bytes_ >= SIZE
        self.thread.may(not self.full)

    def hungry(self) -> list[Feed]:
        """Feeds that have given everything, and are waited for."""
        if self.full:
            return []
        return [
            feed
            for feed in self.feeds.values()
            if not feed.aside and any(each.offset == feed.end and not each.paused for each in feed.cursors)
        ]

    def make_room(self, hungry: Sequence[Cursor]) -> None:
        """Somebody waits, and the thread may not read: set the largest feeds aside, or part who is slow from them.

        Where too much is set aside, the largest of that is let go, and read once more when it is wanted.
        """
        while self.full:
            heaped = self._heaped
            fattest = max((feed for feed in self.feeds.values() if feed.aside == heaped), key=lambda feed: feed.bytes)
            if heaped or any(cursor.feed is fattest for cursor in hungry):
                for cursor in [each for each in fattest.cursors if each.offset < fattest.end]:
                    self._feeds.detach(cursor) if heaped else self._feeds.move(cursor)
                fattest.forget()
            else:
                fattest.aside = True
                self.thread.pause(fattest.place, on=True)
            self.regulate()

    def rebuild(self) -> None:
        """Another thread with another client in the place of one that stands still."""
        self.thread.stop()
        self.thread = ReaderThread(self._feeds.client, self)
        places = []
        for feed in self.feeds.values():
            self._turn += 1
            feed.turn, feed.aside = self._turn, False
            places.append((feed.place, feed.end, feed.turn))
        if places:
            self.thread.begin(places)
        self.regulate()


class Feeds:
    """All readers of one process."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.readers: list[Reader] = []

    def attach(self, cursor: Cursor, place: Place) -> None:
        """Let the cursor read along where one reads near it; else begin to read there."""
        self.detach(cursor)
        for reader in self.readers:
            feed = reader.feeds.get(cursor.partition)
            if feed is not None and feed.serves(cursor.offset):
                break
        else:
            free = (each for each in self.readers if cursor.partition not in each.feeds)
            reader = next(free, None) or self._another()
            feed = reader.begin(place, cursor.offset)
        cursor.feed = feed
        feed.cursors.append(cursor)
        cursor.signal.set()

    def detach(self, cursor: Cursor) -> None:
        """The cursor reads no more."""
        feed, cursor.feed = cursor.feed, None
        if feed is None:
            return
        feed.cursors.remove(cursor)
        if feed.cursors:
            feed.forget()
            return
        reader = feed.reader
        reader.end(feed)
        if not reader.feeds and len(self.readers) > 1:
            self.readers.remove(reader)
            reader.thread.stop()

    def move(self, cursor: Cursor) -> None:
        """Read on for this cursor apart from the others, or nothing while it is paused."""
        feed = cursor.feed
        self.detach(cursor)
        if feed is not None and not cursor.paused:
            feed.start = feed.end  # it is the slow ones who are to go
            self.attach(cursor, feed.place)

    def caught_up(self, cursor: Cursor) -> None:
        """Let a cursor with a reader of its own join an earlier one, where that is possible now."""
        feed = cursor.feed
        if feed is None or feed.reader is self.readers[0]:
            return
        for reader in self.readers:
            if reader is feed.reader:
                return
            other = reader.feeds.get(cursor.partition)
            if other is not None and other.serves(cursor.offset):
                self.attach(cursor, feed.place)
                return

    def close(self) -> None:
        for reader in self.readers:
            reader.thread.stop()
        for reader in self.readers:
            reader.thread.join()
        self.readers.clear()

    def _another(self) -> Reader:
        reader = Reader(self)
        self.readers.append(reader)
        return reader


def _within(sizes: Sequence[int], start: int, stop: int, size: int, *, at_least: int) -> tuple[int, int]:
    """Where to stop so that these are not more than so many bytes, and how many they are."""
    taken = 0
    for place in range(start, stop):
        if taken + sizes[place] > size and place - start >= at_least:
            return place, taken
        taken += sizes[place]
    return stop, taken
