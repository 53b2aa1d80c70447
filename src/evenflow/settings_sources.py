"""Sources of settings: pyproject.toml, the environment, overrides; read and checked, each value with its origin."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from evenflow.errors import SettingsError
from evenflow.ids import NAME_LIMIT, NAME_RULE, OTHERS_RULE, is_name, is_topic_of_others

PREFIX = "EVENFLOW_"
MEMORY_ENGINE = "memory:"
MEMORY_STORE = "sqlite::memory:"
SERVICE = "{service}"
PER_TOPIC = ("engine", "name")

_URL = re.compile(r"[a-z][a-z0-9+.-]*:.*", re.DOTALL)
SHARED = re.compile(r"sqlite:(?!:memory:)|postgres(ql)?:.*[?&]schema=", re.DOTALL)
_GROUP_PREFIX = re.compile(r"(?:[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*[._-]?)?")
_PASSWORD = re.compile(r"(?<=://)([^:/?#@]*:).*@", re.DOTALL)
_KUBERNETES = re.compile(r"_(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_.+)?)?)$")
_TOKEN = re.compile(r"^(nats://)[^:/?#@]+@")
_SECRET_OPTION = re.compile(r"([?&][^=&]*(?:pass|secret|token|credential|key)[^=&]*=)[^&]*", re.IGNORECASE)


class Field(NamedTuple):
    kind: str
    default: Any
    low: float = 0


FIELDS: dict[str, Field] = {
    "folder": Field("path", ".evenflow"),
    "engine": Field("url", None),
    "store": Field("url", None),
    "registry": Field("url", None),
    "group_prefix": Field("prefix", ""),
    "topic_prefix": Field("prefix", ""),
    "lease": Field("seconds", 10.0, 0.1),
    "drain": Field("seconds", 30.0),
    "max_event_bytes": Field("count", 1 << 20, 1),
    "outbox_events": Field("count", 1_000_000, 1),
    "outbox_bytes": Field("count", 1 << 30, 1),
}
TABLES = ("stores", "topics", "engines")
_KINDS = {("topics", "name"): "topic", ("topics", "engine"): "engine"}
NOT_OURS = ("app",)
"""What the command line alone reads: which app it is about."""
_WANTED = {
    "path": "a folder",
    "url": "a URL such as 'sqlite:///log.db'",
    "engine": "a URL, or the name of one of `engines`",
    "prefix": "small letters and digits, parted by '.', '-' or '_'",
    "topic": f"{NAME_RULE}; {OTHERS_RULE}",
}

SettingPath = tuple[str, ...]


class Raw(NamedTuple):
    """A value as a source states it. `rank` rises with the precedence; `base` is where its relative paths begin."""

    value: Any
    origin: str
    rank: int
    base: Path


def masked(url: str) -> str:
    """The URL without its secrets, to be shown. Rather hides too much than too little."""
    url = _TOKEN.sub(r"\1***@", _PASSWORD.sub(r"\1***@", url))
    return _SECRET_OPTION.sub(r"\1***", url)


def env_name(name: str) -> str:
    """How the environment writes the name of a service or topic."""
    return name.upper().replace(".", "_").replace("-", "_")


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """A question that names what is close, or empty when nothing is."""
    close = get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def collect(overrides: Mapping[str, Any], env: Mapping[str, str], here: Path) -> tuple[dict[SettingPath, Raw], Path]:
    """What all sources state, the stronger over the weaker, and where the default folder stands."""
    found: dict[SettingPath, Raw] = {}
    root = here
    file = _pyproject(here)
    if file is not None:
        root = file[0].parent
        where = f"{os.path.relpath(file[0], here)} [tool.evenflow]"
        found.update(_from_table(file[1], where, rank=1, base=root))
    found.update(_from_env(env, here))
    found.update(_from_table(overrides, "override", rank=3, base=here))
    return {path: raw._replace(value=_checked(path, raw)) for path, raw in found.items()}, root


# -- sources ---------------------------------------------------------------------------------------------------------


def _pyproject(start: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The nearest pyproject.toml, from here upward, that has the table."""
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        try:
            table = tomllib.loads(file.read_text("utf-8")).get("tool", {}).get("evenflow")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise SettingsError(f"{file} cannot be read: {error}", remedy="mend the file") from error
        if table is not None:
            return file, _as_table(table, f"{file} [tool.evenflow]")
    return None


def _from_table(table: Mapping[str, Any], where: str, *, rank: int, base: Path) -> Iterator[tuple[SettingPath, Raw]]:
    for name, value in table.items():
        if name in NOT_OURS and where != "override":
            continue
        origin = where if where == "override" else f"{where} {name}"
        if name not in FIELDS and name not in TABLES:
            raise _unknown(name, (*FIELDS, *TABLES), origin)
        for path, leaf in _leaves((name,), value, origin):
            if leaf is not None:
                place = where if where == "override" else f"{where} {'.'.join(path)}"
                yield path, Raw(leaf, place, rank, base)


def _leaves(path: SettingPath, value: Any, origin: str) -> Iterator[tuple[SettingPath, Any]]:
    depth = {"stores": 2, "engines": 2, "topics": 3}.get(path[0], 1)
    if len(path) == depth:
        yield path, value
        return
    for name, inner in _as_table({} if value is None else value, origin).items():
        if len(path) == 1 and not is_name(name):
            raise SettingsError(f"{name!r} is no name of a {path[0][:-1]}", origin=origin, remedy=f"use {NAME_RULE}")
        if len(path) == 2 and name not in PER_TOPIC:
            raise _unknown(name, PER_TOPIC, origin)
        yield from _leaves((*path, name), inner, origin)


def _as_table(value: Any, origin: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingsError(f"a table is wanted, not {value!r}", origin=origin)
    return value


def _from_env(env: Mapping[str, str], base: Path) -> Iterator[tuple[SettingPath, Raw]]:
    for key in sorted(env):
        ours = key.startswith(PREFIX) and key.removeprefix(PREFIX).lower() not in NOT_OURS
        if ours and not _KUBERNETES.search(key):
            yield _env_path(key), Raw(env[key], key, 2, base)


def _env_path(key: str) -> SettingPath:
    """The path of a variable. A service or topic stays in capitals, which no exact name has."""
    first, *rest = key.removeprefix(PREFIX).split("__")
    name = first.lower()
    if first == name.upper() and name in FIELDS and not rest:
        return (name,)
    if first in ("STORES", "ENGINES") and len(rest) == 1 and _is_env_name(rest[0]):
        return (first.lower(), rest[0])
    if first == "TOPICS" and len(rest) == 2 and _is_env_name(rest[0]) and rest[1].lower() in PER_TOPIC:
        return ("topics", rest[0], rest[1].lower())
    name = rest[0] if rest and rest[0] else ""
    known = [field.upper() for field in FIELDS]
    known += [f"STORES__{name or 'SERVICE'}", f"ENGINES__{name or 'ENGINE'}"]
    known.extend(f"TOPICS__{name or 'TOPIC'}__{each.upper()}" for each in PER_TOPIC)
    close = get_close_matches(key.removeprefix(PREFIX).upper(), known, n=1)
    hint = f"did you mean {PREFIX}{close[0]}?" if close else f"known: {', '.join(PREFIX + each for each in known)}"
    raise SettingsError(f"{key} is not a setting", origin="the environment", remedy=hint)


def _is_env_name(text: str) -> bool:
    return len(text) <= NAME_LIMIT and text == text.upper() and is_name(text.lower())


def _unknown(name: str, known: tuple[str, ...], origin: str) -> SettingsError:
    hint = suggestion(name, known) or f"known: {', '.join(known)}"
    return SettingsError(f"{name!r} is not a setting", origin=origin, remedy=hint)


# -- values ----------------------------------------------------------------------------------------------------------


def _checked(path: SettingPath, raw: Raw) -> Any:
    """The value in its own type. Raises `SettingsError`."""
    field = FIELDS.get(path[0]) or Field(_KINDS.get((path[0], path[-1]), "url"), None)
    if field.kind in ("seconds", "count"):
        return _number(path, raw, field)
    text = os.fspath(raw.value) if isinstance(raw.value, os.PathLike) else raw.value
    if not isinstance(text, str) or not _fits(field.kind, text):
        raise _wrong(path, raw, _WANTED[field.kind])
    if field.kind == "path":
        return raw.base / text
    if path == ("store",) and SERVICE not in text and SHARED.match(text):
        raise SettingsError(
            f"all services would share the store {masked(text)}",
            origin=raw.origin,
            remedy=f"write {SERVICE} where its name belongs, or set stores.<service>",
        )
    return _anchored(text, raw.base) if field.kind in ("url", "engine") else text


def _fits(kind: str, text: str) -> bool:
    if kind == "topic":
        return is_name(text) or is_topic_of_others(text)
    if kind == "engine" and ":" not in text:
        return is_name(text)
    pattern = {"url": _URL, "engine": _URL, "prefix": _GROUP_PREFIX}.get(kind)
    return bool(text) if pattern is None else pattern.fullmatch(text) is not None


def _number(path: SettingPath, raw: Raw, field: Field) -> float:
    whole = field.kind == "count"
    wanted = f"a whole number, at least {field.low:g}" if whole else f"seconds, at least {field.low:g}"
    value = raw.value
    try:
        if (
            isinstance(value, bool)
            or (isinstance(value, str) and raw.rank != 2)
            or (whole and isinstance(value, float))
        ):
            raise ValueError
        number = int(value) if whole else float(value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(path, raw, wanted) from None
    if not math.isfinite(number) or number < field.low:
        raise _wrong(path, raw, wanted)
    return number


def _wrong(path: SettingPath, raw: Raw, wanted: str) -> SettingsError:
    shown = masked(raw.value) if isinstance(raw.value, str) else raw.value
    name = ".".join(path).lower()
    return SettingsError(f"{name} is {shown!r}", origin=raw.origin, remedy=f"{name} is {wanted}")


def _anchored(url: str, base: Path) -> str:
    """A relative path of SQLite as an absolute one."""
    path = url.removeprefix("sqlite:///")
    if path == url or path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return url
    return f"{sqlite_url(base).rstrip('/')}/{path}"


def sqlite_url(path: Path) -> str:
    """The URL of an absolute path."""
    return f"sqlite:///{quote(path.as_posix())}"
