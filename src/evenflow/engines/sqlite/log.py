"""The embedded engine's file: its connections, what this process knows of its topics, and its one way to write."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar, cast

import apsw

from evenflow.clock import Clock
from evenflow.drivers.sqlite.file import (
    LOCK_LIMIT,
    Checkpointer,
    KindOfFile,
    SameFile,
    WalGauge,
    apsw_checkpoint,
    check_place,
    connect,
    diagnose,
    hold,
    is_busy,
    let_go,
    patiently,
    read_header,
    replaced_words,
)
from evenflow.engine import Generation, Log, Partition
from evenflow.engines.generations import sealed_words
from evenflow.engines.log_consumer import no_such_partition, no_such_topic
from evenflow.engines.packs import Pack, PackCache, bodies
from evenflow.engines.sqlite.packs import OFFSET_BITS
from evenflow.engines.sqlite.reader import SQL, PackReader, Part
from evenflow.engines.sqlite.writer import GroupCommit
from evenflow.envelope import Envelope
from evenflow.errors import EngineUnavailable

T = TypeVar("T")

KIND = KindOfFile(what="the event log", application_id=0x4576666C, version=2)  # "Evfl"
PAGE_SIZE = 4096
FILE_CHECK = 0.5
_TABLES = ("create_topics", "create_partitions", "create_packs", "create_groups", "create_told", "add_goes_on")
_SINCE = ("", "add_goes_on")
"""By format: the statement that makes the next one of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteOptions:
    """lock_limit: seconds to wait for the write lock before an append is refused.
    cache_bytes: memory for decoded events, which groups near each other share.
    poll: seconds between looks for what others have stored, while a fetch waits and the system tells of no writes.
    allow_unsafe: what is taken on the user's own risk: "network" (a network file system).
    """

    lock_limit: float = LOCK_LIMIT
    cache_bytes: int = 8 << 20
    poll: float = 0.01
    allow_unsafe: frozenset[str] = frozenset()


class TopicState:
    """A topic as of the last commit that was seen: its log, facts, and the partitions of its last generation."""

    __slots__ = ("epoch", "facts", "last", "log")

    def __init__(self, log: Log, facts: tuple[float | None, int | None, bool], last: list[Part], epoch: int) -> None:
        self.log = log
        self.facts = facts
        self.last = last
        self.epoch = epoch


class LogFile:
    """Opened by `apsw` alone. All methods run on the event loop's thread."""

    def __init__(self, path: str, clock: Clock, options: SqliteOptions, changed: Callable[[], None]) -> None:
        self.path = path
        self.clock = clock
        self._options = options
        self._changed = changed
        self._topics: dict[str, TopicState] = {}
        self._parts: dict[Partition, tuple[Part, int]] = {}
        self._pending: dict[Part, list[Envelope]] = {}
        self._stored: list[tuple[Part, int, float, list[tuple[int, Pack]]]] = []
        self._epoch = 0
        self._again = False
        self._version = self._version_aside = -1
        self._in_place = 0.0
        self.is_open = False

    async def open(self) -> None:
        """Raises `Refused` with what is wrong with the file, and the remedy."""
        check_place(self.path, KIND.what, allow_network="network" in self._options.allow_unsafe)
        self._held = hold(self.path, "apsw", KIND.what)
        try:
            await self._connect()
        except BaseException as error:
            let_go(self._held)
            if isinstance(error, apsw.Error):
                raise diagnose(error, self.path, KIND.what).refusal() from error
            raise
        self.is_open = True

    async def _connect(self) -> None:
        limit = self._options.lock_limit
        self._writing = await patiently(
            lambda: connect(self.path, KIND.what, page_size=PAGE_SIZE, check=lambda head: KIND.check(head, self.path)),
            limit=limit,
        )
        try:
            await patiently(self._bring_up, limit=limit)
            self._reading = await patiently(lambda: connect(self.path, KIND.what), limit=limit)
        except BaseException:
            self._writing.close()
            raise
        self.same = SameFile(self.path)
        self.reader = PackReader(self._reading, PackCache(self._options.cache_bytes))
        self._checkpoint = apsw_checkpoint(self.path)
        self._checkpointer = Checkpointer(self._checkpoint, WalGauge(self._writing))
        hooks = (self._begun, self._finish, self._ended)
        self._writer = GroupCommit(self._writing, (self.path, KIND.what, self.same), hooks, limit=limit)
        self._version = self._version_aside = -1

    def _bring_up(self) -> None:
        connection = self._writing

        def missing() -> tuple[str, ...]:
            header = read_header(lambda sql: connection.execute(sql).fetchall())
            return _TABLES if KIND.check(header, self.path) else _SINCE[header.user_version :]

        if not missing():
            return
        connection.execute("begin immediate")
        try:
            if steps := missing():
                for name in steps:
                    connection.execute(SQL[name])
                connection.execute(f"pragma application_id = {KIND.application_id}")
                connection.execute(f"pragma user_version = {KIND.version}")
            connection.execute("commit")
        finally:
            if connection.in_transaction:
                connection.execute("rollback")

    async def close(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        await self._writer.close()
        await asyncio.get_running_loop().run_in_executor(None, self._close_files)
        let_go(self._held)

    def _close_files(self) -> None:
        self._checkpointer.close()
        self._checkpoint("close")
        self._reading.close()
        self._writing.close()

    # What this process knows.

    def look(self) -> bool:
        """Notice what other processes have committed. About four microseconds when nothing was."""
        return self._look_aside() if self._writer.committing else self._look()

    def check_file(self) -> None:
        """Raise `EngineUnavailable` if it is closed, or was deleted or replaced.

        That it is in its place holds for `FILE_CHECK` seconds for who reads; who writes makes sure each time.
        """
        if not self.is_open:
            raise EngineUnavailable(f"{KIND.what} at {self.path} is closed", remedy="open the engine first")
        now = monotonic()
        if now < self._in_place:
            return
        if self.same.moved():
            message, remedy = replaced_words()
            raise EngineUnavailable(f"{KIND.what} at {self.path} {message}", remedy=remedy)
        self._in_place = now + FILE_CHECK

    def topic(self, name: str) -> TopicState | None:
        """The topic, loaded anew when something has been committed since."""
        state = self._topics.get(name)
        if state is not None and state.epoch == self._epoch:
            return state
        connection = self._reading if self._writer.committing else self._writing
        head = connection.execute(SQL["topic"], (name,)).fetchall()
        if not head:
            self._topics.pop(name, None)
            return None
        counts: dict[int, int] = {}
        parts: list[Part] = []
        for serial, generation, number, low, following, time, clean_to in connection.execute(
            SQL["partitions"], (name,)
        ):
            counts[generation] = number + 1
            part = self._known(serial, Partition(name, generation, number))
            part.low, part.next, part.time, part.gaps = low, following, time, clean_to > 0
            parts.append(part)
        incarnation, retention, retention_bytes, compacted, goes_on = cast(
            "tuple[str, float | None, int | None, int, str | None]", head[0]
        )
        generations = tuple(Generation(number, count) for number, count in counts.items())
        log = Log(name, incarnation, generations, goes_on is not None, goes_on or "")
        last = [part for part in parts if part.key.generation == log.generations[-1].number]
        state = TopicState(log, (retention, retention_bytes, bool(compacted)), last, self._epoch)
        self._topics[name] = state
        return state

    def _known(self, serial: int, key: Partition) -> Part:
        found = self._parts.get(key)
        part = Part(serial, key) if found is None else found[0]
        self._parts[key] = (part, self._epoch)
        return part

    def part(self, key: Partition) -> Part:
        """The partition as of the last look. Raises `GroupStopped` if the log does not have it."""
        found = self._parts.get(key)
        if found is None or found[1] != self._epoch:
            self.topic(key.topic)
            found = self._parts.get(key)
            if found is None or found[1] != self._epoch:
                raise no_such_partition(key)
        return found[0]

    # Reading and writing.

    async def reading(self, attempt: Callable[[], T]) -> T:
        """The answer of a read, tried again while the file is busy. Raises `EngineUnavailable` with the diagnosis."""
        try:
            return attempt()
        except apsw.Error as error:
            failure = error
        if is_busy(failure):
            try:
                return await patiently(attempt, limit=self._options.lock_limit)
            except apsw.Error as error:
                failure = error
        found = diagnose(failure, self.path, KIND.what)
        raise EngineUnavailable(found.message, remedy=found.remedy) from failure

    async def write(self, work: Callable[[], T], *, weight: int = 1) -> T:
        """The answer of a piece of work, when it is durable. Raises `NotWritten` or `MaybeWritten`."""
        if not self.is_open:
            raise EngineUnavailable(f"{KIND.what} at {self.path} is closed", remedy="open the engine first")
        return await self._writer.run(work, weight=weight)

    def execute(self, name: str, args: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Run a named statement in the transaction of a piece of work."""
        return self._writing.execute(SQL[name], args).fetchall()

    def select(self, name: str, args: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows of a named statement, as committed."""
        return self._reading.execute(SQL[name], args).fetchall()

    def each(self, name: str, args: tuple[object, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """The same, one after another."""
        return iter(self._reading.execute(SQL[name], args))

    def append(self, topic: str, envelopes: Sequence[Envelope]) -> str:
        """A piece of work: hand envelopes to the transaction, which writes those of all appends together.

        The words of a log that is sealed, and takes none; "" otherwise.
        """
        state = self.topic(topic)
        if state is None:
            raise no_such_topic(topic)
        if state.log.sealed:
            return sealed_words(state.log)
        last, pending = state.last, self._pending
        count = len(last)
        if count == 1:
            pending.setdefault(last[0], []).extend(envelopes)
            return ""
        runs: defaultdict[int, list[Envelope]] = defaultdict(list)
        for envelope in envelopes:
            runs[envelope.slot % count].append(envelope)
        for number, run in runs.items():
            known = pending.setdefault(last[number], run)
            if known is not run:
                known += run
        return ""

    def forget(self) -> None:
        """What is known may be wrong: load it anew. In a piece of work, once more when that is committed.

        While it is being committed, who looks is still shown what was before.
        """
        self._epoch += 1
        self._again = True

    def _begun(self) -> None:
        self._pending = {}
        self._stored = []
        self._look()

    def _look(self) -> bool:
        ((version,),) = self._writing.execute("pragma data_version")
        if version == self._version:
            return False
        self._version = version
        self._epoch += 1
        self._changed()
        return True

    def _look_aside(self) -> bool:
        """The same through the other connection, while this one is busy in a thread."""
        ((version,),) = self._reading.execute("pragma data_version")
        if version == self._version_aside:
            return False
        self._version_aside = version
        self._epoch += 1
        self._changed()
        return True

    def _finish(self) -> None:
        if not self._pending:
            return
        now = self.clock.now()
        rows = []
        counters = []
        for part, envelopes in self._pending.items():
            time, offset, size, packs = max(now, part.time), part.next, 0, []
            for run, oldest, body in bodies(envelopes):
                row, last = part.serial << OFFSET_BITS | offset, offset + len(run) - 1
                rows.append((row, last, len(run), time, oldest, body))
                packs.append((row, Pack(offset, last, range(offset, last + 1), run, len(body))))
                offset, size = last + 1, size + len(body)
            counters.append((part.serial, offset, time, size))
            self._stored.append((part, offset, time, packs))
        self._writing.executemany(SQL["add_pack"], rows)
        self._writing.executemany(SQL["appended"], counters)

    def _ended(self, stored: bool) -> None:
        if not stored:
            self._topics.clear()
        if self._again or not stored:
            self.forget()
            self._again = False
        if not stored:
            return
        for part, following, time, packs in self._stored:
            part.next, part.time = following, time
            for row, pack in packs if self.reader.cache.asked else ():
                self.reader.cache.put(row, pack)
        self._pending, self._stored = {}, []
        self._changed()
        self._checkpointer.consider()
