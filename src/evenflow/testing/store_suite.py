"""Conformance of a store: what `evenflow.store.Store` promises, as checks that any runner can run.

    report = await run_suite(place)
    for check in checks(): await run_check(check, factory)        # under a test runner

A `StoreFactory` gives an async context manager of an open store; another call gives another object, on the same
database if the store is durable. `place` gives a context manager of a factory for a new, empty database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from evenflow.testing import store_keeping, store_sharing, store_statements, store_units
from evenflow.testing.store_statements import StoreFactory
from evenflow.testing.suite import Report, checks_in, run_all, run_check

__all__ = ["StoreFactory", "checks", "run_check", "run_suite"]


def checks() -> list[Callable[[StoreFactory], Awaitable[None]]]:
    """All checks, each an async function of a factory."""
    return checks_in(store_statements, store_sharing, store_keeping, store_units)


async def run_suite(place: Callable[[], AbstractContextManager[StoreFactory]]) -> Report:
    """Run all checks, each on a database of its own."""
    return await run_all(checks(), place)
