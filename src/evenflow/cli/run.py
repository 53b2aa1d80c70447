"""run: handle events until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Coroutine
from datetime import datetime
from types import FrameType
from typing import Any

from evenflow import operate
from evenflow.app import App
from evenflow.cli import blocked
from evenflow.cli.failures import BrokenApp, Code, code_of, shown, user_error
from evenflow.cli.load import load_app
from evenflow.cli.logs import configure, form_of, ours
from evenflow.clock import Signal
from evenflow.errors import DefinitionError, EvenflowError
from evenflow.operate import NotFound
from evenflow.running import Running
from evenflow.settings import Settings
from evenflow.settings_sources import masked, suggestion

log = logging.getLogger("evenflow")
Beside = Callable[[Running, Signal], Coroutine[Any, Any, object]]

GRACE = 5.0
"""Seconds after the drain time at which a process whose event loop stands still is ended."""
LOOK = 0.05


def run(options: Namespace, beside: Beside | None = None) -> int:
    """Exit code 0 after a clean stop, 7 when the drain ran out. `beside` runs while the app is open."""
    try:
        return _handle(options, beside)
    except Exception as error:
        if form_of(options.log) != "json" or not ours():
            raise
        configure(options.log, app=options.app, debug=options.debug)
        return _log_failure(error)


def _log_failure(error: Exception) -> int:
    """The last line of a log in JSON is JSON too."""
    code = code_of(error)
    if isinstance(error, EvenflowError):
        cause = error.__cause__ if isinstance(error, BrokenApp) else None
        told = {} if cause is None or isinstance(cause, DefinitionError) else {"error": user_error(cause)}
        for each in (error, *getattr(error, "also", ())):
            log.error("%s", shown(each), extra={"exit_code": int(code), **told})
    else:
        log.error("%s: %s", type(error).__name__, error, exc_info=error, extra={"exit_code": int(code)})
    return code


def _handle(options: Namespace, beside: Beside | None) -> int:
    app = load_app(options.app)
    problems = app.check()
    if problems:
        raise _all(problems)
    names = [each.name for each in app.services]
    for name in options.service or ():
        if name not in names:
            hint = suggestion(name, names) or f"known: {', '.join(names) or 'none'}"
            raise NotFound(f"this app has no service {name!r}", remedy=hint)
    configure(options.log, app=options.app, debug=options.debug, colours=getattr(options, "colours", None))
    settings = Settings.load({"drain": options.drain})
    stopped: list[str] = []
    clean = asyncio.run(_run(app, settings, options, stopped, beside))
    if stopped:
        log.error("%s cannot go on without a person\n  → evenflow groups list says why", ", ".join(stopped))
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


async def _run(app: App, settings: Settings, options: Namespace, stopped: list[str], beside: Beside | None) -> bool:
    stop = Stop(settings.drain)
    stop.listen()
    async with app.running(handle=options.service, settings=settings) as running:
        _places(running, options.service)
        await _forgotten(running)
        wait = (
            _until_idle(running, stop.signal, stopped) if options.until_idle else running.clock.wait(stop.signal, None)
        )
        work = [wait, beside(running, stop.signal)] if beside else [wait]
        with blocked.told():
            await asyncio.gather(*work)
    return running.clean


async def _until_idle(running: Running, stop: Signal, stopped: list[str]) -> None:
    while not stop.is_set() and not await running.idle(cut_off=True):
        await running.clock.wait(stop, LOOK)
    if stop.is_set():
        return
    stopped += [loop.name for loop in running.loops() if loop.stopped or loop.pauses]
    left = await _left(running)
    log.info("idle: %s", left or "nothing is left to do")
    stop.set()


async def _left(running: Running) -> str:
    """What is not done, and will be done or has to be decided later."""
    parked = dead = 0
    dues = []
    for loop in running.loops():
        store = loop.work.store
        ((count, letters),) = await store.read(store.sql["parked_size"], (loop.name,))
        parked, dead = parked + count, dead + letters
        dues += [due for owned in loop.owned.values() if (due := await loop.parking.next_due(owned)) is not None]
    later = await operate.later(running)
    scheduled = sum(each.count for each in later)
    dues += [each.next for each in later if each.next is not None]
    parts = [f"{parked:,} parked"] if parked else []
    parts += [f"{dead:,} of them a dead letter" if dead == 1 else f"{dead:,} of them dead letters"] if dead else []
    parts += [f"{scheduled:,} scheduled"] if scheduled else []
    parts += [f"{loop.name}: {loop.cut_off}" for loop in running.loops() if loop.cut_off]
    if parts and dues:
        parts.append(f"next at {datetime.fromtimestamp(min(dues)).astimezone().isoformat(' ', 'seconds')}")
    return ", ".join(parts) + ("\n  → evenflow parked list" if parked else "")


def _places(running: Running, services: list[str] | None) -> None:
    app, settings = running.app, running.settings
    log.info("app %s, pid %d, engine %s", app.name, os.getpid(), masked(settings.engine_url()))
    for service in app.services:
        if not services or service.name in services:
            log.info("store of %s: %s", service.name, masked(settings.store_url(service.name)))
    for promise in running.promises:
        log.info("%s", promise)
    log.info("ready%s", "" if running.loops() else ": no group is handled here")


async def _forgotten(running: Running) -> None:
    """A handler whose group was renamed in the code alone begins anew: say so."""
    for each in await operate.orphans(running):
        if each.group.startswith(running.settings.group_name(f"{each.service}.")):
            log.warning(
                "group %s is in the store, and the code does not have it: nothing handles its events\n"
                "  → evenflow groups rename %s NEW, if it has another name now, before the new one runs\n"
                "  → evenflow groups drop %s, if it has gone for good",
                each.group, each.group, each.group,
            )  # fmt: skip


class Stop:
    """SIGTERM, SIGHUP and Ctrl-C: the first asks for a clean stop, the second ends the process at once.

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
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, self._on)

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
