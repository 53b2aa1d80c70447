"""Providers: what handlers need, found by its type, opened once per running app, overridden in tests."""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from evenflow.errors import DefinitionError
from evenflow.handler import location

_GENERATORS = (AsyncGenerator, AsyncIterator, Generator, Iterator)


class Providers:
    """The providers of an app: one per type. A provider may itself ask for others by type."""

    def __init__(self) -> None:
        self._functions: dict[Any, Callable[..., Any]] = {}

    def add(self, function: Callable[..., Any]) -> None:
        """Register a (sync or async) function or one-`yield` generator by its return annotation."""
        where = location(function)
        try:
            hint = typing.get_type_hints(function).get("return")
        except NameError as error:
            raise DefinitionError(f"provider {function.__name__!r}: {error}", where=where) from error
        if typing.get_origin(hint) in _GENERATORS:
            hint = typing.get_args(hint)[0]
        if hint is None or hint is type(None):
            raise DefinitionError(
                f"provider {function.__name__!r} does not say what it provides",
                where=where,
                remedy="annotate what it returns or yields",
            )
        if hint in self._functions:
            other = location(self._functions[hint])
            raise DefinitionError(f"{_name(hint)} is provided twice, first at {other}", where=where)
        self._functions[hint] = function

    def check(self, wanted: Any, where: str, given: Mapping[Any, object]) -> None:
        """Raise `DefinitionError` when this type, or one that its provider needs, is not provided."""
        self._check(wanted, where, given, ())

    def _check(self, wanted: Any, where: str, given: Mapping[Any, object], path: tuple[Any, ...]) -> None:
        if wanted in given:
            return
        if wanted in path:
            circle = " → ".join(_name(each) for each in (*path, wanted))
            raise DefinitionError(f"providers go round in a circle: {circle}", where=where)
        function = self._functions.get(wanted)
        if function is None:
            known = ", ".join(sorted(_name(each) for each in self._functions)) or "none"
            raise DefinitionError(
                f"nothing provides {_name(wanted)} (provided: {known})",
                where=where,
                remedy=f"add a function with @app.provide that returns {_name(wanted)}",
            )
        for each in _needs(function).values():
            self._check(each, location(function), given, (*path, wanted))

    async def resolve(self, wanted: Any, opened: dict[Any, Any], stack: AsyncExitStack) -> Any:
        """The value of this type; opened at its first use, closed with the stack. `opened` holds what there is."""
        if wanted not in opened:
            function = self._functions[wanted]
            arguments = {name: await self.resolve(hint, opened, stack) for name, hint in _needs(function).items()}
            opened[wanted] = await _enter(function, arguments, stack)
        return opened[wanted]


async def _enter(function: Callable[..., Any], arguments: dict[str, Any], stack: AsyncExitStack) -> Any:
    if inspect.isasyncgenfunction(function):
        return await stack.enter_async_context(asynccontextmanager(function)(**arguments))
    if inspect.isgeneratorfunction(function):
        return stack.enter_context(contextmanager(function)(**arguments))
    value = function(**arguments)
    return await value if inspect.isawaitable(value) else value


def _needs(function: Callable[..., Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(function)
    hints.pop("return", None)
    return hints


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint)
