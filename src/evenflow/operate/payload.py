"""Payloads as plain values: which fields differ, and what a person wants of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from evenflow.errors import EvenflowError, Refused

MISSING = "(none)"

Path = tuple[str | int, ...]
Make = Callable[[Any], Any]
"""From the present payload, as plain values (None where it cannot be read), to the new one."""


class EditInvalid(EvenflowError):
    """The payload that was given cannot be that of the event: nothing was changed. `where` is that of its class."""

    def __init__(self, message: str, *, remedy: str = "", where: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.where = where


class Change(NamedTuple):
    """One field that differs, as JSON texts. A field that is not there is "(none)"."""

    field: str
    before: str
    after: str


def changed(before: Any, after: Any) -> list[Change]:
    """The fields that differ, in the order in which they stand."""
    old, new = dict(leaves(before)), dict(leaves(after))
    return [
        Change(text_of(path), _shown(old, path), _shown(new, path))
        for path in dict.fromkeys((*old, *new))
        if _shown(old, path) != _shown(new, path)
    ]


def leaves(value: Any, path: Path = ()) -> Iterable[tuple[Path, Any]]:
    """Every value that is no object or list with something in it, with its path."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from leaves(each, (*path, str(name)))
    elif isinstance(value, list) and value:
        for place, each in enumerate(value):
            yield from leaves(each, (*path, place))
    else:
        yield path, value


def _shown(values: dict[Path, Any], path: Path) -> str:
    return msgspec.json.encode(values[path]).decode() if path in values else MISSING


def text_of(path: Path) -> str:
    """A path as a person writes it."""
    return ".".join(map(str, path)) or "the whole"


def named(path: Path) -> Path:
    """The path with any place of a list for all."""
    return tuple(0 if isinstance(each, int) else each for each in path)


def whole(text: bytes) -> Make:
    """All of the payload, as JSON."""

    def make(_: Any) -> Any:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise EditInvalid(f"this is no JSON: {error}", remedy="nothing was changed") from None

    return make


def with_fields(given: Sequence[str]) -> Make:
    """Some fields: "field=value", "lines.0.article=text", or "field:=JSON" for exactly that."""

    def make(before: Any) -> Any:
        if not isinstance(before, dict):
            raise Refused("the payload cannot be read as fields", remedy="give all of it, as JSON in a file: --file")
        content = _copied(before)
        for each in given:
            name, found, text = each.partition("=")
            if not found or not name.strip(":"):
                raise EditInvalid(f"{each!r} sets no field", remedy="say field=value, or field:=JSON")
            _put(content, name.removesuffix(":"), text, exact=name.endswith(":"))
        return content

    return make


def _put(content: dict[str, Any], name: str, text: str, *, exact: bool) -> None:
    target: Any = content
    path: list[str | int] = [int(part) if part.isdigit() else part for part in name.split(".")]
    try:
        for part in path[:-1]:
            target = target[part if isinstance(target, list) else str(part)]
        last: Any = path[-1] if isinstance(target, list) else str(path[-1])
        before = target[last] if isinstance(target, list) else target.get(last)
        target[last] = _value(name, text, before, exact=exact)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise EditInvalid(f"the payload has no place {name!r}", remedy="nothing was changed") from None


def _value(name: str, text: str, before: Any, *, exact: bool) -> Any:
    """A field that holds text takes the text as it is; any other takes JSON, or text that is none."""
    if isinstance(before, str) and not exact:
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        if exact:
            raise EditInvalid(f"{name}:={text} is no JSON: {error}", remedy="nothing was changed") from None
        return text


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value
