"""One worker of `evenflow run --workers`: it handles events as `run` does, and beats for the supervisor."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
from argparse import Namespace

from evenflow.cli.failures import Code, report
from evenflow.cli.run import GRACE, run
from evenflow.cli.supervising import LOOK
from evenflow.clock import Signal
from evenflow.running import Running
from evenflow.settings import Settings

BEAT, READY = b".", b"r"


def main() -> int:
    """`sys.argv[1]` is one JSON object: the options of run, the worker's number, and the two ends of pipes."""
    options = Namespace(**json.loads(sys.argv[1]))
    faulthandler.register(signal.SIGQUIT, all_threads=True, chain=False)
    _number_log(options.worker)
    drain = options.drain if options.drain is not None else Settings.load().drain
    threading.Thread(target=_orphaned, args=(options.alive, drain), daemon=True, name="evenflow-alive").start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # until the app is opened nothing is begun
    try:
        return run(options, lambda running, stop: _beat(running, stop, options.status))
    except BaseException as error:
        return report(error, debug=options.debug, app=options.app)


async def _beat(running: Running, stop: Signal, pipe: int) -> None:
    """Beat until the event loop ends, through the drain too; this returns at the stop."""
    os.set_blocking(pipe, False)
    loop = asyncio.get_running_loop()

    def again() -> None:
        _write(pipe, BEAT)
        loop.call_later(LOOK, again)

    again()
    _write(pipe, READY)
    await running.clock.wait(stop, None)


def _write(pipe: int, what: bytes) -> None:
    try:
        os.write(pipe, what)
    except OSError:  # the supervisor is gone, or does not read for now
        return


def _orphaned(alive: int, drain: float) -> None:
    """When the supervisor is gone, however it ended, end too: cleanly, and else without the event loop's help."""
    while os.read(alive, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain + 2 * GRACE)
    os._exit(Code.TIME_OVER)


def _number_log(number: int) -> None:
    """Every record knows the worker's number, whoever formats it."""
    make = logging.getLogRecordFactory()

    def numbered(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.worker = number
        return record

    logging.setLogRecordFactory(numbered)


if __name__ == "__main__":
    sys.exit(main())
