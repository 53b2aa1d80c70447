"""run: handle events until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from argparse import Namespace
from types import FrameType

from evenflow.app import App
from evenflow.cli.failures import Code
from evenflow.cli.load import load_app
from evenflow.cli.logs import configure
from evenflow.clock import Signal
from evenflow.errors import DefinitionError
from evenflow.operate import NotFound
from evenflow.running import Running
from evenflow.settings import Settings
from evenflow.settings_sources import masked, suggestion

log = logging.getLogger("evenflow")

GRACE = 5.0
"""Seconds after the drain time at which a process whose event loop stands still is ended."""
LOOK = 0.05


def run(options: Namespace) -> int:
    """Exit code 0 after a clean stop, 7 when the drain ran out."""
    app = load_app(options.app)
    problems = app.check()
    if problems:
        raise _all(problems)
    names = [each.name for each in app.services]
    for name in options.service or ():
        if name not in names:
            hint = suggestion(name, names) or f"known: {', '.join(names) or 'none'}"
            raise NotFound(f"this app has no service {name!r}", remedy=hint)
    configure(options.log)
    settings = Settings.load({"drain": options.drain})
    stopped: list[str] = []
    clean = asyncio.run(_run(app, settings, options, stopped))
    if stopped:
        log.error("%s cannot go on without a person; see `evenflow groups list`", ", ".join(stopped))
        return Code.REFUSED
    if clean:
        log.info("stopped: all that was begun is finished")
        return Code.DONE
    log.warning(
        "stopped after %g s, before all that was begun was finished: it is done again at the next start", settings.drain
    )
    return Code.TIME_OVER


def _all(problems: list[DefinitionError]) -> DefinitionError:
    problems[0].also = tuple(problems[1:])
    return problems[0]


async def _run(app: App, settings: Settings, options: Namespace, stopped: list[str]) -> bool:
    stop = Stop(settings.drain)
    stop.listen()
    _places(app, settings, options.service)
    watching: list[asyncio.Task[None]] = []

    def started(running: Running) -> None:
        log.info("ready%s", "" if running.loops() else ": no group is handled here")
        if options.until_idle:
            watching.append(asyncio.create_task(_until_idle(running, stop.signal, stopped)))

    return await app.run(services=options.service, stop=stop.signal, settings=settings, started=started)


async def _until_idle(running: Running, stop: Signal, stopped: list[str]) -> None:
    while not stop.is_set() and not await running.idle():
        await running.clock.wait(stop, LOOK)
    stopped += [loop.name for loop in running.loops() if loop.stopped]
    stop.set()


def _places(app: App, settings: Settings, services: list[str] | None) -> None:
    log.info("app %s, pid %d, engine %s", app.name, os.getpid(), masked(settings.engine_url()))
    for service in app.services:
        if not services or service.name in services:
            log.info("store of %s: %s", service.name, masked(settings.store_url(service.name)))


class Stop:
    """SIGTERM and Ctrl-C: the first asks for a clean stop, the second ends the process at once.

    Python's own handlers, not the event loop's: they run also while a handler blocks the loop.
    """

    def __init__(self, drain: float) -> None:
        self.signal = Signal()
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        self._asked = False

    def listen(self) -> None:
        """From now on."""
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self._on)

    def _on(self, number: int, _frame: FrameType | None) -> None:
        if self._asked:
            _say("ended at once; what was in flight is done again at the next start")
            os._exit(Code.INTERRUPTED if number == signal.SIGINT else 128 + number)
        self._asked = True
        again = "; again to end at once" if number == signal.SIGINT else ""
        self._loop.call_soon_threadsafe(self._ask, signal.Signals(number).name, again)
        late = threading.Timer(self._drain + GRACE, self._late)
        late.daemon = True
        late.start()

    def _ask(self, name: str, again: str) -> None:
        log.info("%s: finishing what is begun, at most %g s%s", name, self._drain, again)
        self.signal.set()

    def _late(self) -> None:
        _say("ended: a handler blocks the event loop; what was in flight is done again at the next start")
        os._exit(Code.TIME_OVER)


def _say(text: str) -> None:
    os.write(sys.stderr.fileno(), f"{text}\n".encode())
