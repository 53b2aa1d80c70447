"""Where the conformance suite works at a user's server: in places of its own, which are removed when it ends."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from evenflow.clock import SystemClock
from evenflow.engine import Engine
from evenflow.errors import EvenflowError, Refused
from evenflow.ids import new_id
from evenflow.places import kafka_parts, make_engine, make_store, parse, postgres_conninfo, with_schema
from evenflow.store import Store

Kind = Literal["engine", "store"]
_PATIENTLY = ("begin", "set local lock_timeout = '10s'")


class Ground(ABC):
    """One server or folder. What was made there is removed by `clear`. `topics`, `groups`: how their names begin."""

    leaves = ""
    """What stays, in words."""

    def __init__(self, url: str, kind: Kind) -> None:
        self.url = url
        self.kind: Kind = kind
        self.topics: set[str] = set()
        self.groups: set[str] = set()
        self.cleared = False

    @abstractmethod
    def fresh(self) -> str:
        """The URL of a place that is empty, or where nobody has our names."""

    @abstractmethod
    async def clear(self) -> None:
        """Remove everything of ours."""

    async def wipe(self, url: str) -> None:
        """Remove one place."""
        raise NotImplementedError(url)

    @property
    def wipes(self) -> bool:
        """Whether one place can be removed alone."""
        return type(self).wipe is not Ground.wipe


class Nowhere(Ground):
    """Memory."""

    def fresh(self) -> str:
        return self.url

    async def clear(self) -> None:
        pass


class Folder(Ground):
    """A folder beside the file, so on the same disk."""

    def __init__(self, url: str, kind: Kind) -> None:
        super().__init__(url, kind)
        beside = Path(parse(url).rest.removeprefix("///")).absolute().parent
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=".evenflow-check-", dir=beside))
        except OSError as error:
            raise Refused(f"no folder can be made in {beside}: {error.strerror}", remedy="correct the URL") from error
        self._count = 0

    def fresh(self) -> str:
        self._count += 1
        query = self.url.partition("?")[2]
        return f"sqlite:///{self._folder}/{self._count}.db" + (f"?{query}" if query else "")

    async def wipe(self, url: str) -> None:
        file = Path(parse(url).rest.removeprefix("///"))
        for each in self._folder.glob(f"{file.name}*"):
            each.unlink()

    async def clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class Database(Ground):
    """Schemas of our own in the user's database."""

    def __init__(self, url: str, kind: Kind) -> None:
        super().__init__(url, kind)
        self._made: list[str] = []
        self._name = f"evenflow_check_{new_id().replace('-', '')[-12:]}"

    def fresh(self) -> str:
        self._made.append(f"{self._name}_{self.kind[0]}{len(self._made)}")
        return with_schema(self.url, self.kind, self._made[-1])

    async def wipe(self, url: str) -> None:
        await self._drop([parse(url).options["schema"]])

    async def clear(self) -> None:
        await self._drop(self._made)
        self._made.clear()

    async def _drop(self, schemas: list[str]) -> None:
        from evenflow.drivers.postgres.errors import PostgresError, connect_remedy
        from evenflow.drivers.postgres.link import Link
        from evenflow.drivers.postgres.place import PostgresPlace

        try:
            link = await Link.connect(PostgresPlace(postgres_conninfo(self.url), "evenflow conformance"))
            try:
                for each in schemas:
                    drop = f'drop schema if exists "{each}" cascade'
                    await link.run([(drop, ())], before=_PATIENTLY, after=("commit",))
            finally:
                link.close()
        except PostgresError as error:
            remedy = error.remedy or connect_remedy(error.message)
            names = ", ".join(schemas)
            raise EvenflowError(f"these schemas may be left behind: {names}: {error.message}", remedy=remedy) from error


class Brokers(Ground):
    """Topics and groups of our own."""

    leaves = "but for the topic evenflow--marks, which all apps on the cluster share"

    def fresh(self) -> str:
        return self.url

    async def wipe(self, url: str) -> None:
        from evenflow.engines.kafka.remove import remove

        await remove(*kafka_parts(url), self.topics, ())

    async def clear(self) -> None:
        from evenflow.engines.kafka.remove import remove

        if not self.topics:
            return
        try:
            await remove(*kafka_parts(self.url), self.topics, self.groups)
        except EvenflowError as error:
            left = f"topics and groups that begin with check. may be left behind: {error.message}"
            raise EvenflowError(left, remedy=error.remedy) from error


def ground_of(url: str, kind: Kind) -> Ground:
    """The ground at this URL. Raises `SettingsError`."""
    (make_engine(url, SystemClock()) if kind == "engine" else make_store(url, "check", SystemClock()))
    scheme, rest = parse(url)[:2]
    if scheme == "memory" or rest == ":memory:":
        return Nowhere(url, kind)
    return {"sqlite": Folder, "kafka": Brokers}.get(scheme, Database)(url, kind)


class EngineAt:
    """A factory of engines for the suite, which notes what they make."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._url = ground.fresh()
        if ground.wipes:
            self.wipe = self._wipe

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Engine]:
        engine = make_engine(self._url, SystemClock())
        await engine.open()
        try:
            noted: Any = _Noted(engine, self._ground)
            yield noted
        finally:
            await engine.close()

    async def _wipe(self) -> None:
        await self._ground.wipe(self._url)


class StoreAt:
    """A factory of stores on one database of their own."""

    def __init__(self, ground: Ground) -> None:
        self._url = ground.fresh()

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Store]:
        store = make_store(self._url, "check", SystemClock())
        await store.open()
        try:
            yield store
        finally:
            await store.close()


class _Noted:
    """An engine whose topics and groups are written down."""

    def __init__(self, engine: Engine, ground: Ground) -> None:
        self._engine = engine
        self._ground = ground

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def declare(self, topic: Any, **more: Any) -> Any:
        self._ground.topics.add(topic.name)
        return await self._engine.declare(topic, **more)

    async def told(self, group: str, store: str, positions: Any) -> None:
        self._ground.groups.add(group)
        await self._engine.told(group, store, positions)
