"""An app opened to look at it from outside, and what every command about a system has in common."""

from __future__ import annotations

import asyncio
import getpass
import platform
from argparse import Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from evenflow.app import App
from evenflow.cli.failures import Missing
from evenflow.cli.load import load_app
from evenflow.errors import Refused
from evenflow.places import parse
from evenflow.running import Running
from evenflow.settings import Settings
from evenflow.settings_sources import MEMORY_ENGINE

T = TypeVar("T")


def looking(options: Namespace, work: Callable[[Running], Awaitable[T]]) -> T:
    """Do this with the app, opened without taking part in its work. Raises `Missing` where it has never run."""
    app, settings = load_app(options.app), Settings.load()
    if settings.engine == MEMORY_ENGINE:
        raise Refused(
            "the engine is in memory: only the process that runs the app sees anything of it",
            remedy="run it on files, as it does without EVENFLOW_ENGINE",
        )
    url = parse(settings.engine)
    file = Path(url.rest.removeprefix("///"))
    if url.scheme == "sqlite" and not file.exists():
        raise Missing(
            f"there is no log at {file}: this app has not run here yet, or runs elsewhere",
            remedy="look at `evenflow config`, or start it with `evenflow run`",
        )
    return asyncio.run(_opened(app, settings, work))


async def _opened(app: App, settings: Settings, work: Callable[[Running], Awaitable[T]]) -> T:
    async with app.running(settings=settings, join=False) as running:
        return await work(running)


def who() -> str:
    """Who does this, for the audit."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    return f"{user}@{platform.node()}"
