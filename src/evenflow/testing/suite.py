"""How a conformance suite runs: each check is an async function of a factory, named by the promise that it proves."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import ModuleType
from typing import TypeVar

F = TypeVar("F")
CHECK_SECONDS = 60.0


class NotApplicable(Exception):
    """The implementation does not claim what this check is about; the text says which claim."""


@dataclass(slots=True)
class Report:
    """The outcome of a suite by the names of its checks."""

    passed: list[str] = field(default_factory=list)
    failed: dict[str, BaseException] = field(default_factory=dict)
    not_applicable: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        lines = [f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.not_applicable)} not applicable"]
        lines += [f"FAILED  {name}: {type(error).__name__}: {error}" for name, error in self.failed.items()]
        lines += [f"not applicable  {name}: {reason}" for name, reason in self.not_applicable.items()]
        return "\n".join(lines)


def checks_in(*modules: ModuleType) -> list[Callable[..., Awaitable[None]]]:
    """The checks of these modules, in the order of their files."""
    return [
        check
        for module in modules
        for name, check in vars(module).items()
        if name.startswith("check_") and inspect.iscoroutinefunction(check) and check.__module__ == module.__name__
    ]


async def run_check(check: Callable[[F], Awaitable[None]], factory: F) -> None:
    """Run one check; it fails when it hangs."""
    async with asyncio.timeout(CHECK_SECONDS):
        await check(factory)


async def run_all(
    checks: Iterable[Callable[[F], Awaitable[None]]], place: Callable[[], AbstractContextManager[F]]
) -> Report:
    """Run the checks, each with the factory of a place of its own."""
    report = Report()
    for check in checks:
        name = getattr(check, "__name__", repr(check))
        with place() as factory:
            try:
                await run_check(check, factory)
            except NotApplicable as reason:
                report.not_applicable[name] = str(reason)
            except Exception as error:
                report.failed[name] = error
            else:
                report.passed.append(name)
    return report


def expect(condition: object, message: str) -> None:
    """Fail the check with these words unless the condition holds; works under `python -O` too."""
    if not condition:
        raise AssertionError(message)


async def eventually(condition: Callable[[], bool], *, seconds: float = 10.0, what: str) -> None:
    """Wait until the condition holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        expect(loop.time() < deadline, f"{what}: not within {seconds} s")
        await asyncio.sleep(0.002)
