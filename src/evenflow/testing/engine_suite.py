"""Conformance of an engine: what `evenflow.engine.Engine` promises, as checks that any runner can run.

    report = await run_suite(place)      # or, with a runner: for check in checks(): await run_check(check, factory)

An `EngineFactory` gives an async context manager of an open engine; for a durable or shared engine another call gives
another object on the same log. `place` gives a context manager of such a factory; the log may hold other topics, since
every check makes its own. A check that the engine's capabilities do not claim is reported as not applicable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from evenflow.testing import engine_appending, engine_keeping, engine_reading, engine_sealing, engine_sharing
from evenflow.testing.engine_kit import EngineFactory, WipingFactory
from evenflow.testing.suite import Report, checks_in, run_all, run_check

__all__ = ["EngineFactory", "WipingFactory", "checks", "run_check", "run_suite"]


def checks() -> list[Callable[[EngineFactory], Awaitable[None]]]:
    """All checks, each an async function of a factory."""
    return checks_in(engine_appending, engine_reading, engine_keeping, engine_sealing, engine_sharing)


async def run_suite(place: Callable[[], AbstractContextManager[EngineFactory]]) -> Report:
    """Run all checks."""
    return await run_all(checks(), place)
