"""Settings: where things live. Facts of an application stand in its code, places here.

Sources in rising precedence: defaults, `[tool.evenflow]` in the nearest pyproject.toml that has it, `EVENFLOW_…` in
the environment, overrides. Each value remembers its source. Relative paths go from the file that states them, or from
the working directory. In the environment a name is written in capitals, with `_` for `.` and `-`:
`EVENFLOW_STORES__BILLING`, `EVENFLOW_TOPICS__ORDER_LINES__NAME`.

`engine` is where topics are made. More engines have names (`EVENFLOW_ENGINES__CLICKS=…`); a topic may be made in one of
them (`EVENFLOW_TOPICS__PAGES__ENGINE=clicks`, or a URL). A topic that is in one of the engines already stays there
until it is moved.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from evenflow.errors import SettingsError
from evenflow.settings_sources import (
    FIELDS,
    MEMORY_ENGINE,
    MEMORY_STORE,
    PREFIX,
    SERVICE,
    SHARED,
    TABLES,
    Raw,
    SettingPath,
    collect,
    env_name,
    masked,
    sqlite_url,
    suggestion,
)


class Setting(NamedTuple):
    """One value with where it came from. Passwords and tokens in it are masked."""

    name: str
    value: str | float
    origin: str


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Where an application's engines, stores and topics are, and how much it may use. Made by `Settings.load`.

    folder           where the embedded engine and stores keep their files
    engine           URL of the engine: `sqlite:///relative.db`, `sqlite:////absolute.db`, `memory:`
    store            URL of a service's store, with `{service}` for its name; `sqlite::memory:` keeps nothing
    registry         URL of the schema registry, where a topic's codec needs one; `memory:` takes every schema
    group_prefix     stands before every group name on the engine
    topic_prefix     stands before every topic name on the engine, but for those that `topics` names
    lease            seconds without a sign of life after which another process takes over
    drain            seconds that a stop may take
    max_event_bytes  an event larger than this is refused at publish
    outbox_events, outbox_bytes   what an outbox may hold while the engine is away
    """

    folder: Path
    engine: str
    store: str
    registry: str
    group_prefix: str
    topic_prefix: str
    lease: float
    drain: float
    max_event_bytes: int
    outbox_events: int
    outbox_bytes: int
    _found: Mapping[SettingPath, Raw]

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, Any] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Settings:
        """Read all sources. An override that is None counts as not given. Raises `SettingsError`."""
        here = Path(cwd if cwd is not None else ".").absolute()
        found, root = collect(overrides or {}, os.environ if env is None else env, here)
        settings = cls(**_with_defaults(found, root), _found=found)
        for path, raw in found.items():
            if path[0] == "topics" and path[-1] == "engine":
                settings.engine_at(str(raw.value), raw.origin)
        return settings

    def engine_url(self, topic: str | None = None) -> str:
        """The engine that this topic is made in, or the default one."""
        own = None if topic is None else self._own("topics", topic, "engine")
        return self.engine if own is None else self.engine_at(str(own.value), own.origin)

    def engine_at(self, place: str, origin: str = "") -> str:
        """The URL of an engine by its name, or by its URL. Raises `SettingsError` for a name that none has."""
        if ":" in place:
            return place
        own = self._own("engines", place)
        if own is None:
            known = sorted({path[1].lower() for path in self._found if path[0] == "engines"})
            hint = suggestion(place, known) or f"known: {', '.join(known) or 'none'}"
            remedy = f"{hint}; {PREFIX}ENGINES__{env_name(place)}=its URL gives one this name"
            raise SettingsError(f"there is no engine {place!r}", origin=origin, remedy=remedy)
        return str(own.value)

    def engine_urls(self) -> list[str]:
        """All engines that are named, each once: the default one, those with names, those of single topics."""
        named = [(path, raw) for path, raw in sorted(self._found.items()) if path[0] in ("engines", "topics")]
        urls = [self._own("engines", path[1]) for path, _ in named if path[0] == "engines"]
        own = [self.engine_url(path[1]) for path, _ in named if path[0] == "topics"]
        return list(dict.fromkeys([self.engine, *(str(raw.value) for raw in urls if raw is not None), *own]))

    def topic_name(self, topic: str) -> str:
        """The physical name of this topic on its engine."""
        own = self._own("topics", topic, "name")
        return self.topic_prefix + topic if own is None else str(own.value)

    def store_url(self, service: str) -> str:
        """The store of this service."""
        own = self._own("stores", service)
        return str(self.store if own is None else own.value).replace(SERVICE, service)

    def group_name(self, group: str) -> str:
        """The name of this group on the engine."""
        return self.group_prefix + group

    def origins(self) -> list[Setting]:
        """Every value with where it came from."""
        shown = [Setting(name, _shown(getattr(self, name)), self._origin(name)) for name in FIELDS]
        named = sorted((path, raw) for path, raw in self._found.items() if path[0] in TABLES)
        return shown + [Setting(".".join(path).lower(), _shown(raw.value), raw.origin) for path, raw in named]

    def check_names(self, services: Iterable[str], topics: Iterable[str]) -> list[str]:
        """Compare with the names that the application has; returns a line for each setting that is for none of them.

        Raises `SettingsError` where one setting is for two of them, where two topics would be one on their engine, or
        two services one in their store, and for what looks like a slip: a name close to one that is not set itself,
        whose data would go elsewhere unseen.
        """
        known = {"stores": sorted(set(services)), "topics": sorted(set(topics))}
        self._check_physical(known["topics"])
        self._check_stores(known["stores"])
        unused = []
        for path, raw in sorted(self._found.items()):
            names = known.get(path[0], [path[-1]])
            fitting = [name for name in names if path[0] not in known or path[1] in (name, env_name(name))]
            if len(fitting) > 1:
                raise SettingsError(
                    f"one setting is for {' and '.join(map(repr, fitting))}",
                    origin=raw.origin,
                    remedy="set them by their exact names in pyproject.toml",
                )
            if not fitting:
                what = "topic" if path[0] == "topics" else "service"
                near = suggestion(path[1].lower(), [name for name in names if not self._own(path[0], name, *path[2:])])
                if near:
                    raise SettingsError(f"there is no {what} {path[1].lower()!r}", origin=raw.origin, remedy=near)
                unused.append(f"there is no {what} for {raw.origin}; known: {', '.join(names) or 'none'}")
        return unused

    def _check_stores(self, services: list[str]) -> None:
        places: dict[str, str] = {}
        for service in services:
            url = self.store_url(service)
            if SHARED.match(url) and url in places:
                own = self._own("stores", service) or self._own("stores", places[url])
                raise SettingsError(
                    f"the services {places[url]!r} and {service!r} would share the store {masked(url)}",
                    origin="" if own is None else own.origin,
                    remedy="give each a file, or a schema, of its own",
                )
            places[url] = service

    def _check_physical(self, topics: list[str]) -> None:
        places: dict[str, str] = {}
        for topic in topics:
            place = self.topic_name(topic)
            if place in places:
                own = self._own("topics", topic, "name") or self._own("topics", places[place], "name")
                raise SettingsError(
                    f"the topics {places[place]!r} and {topic!r} would both be {place!r} on their engine",
                    origin="" if own is None else own.origin,
                    remedy="give each a name of its own, on whatever engine: a topic may move to another one",
                )
            places[place] = topic

    def _own(self, table: str, name: str, *rest: str) -> Raw | None:
        """What was set for this name: exactly, or as the environment writes it; the later source wins."""
        exact = self._found.get((table, name, *rest))
        folded = self._found.get((table, env_name(name), *rest))
        if exact is None or folded is None:
            return exact or folded
        return max(exact, folded, key=lambda raw: raw.rank)

    def _origin(self, name: str) -> str:
        raw = self._found.get((name,))
        if raw is not None:
            return raw.origin
        if (name, getattr(self, name)) in (("store", MEMORY_STORE), ("registry", MEMORY_ENGINE)):
            return f"default, since the engine is {MEMORY_ENGINE}"
        return "default"

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value, _ in self.origins())})"


def _with_defaults(found: Mapping[SettingPath, Raw], root: Path) -> dict[str, Any]:
    values = {name: found[(name,)].value if (name,) in found else field.default for name, field in FIELDS.items()}
    folder = root / values["folder"]
    values["folder"] = folder
    if values["engine"] is None:
        values["engine"] = sqlite_url(folder / "log.db")
    if values["store"] is None:
        lasting = f"{sqlite_url(folder)}/{SERVICE}.db"
        values["store"] = MEMORY_STORE if values["engine"] == MEMORY_ENGINE else lasting
    if values["registry"] is None:
        values["registry"] = MEMORY_ENGINE if values["engine"] == MEMORY_ENGINE else ""
    return values


def _shown(value: Any) -> str | float:
    return value if isinstance(value, int | float) else masked(str(value))
