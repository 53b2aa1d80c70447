"""From a URL to an engine or a store: the one place that knows which there are. Each is imported when it is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, unquote, urlencode

from evenflow.clock import Clock
from evenflow.codecs.schemas import Schemas
from evenflow.engine import Engine
from evenflow.errors import EngineUnavailable, MissingExtra, SettingsError
from evenflow.settings_sources import MEMORY_ENGINE, MEMORY_STORE, masked, suggestion
from evenflow.store import Store

if TYPE_CHECKING:
    from evenflow.drivers.postgres.there import There
    from evenflow.engines.kafka.options import Address, KafkaOptions

LATER = {
    "redis": "Redis",
    "nats": "NATS",
    "amqp": "RabbitMQ",
}
"""Engines that this version does not have yet."""
_OTHER_NAMES = {"rabbitmq": "amqp", "sqlite3": "sqlite"}

_UNNAMED = {("store", "memory"), ("store", "postgres"), ("engine", "postgres")}
"""What is understood and not told: what is no place for that, and second names."""

O = TypeVar("O")  # noqa: E741  # options
Random = Callable[[int], bytes]


class Url(NamedTuple):
    """The parts of a URL. `options` are those of its query."""

    scheme: str
    rest: str
    options: Mapping[str, str]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteStoreOptions:
    """driver: the copy of SQLite that opens the file, "sqlite3" where the team's own code opens it too.
    wait: seconds to wait for another process's lock.
    allow_unsafe: what is taken on the user's own risk: "network" (a network file system).
    """

    driver: Literal["apsw", "sqlite3"] = "apsw"
    wait: float = 30.0
    allow_unsafe: frozenset[str] = frozenset()


def make_engine(url: str, clock: Clock, *, random: Random = os.urandom) -> Engine:
    """The engine of this URL, not opened. Raises `SettingsError`."""
    return _chosen(url, "engine", ENGINES)(parse(url), clock, random)


def make_store(url: str, service: str, clock: Clock) -> Store:
    """The store of this URL for a service, not opened. Raises `SettingsError`."""
    return _chosen(url, "store", STORES)(parse(url), service, clock)


def make_schemas(url: str) -> Schemas:
    """The schema registry of this URL. Raises `SettingsError`."""
    parts = parse(url)
    if parts.scheme == "memory":
        from evenflow.codecs.schemas import MemorySchemas

        return MemorySchemas()
    from evenflow.codecs.schema_registry import SchemaRegistry, SchemaRegistryOptions

    return SchemaRegistry(f"{parts.scheme}:{parts.rest}", options(SchemaRegistryOptions, parts))


def _memory_engine(url: Url, clock: Clock, random: Random) -> Engine:
    from evenflow.engines.memory import MemoryEngine

    if url.rest or url.options:
        raise SettingsError(f"{masked(url.text)} takes no path and no options", remedy=f"write {MEMORY_ENGINE}")
    return MemoryEngine(clock, random=random)


def _sqlite_engine(url: Url, clock: Clock, random: Random) -> Engine:
    from evenflow.engines.sqlite.engine import SqliteEngine, SqliteOptions

    if url.rest == ":memory:":
        raise SettingsError("sqlite::memory: is a store, not an engine", remedy=f"write {MEMORY_ENGINE}")
    return SqliteEngine(_path(url), clock, options(SqliteOptions, url), random=random)


def _kafka_engine(url: Url, clock: Clock, random: Random) -> Engine:  # noqa: ARG001  # the brokers give out ids
    brokers, chosen = kafka_parts(url.text)
    from evenflow.engines.kafka.engine import KafkaEngine

    return KafkaEngine(brokers, clock, chosen)


def kafka_parts(url: str) -> tuple[Address, KafkaOptions]:
    """Brokers and options of a URL of Kafka. Raises `SettingsError`."""
    from evenflow.engines.kafka.options import KafkaOptions, address

    parts = parse(url)
    return address(parts.rest, masked(url)), options(KafkaOptions, parts)


def _sqlite_store(url: Url, service: str, clock: Clock) -> Store:
    from evenflow.stores.sqlite.store import SqliteStore

    chosen = options(SqliteStoreOptions, url)
    location = url.rest if url.rest == ":memory:" else _path(url)
    return SqliteStore(
        location,
        clock,
        driver=chosen.driver,
        name=service,
        wait=chosen.wait,
        allow_network="network" in chosen.allow_unsafe,
    )


def _postgres_store(url: Url, service: str, clock: Clock) -> Store:
    try:
        from evenflow.stores.postgres.store import PostgresStore, PostgresStoreOptions
    except ModuleNotFoundError as error:
        raise MissingExtra(f"a store on PostgreSQL ({masked(url.text)})", extra="postgres") from error
    chosen, conninfo = _postgres_parts(PostgresStoreOptions, url)
    return PostgresStore(conninfo, clock, chosen, name=service)


def _memory_store(url: Url, service: str, clock: Clock) -> Store:  # noqa: ARG001  # one shape for all
    raise SettingsError(f"{masked(url.text)} is an engine, not a store of {service!r}", remedy=f"write {MEMORY_STORE}")


def _postgres_engine(url: Url, clock: Clock, random: Random) -> Engine:
    try:
        from evenflow.engines.postgres.engine import PostgresEngine, PostgresOptions
    except ModuleNotFoundError as error:
        raise MissingExtra(f"an engine on PostgreSQL ({masked(url.text)})", extra="postgres") from error
    chosen, conninfo = _postgres_parts(PostgresOptions, url)
    return PostgresEngine(conninfo, clock, chosen, random=random)


def _postgres_parts(kind: type[O], url: Url) -> tuple[O, Mapping[str, object]]:
    """Our own options of a URL, and the parts of it that are libpq's. Raises `SettingsError`."""
    from evenflow.drivers.postgres.place import conninfo_of, libpq_options

    own = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    for name in url.options.keys() - own - libpq_options():
        there = _postgres_options().get(name)
        hint = f"it is an option of {'a store' if 'store' in there else 'an engine'}" if there else ""
        known = sorted(own | libpq_options())
        hint = hint or suggestion(name, known) or f"known: {', '.join(sorted(own))}, and libpq's own"
        raise SettingsError(f"{masked(url.text)} has the unknown option {name!r}", remedy=hint)
    ours = {name: value for name, value in url.options.items() if name in own}
    theirs = {name: value for name, value in url.options.items() if name not in own}
    chosen = options(kind, url._replace(options=ours))
    return chosen, conninfo_of(_text("postgresql", url.rest, theirs), masked(url.text))


async def postgres_there(url: str) -> There:
    """The schemas of a database that are ours. Raises `SettingsError`, and `EngineUnavailable` with the remedy."""
    conninfo = postgres_conninfo(url)
    from evenflow.drivers.postgres.errors import PostgresError, connect_remedy
    from evenflow.drivers.postgres.there import there

    try:
        return await there(conninfo)
    except PostgresError as error:
        remedy = error.remedy or connect_remedy(error.message)
        raise EngineUnavailable(f"{masked(url)} cannot be reached: {error.message}", remedy=remedy) from error


def postgres_conninfo(url: str) -> Mapping[str, object]:
    """The parts of a URL that are libpq's, of an engine or a store. Raises `SettingsError`."""
    try:
        from evenflow.drivers.postgres.place import conninfo_of
    except ModuleNotFoundError as error:
        raise MissingExtra(f"PostgreSQL ({masked(url)})", extra="postgres") from error
    parts, ours = parse(url), _postgres_options()
    theirs = {name: value for name, value in parts.options.items() if name not in ours}
    return conninfo_of(_text("postgresql", parts.rest, theirs), masked(url))


def with_schema(url: str, kind: Literal["engine", "store"], schema: str) -> str:
    """A URL of PostgreSQL for a schema, empty for the usual one, without options that only the other kind has."""
    parts, known = parse(url), _postgres_options()
    kept = {name: value for name, value in parts.options.items() if kind in known.get(name, (kind,))}
    kept.pop("schema", None)
    return _text(parts.scheme, parts.rest, {**kept, "schema": schema} if schema else kept)


def _postgres_options() -> dict[str, list[str]]:
    """Our own options, and for which kind each is."""
    from evenflow.engines.postgres.engine import PostgresOptions
    from evenflow.stores.postgres.store import PostgresStoreOptions

    found: dict[str, list[str]] = {}
    for kind, made in (("engine", PostgresOptions), ("store", PostgresStoreOptions)):
        for each in fields(made):
            found.setdefault(each.name, []).append(kind)
    return found


def _text(scheme: str, rest: str, query: Mapping[str, str]) -> str:
    return f"{scheme}:{rest}" + (f"?{urlencode(query)}" if query else "")


ENGINES: Mapping[str, Callable[[Url, Clock, Random], Engine]] = {
    "postgresql": _postgres_engine,
    "postgres": _postgres_engine,
    "sqlite": _sqlite_engine,
    "kafka": _kafka_engine,
    "memory": _memory_engine,
}
STORES: Mapping[str, Callable[[Url, str, Clock], Store]] = {
    "postgresql": _postgres_store,
    "postgres": _postgres_store,
    "sqlite": _sqlite_store,
    "memory": _memory_store,
}

F = TypeVar("F")


def _chosen(url: str, what: str, known: Mapping[str, F]) -> F:
    scheme = url.partition(":")[0]
    if scheme in known:
        return known[scheme]
    names = ", ".join(name for name in known if (what, name) not in _UNNAMED)
    if scheme in LATER:
        raise SettingsError(
            f"{LATER[scheme]} ({masked(url)}) is not supported yet: its {what} comes in a later version",
            remedy=f"this version has {names}",
        )
    near = _OTHER_NAMES.get(scheme)
    hint = f"did you mean {near}?" if near else suggestion(scheme, [*known, *LATER])
    raise SettingsError(
        f"{masked(url)!r} is no URL of {'an' if what == 'engine' else 'a'} {what} that is known",
        remedy=f"{hint} this version has {names}".strip(),
    )


def parse(url: str) -> Url:
    """Take a URL apart. Raises `SettingsError` for an option that is given twice or empty."""
    scheme, _, tail = url.partition(":")
    rest, _, query = tail.partition("?")
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in given or not value:
            raise SettingsError(f"the option {name!r} of {masked(url)} is {'given twice' if value else 'empty'}")
        given[name] = value
    return Url(scheme, rest, given, url)


def options(kind: type[O], url: Url) -> O:
    """The options dataclass of an engine or store, from the URL's query. Raises `SettingsError`."""
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind) if each.default is not MISSING]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, text in url.options.items():
        if name not in known:
            hint = suggestion(name, known) or f"known: {', '.join(known)}"
            raise SettingsError(f"{masked(url.text)} has the unknown option {name!r}", remedy=hint)
        try:
            values[name] = _value(hints[name], text)
        except ValueError as error:
            raise SettingsError(f"the option {name!r} of {masked(url.text)} is {text!r}", remedy=str(error)) from None
    return kind(**values)


def _value(hint: Any, text: str) -> Any:
    """A text as a value of this type. Raises `ValueError` that says what is wanted."""
    if get_origin(hint) is Literal:
        if text not in get_args(hint):
            raise ValueError(f"use {' or '.join(get_args(hint))}")
        return text
    if get_origin(hint) is frozenset:
        return frozenset(part for part in text.split(",") if part)
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError("use true or false")
        return text == "true"
    if hint in (int, float):
        try:
            number = hint(text)
        except ValueError:
            number = -1
        if not 0 <= number < 1e15:
            raise ValueError("use a number, not below 0")
        return number
    return text


def _path(url: Url) -> str:
    """The file of a SQLite URL: `sqlite:///relative`, `sqlite:////absolute`."""
    path = unquote(url.rest.removeprefix("///"))
    if not url.rest.startswith("///") or not path or path.endswith("/"):
        raise SettingsError(
            f"{masked(url.text)} names no file", remedy="write sqlite:///relative.db, or sqlite:////absolute.db"
        )
    return path
