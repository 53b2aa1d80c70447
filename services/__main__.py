"""The shared servers of this checkout: `python -m services start|stop|status|wipe|install [names]`.

`python -m services url NAME` starts one, and prints the URL by which Evenflow finds it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from services import shared
from services.installing import install
from services.places import ServiceError, home

NOT_RUNNING = 3  # as `service … status` says it


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services", description=shared.__doc__)
    parser.add_argument("what", choices=["start", "stop", "status", "wipe", "install", "url"])
    parser.add_argument("names", nargs="*", metavar="name", help=f"{', '.join(shared.NAMES)}; without a name, all")
    given = parser.parse_args(arguments)
    try:
        shared.chosen(given.names)
        return _do(given.what, given.names)
    except ServiceError as error:
        print(f"services: {error}", file=sys.stderr)
        return 1


def _do(what: str, names: list[str]) -> int:
    if what == "install":
        install(shared.chosen(names), _say)
    elif what == "start":
        install(shared.chosen(names), _say)
        shared.start(names, keep=True)
        return _status(shared.chosen(names))
    elif what == "url":
        for name in names:
            with redirect_stdout(sys.stderr):
                install(shared.chosen([name]), _say)
            shared.start([name], keep=True)
            print(shared.servers()[name].url())
    elif what == "stop":
        for each in shared.stop(names):
            print(f"{each.name}: stopped")
    elif what == "wipe":
        shared.wipe(names)
        print(f"what was kept in {home()} is dropped")
    else:
        return _status(shared.chosen(names))
    return 0


def _status(names: list[str]) -> int:
    by_name = shared.servers()
    for name in names:
        server = by_name[name]
        process = server.process
        state = f"runs on {server.address} (process {process.pid})" if process else "does not run"
        print(f"{name}: {state}; {server.folder}")
    return 0 if all(by_name[name].running for name in names) else NOT_RUNNING


def _say(text: str) -> None:
    print(f"services: {text} …", flush=True)


if __name__ == "__main__":
    sys.exit(main())
