"""The process below `evenflow dev` that handles events, and tells the one above how its groups stand."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from argparse import Namespace
from typing import Any

from evenflow import operate
from evenflow.cli.failures import is_users, report
from evenflow.cli.run import run
from evenflow.clock import Signal
from evenflow.group import GroupLoop
from evenflow.running import Running

EVERY = 0.5


def main() -> int:
    """`sys.argv[1]` is one JSON object: app, service, drain, colours, quiet, and the two ends of pipes."""
    given = json.loads(sys.argv[1])
    options = Namespace(**given, log="text", until_idle=False, debug=False)
    if options.quiet:
        logging.getLogger("evenflow").setLevel(logging.WARNING)
    try:
        return run(options, lambda running, stop: _tell(running, stop, options))
    except BaseException as error:
        return report(error, debug=False, app=options.app)
    finally:
        _write(options.status, {"files": _files()})


async def _tell(running: Running, stop: Signal, options: Namespace) -> None:
    asyncio.get_running_loop().add_reader(options.alive, _orphaned, options.alive)
    _write(options.status, {"files": _files()})
    while not stop.is_set():
        _write(options.status, {"groups": await _groups(running)})
        await running.clock.wait(stop, EVERY)


def _orphaned(alive: int) -> None:
    """The process above is gone, however it ended: so we end, too."""
    asyncio.get_running_loop().remove_reader(alive)
    os.kill(os.getpid(), signal.SIGTERM)


async def _groups(running: Running) -> list[dict[str, Any]]:
    loops = {loop.name: loop for loop in running.loops()}
    rows = []
    for status in await operate.groups(running):
        loop = loops.get(status.group)
        if loop is not None:
            rows.append(
                {
                    "group": status.group,
                    "state": status.state,
                    "handled": loop.counters.handled,
                    "waiting": status.waiting,
                    "parked": status.parked,
                    "dead": status.dead,
                    "error": status.reason or await _last_error(running, loop, status.parked),
                }
            )
    return rows


async def _last_error(running: Running, loop: GroupLoop, parked: int) -> str:
    if loop.trouble or not parked:
        return loop.trouble
    failed = [each for each in await operate.parked(running, loop.name, 200) if each.error]
    return max(failed, key=lambda each: each.failed or 0.0).error or "" if failed else ""


def _files() -> list[str]:
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return [file for file in files if file and is_users(file) and file.endswith(".py")]


def _write(pipe: int, found: dict[str, Any]) -> None:
    try:
        os.write(pipe, json.dumps(found).encode() + b"\n")
    except OSError:  # nobody reads any more
        return


if __name__ == "__main__":
    sys.exit(main())
