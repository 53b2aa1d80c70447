"""The servers that all tests and programs of one checkout share: where they are, starting and stopping them.

Addresses come from the folder's `state.json`, so nobody needs to know ports. Starting and stopping take a lock; a start
that finds everything running returns at once.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from services.kafka import Kafka
from services.kafka_settings import PORTS
from services.pgbouncer import PgBouncer
from services.places import BLOCK, SHARED, ServiceError, free, free_ports, home
from services.postgres import Postgres
from services.server import Server

NAMES = ("postgres", "pgbouncer", "kafka")
BEHIND = {"pgbouncer": "postgres"}
COUNT = 2 + PORTS
assert COUNT <= BLOCK


def postgres() -> Postgres:
    return _servers(_base())[0]


def pgbouncer() -> PgBouncer:
    return _servers(_base())[1]


def kafka() -> Kafka:
    return _servers(_base())[2]


def servers() -> dict[str, Server]:
    """All of them by name, running or not."""
    return dict(zip(NAMES, _servers(_base()), strict=True))


def chosen(names: Sequence[str]) -> list[str]:
    """These and what they stand on, in the order of starting; all of them where none is named."""
    if unknown := [name for name in names if name not in NAMES]:
        raise ServiceError(f"there is no server {unknown[0]!r}: {', '.join(NAMES)}")
    wanted = {*names, *(BEHIND[name] for name in names if name in BEHIND)} or set(NAMES)
    return [name for name in NAMES if name in wanted]


def start(names: Sequence[str] = (), *, keep: bool = False) -> list[Server]:
    """Start them where they do not run; with `keep` they run until `stop`, however many use and leave them.

    Raises `ServiceError` that says what is missing.
    """
    with _locked(), ExitStack() as claims:
        everything = _servers(_base())
        if not any(each.running for each in everything):
            everything = _placed(claims)
        by_name = dict(zip(NAMES, everything, strict=True))
        wanted = [by_name[name] for name in chosen(names)]
        for each in wanted:
            each.start()
        if keep:
            (home() / "kept").touch()
        return wanted


def stop(names: Sequence[str] = ()) -> list[Server]:
    """Stop them, and what stands on them; those that ran."""
    with _locked():
        return _stop(names)


def wipe(names: Sequence[str] = ()) -> None:
    """Stop them and drop what they have kept."""
    with _locked():
        _stop(names)
        for name, each in servers().items():
            if not names or name in names:
                shutil.rmtree(each.folder, ignore_errors=True)


class Use:
    """Being a user of the shared servers: the last one who leaves stops them, unless they were started to be kept.

    `with Use(): start(["kafka"])`, or `leave()` where a block does not fit.
    """

    def __init__(self) -> None:
        self._file = (_folder() / "users").open("a")
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()

    def leave(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # somebody else is the last one
        else:
            if not (home() / "kept").exists():
                stop()
        finally:
            self._file.close()


def _stop(names: Sequence[str]) -> list[Server]:
    if not names:
        (home() / "kept").unlink(missing_ok=True)
    wanted = [each for name, each in servers().items() if not names or name in names or BEHIND.get(name) in names]
    ran = [each for each in reversed(wanted) if each.running]
    for each in ran:
        each.stop()
    return ran


def _base() -> int:
    """The first port, as the state file has it."""
    try:
        return int(json.loads((home() / "state.json").read_text("utf-8"))["base"])
    except FileNotFoundError:
        return SHARED.start


def _placed(claims: ExitStack) -> tuple[Postgres, PgBouncer, Kafka]:
    """The servers on ports that are free: those of last time if possible. New ones are ours while `claims` lasts."""
    base = _base()
    if (home() / "state.json").exists() and all(free(port) for port in range(base, base + COUNT)):
        return _servers(base)
    base = claims.enter_context(free_ports(SHARED))
    part = _folder() / "state.part"
    part.write_text(json.dumps({"base": base}), "utf-8")
    part.rename(home() / "state.json")
    return _servers(base)


def _servers(base: int) -> tuple[Postgres, PgBouncer, Kafka]:
    database = Postgres(home() / "postgres", base)
    return database, PgBouncer(home() / "pgbouncer", base + 1, database), Kafka(home() / "kafka", base + 2)


def _folder() -> Path:
    folder = home()
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
    return folder


@contextmanager
def _locked() -> Iterator[None]:
    """One process at a time starts or stops."""
    with (_folder() / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
