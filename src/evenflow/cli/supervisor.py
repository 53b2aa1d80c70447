"""run --workers: several processes that handle events, watched by one that opens nothing of the app's.

It starts them, replaces the one that ends or whose event loop stands still, and on SIGHUP all, one after another.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from evenflow.cli.failures import Code, UsageError
from evenflow.cli.load import app_name
from evenflow.cli.logs import configure
from evenflow.cli.supervising import HANG, LOOK, START, STEADY, Ended, Fate, delay, fate, outcome, silent
from evenflow.cli.workers import Place, Worker
from evenflow.settings import Settings
from evenflow.settings_sources import MEMORY_ENGINE, MEMORY_STORE

log = logging.getLogger("evenflow")

GRACE = 6.0
"""Seconds beyond the drain time at which a worker that was told to stop is killed: it ends itself one second before."""
DUMP = 0.5
"""Seconds that a worker which hangs has to write where it is, before it is killed."""


def run(options: Namespace) -> int:
    """`evenflow run`: in this process, or in as many as were asked for."""
    if options.workers is None:
        if options.hang is not None:
            raise UsageError("--hang needs --workers: nobody watches a single process", remedy="--workers 1")
        from evenflow.cli.run import run as alone

        return alone(options)
    settings = Settings.load({"drain": options.drain})
    app_name(options.app)  # said once here, not by each worker
    _refuse(options, settings)
    configure(options.log, app=options.app, debug=options.debug)
    count = options.workers or (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return Supervisor(options, count, settings.drain).run()


def _refuse(options: Namespace, settings: Settings) -> None:
    if not hasattr(signal, "SIGHUP"):
        raise UsageError("--workers needs a Unix", remedy="start several `evenflow run` by a service manager")
    if options.hang is not None and options.hang <= LOOK:
        raise UsageError(f"--hang {options.hang:g} is too short: a worker beats once a second", remedy="5 or more")
    if options.until_idle:
        raise UsageError(
            "--until-idle goes with one process: no worker can tell what the others have begun",
            remedy="leave out --workers",
        )
    for each in settings.origins():
        if each.value in (MEMORY_ENGINE, MEMORY_STORE) and (options.workers or 2) > 1:
            raise UsageError(
                f"{each.name} is in memory ({each.value}, from {each.origin}): each worker would have one of its own",
                remedy="keep it in a file (the default, sqlite), or leave out --workers",
            )


class Supervisor:
    """Watches `count` workers until it is told to stop."""

    def __init__(self, options: Namespace, count: int, drain: float) -> None:
        self.options = options
        self.drain = drain
        self.hang = options.hang if options.hang is not None else HANG
        self.places = [Place(number) for number in range(1, count + 1)]
        self.running = False
        """Whether a worker has been ready since the start."""
        self.codes: list[int] = []
        self._selector = selectors.DefaultSelector()
        self._stopping = 0
        self._code: int | None = None
        self._reloading: list[Place] = []
        self._reload_again = False
        self._terminal = _on_terminal()

    def run(self) -> int:
        """Its exit code."""
        with self._signals():
            log.info("supervisor, pid %d: %d workers", os.getpid(), len(self.places))
            for place in self.places:
                self._start(place)
            looked = time.monotonic()
            while any(place.workers() for place in self.places) or not self._stopping:
                self._wait()
                now = time.monotonic()
                for number in self._signalled():
                    self._on(number)
                for place in self.places:
                    self._look(place, now - looked, now)
                self._reload_on()
                looked = now
        code = outcome(self.codes) if self._code is None else self._code
        log.info("supervisor: all workers have ended%s", f", exit code {code}" if code else "")
        return code

    # -- signals ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals wake the loop through a pipe; none of them interrupts a step of it."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        os.set_blocking(reader, False)
        self._selector.register(reader, selectors.EVENT_READ)
        self._signal_pipe = reader
        kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT)
        before = {each: signal.signal(each, lambda *_: None) for each in kinds}
        old = signal.set_wakeup_fd(writer)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old)
            for each, handler in before.items():
                signal.signal(each, handler)
            os.close(reader)
            os.close(writer)

    def _wait(self) -> None:
        for key, _ in self._selector.select(LOOK / 2 if self._busy() else LOOK):
            if isinstance(key.data, Worker):
                key.data.read()

    def _busy(self) -> bool:
        return bool(self._reloading or self._stopping or any(not place.workers() for place in self.places))

    def _signalled(self) -> list[int]:
        with suppress(BlockingIOError):
            return list(os.read(self._signal_pipe, 4096))
        return []

    def _on(self, number: int) -> None:
        if number in (signal.SIGINT, signal.SIGTERM):
            self._stop(number)
        elif number == signal.SIGHUP:
            if self._terminal and not _on_terminal():  # it was closed
                self._stop(signal.SIGTERM)
            elif not self._stopping:
                self._reload()
        elif number == signal.SIGQUIT:
            for worker in self._workers():
                worker.send(signal.SIGQUIT)

    def _workers(self) -> list[Worker]:
        return [worker for place in self.places for worker in place.workers()]

    # -- stopping ---------------------------------------------------------------------------------------------------

    def _stop(self, number: int) -> None:
        if self._stopping:
            log.warning("ended at once; what was in flight is done again at the next start")
            for worker in self._workers():
                worker.send(signal.SIGKILL)
            self._code = Code.INTERRUPTED if number == signal.SIGINT else 128 + number
            return
        log.info(
            "%s: the workers finish what is begun, at most %g s; again to end at once",
            signal.Signals(number).name, self.drain,
        )  # fmt: skip
        self._end_all()

    def _end_all(self) -> None:
        self._stopping += 1
        self._reloading.clear()
        for worker in self._workers():
            worker.tell(self.drain + GRACE)

    # -- one worker's place -----------------------------------------------------------------------------------------

    def _start(self, place: Place) -> None:
        place.starts_at = None
        place.worker = Worker(self.options, place.number, self._selector)

    def _look(self, place: Place, elapsed: float, now: float) -> None:
        for worker in place.workers():
            code = worker.ended()
            if code is not None:
                self._over(place, worker, code, now)
                continue
            worker.silence = silent(worker.silence, elapsed, heard=worker.heard)
            worker.heard = False
            if worker.ready and not self.running:
                self.running = True
            self._watch(worker, now)
        if place.worker is None and place.starts_at is not None and place.starts_at <= now and not self._stopping:
            self._start(place)

    def _watch(self, worker: Worker, now: float) -> None:
        """End a worker that hangs, or was told to end and does not."""
        if worker.kill_at is not None:
            if now >= worker.kill_at:
                worker.send(signal.SIGKILL)
            return
        if worker.silence < (self.hang if worker.beaten else max(START, self.hang)):
            return
        log.error(
            "worker %d (pid %d) has not beaten for %.0f s: its event loop stands still; it is dumped and replaced",
            worker.number, worker.pid, worker.silence,
        )  # fmt: skip
        worker.send(signal.SIGQUIT)
        worker.kill_at = now + DUMP

    def _over(self, place: Place, worker: Worker, code: int, now: float) -> None:
        """It has ended: do what follows."""
        worker.close()
        ended = Ended(code, worker.told, worker.ready, worker is place.next, self.running or worker.ready)
        place.remove(worker)
        what = fate(ended)
        if what is Fate.NOTHING:
            if self._stopping and worker.ready:  # one that was not has begun nothing
                self.codes.append(code)
            return
        said = f"worker {worker.number} (pid {worker.pid}) {_how(code)}"
        if what is Fate.KEEP_OLD:
            log.error("%s before it was ready: the reload ends here, and the workers of before go on", said)
            self._reloading.clear()
            self._reload_again = False
        elif what is Fate.GIVE_UP and self._code is None:
            log.error("%s: it cannot start before that is mended, so all stop", said)
            self._code = code
            self._end_all()
        elif not self._stopping:
            place.in_a_row = 1 if now - worker.started >= STEADY else place.in_a_row + 1
            wait = delay(place.in_a_row)
            place.starts_at = now + wait
            when = "at once" if not wait else f"in {wait:g} s, since it has ended {place.in_a_row} times in a row"
            log.error("%s; another starts %s", said, when)

    # -- reload -----------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        if self._reloading:
            self._reload_again = True
            return
        log.info("SIGHUP: replacing the workers, one after another")
        self._reloading = list(self.places)

    def _reload_on(self) -> None:
        """One step: start the next, wait until it is ready, tell the one before to stop, wait until it has."""
        if not self._reloading:
            return
        place = self._reloading[0]
        if place.next is not None and place.next.ready:
            place.replace()
            if place.old is not None:
                place.old.tell(self.drain + GRACE)
        elif place.next is None and place.old is None:
            if place.worker is not None and not place.renewed:
                place.next = Worker(self.options, place.number, self._selector)
                return
            place.renewed = False
            self._reloading.pop(0)
            if not self._reloading:
                log.info("all workers are replaced")
                if self._reload_again:
                    self._reload_again = False
                    self._reload()


def _how(code: int) -> str:
    if code >= 0:
        return f"has ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"


def _on_terminal() -> bool:
    """Whether there is a terminal that this process belongs to."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
