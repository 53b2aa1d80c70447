"""Processes that outlive who started them: begun apart, known by id and start time, harmed as a whole tree."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.places import ServiceError


@dataclass(frozen=True)
class Process:
    """A process by its id and the moment of its start, so that another one with the same id is never taken for it."""

    pid: int
    born: int

    def alive(self) -> bool:
        return _state(self.pid) == self


def dead(pid: int) -> bool:
    """Whether no such process runs; a zombie that nobody has fetched is dead too."""
    return _state(pid) is None


def _stat(pid: int) -> tuple[str, int, int] | None:
    """State, parent and start time (clock ticks since boot) of a process, or None."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[19])


def _state(pid: int) -> Process | None:
    """The living process with this id. A zombie is none, unless other threads of it have not ended yet."""
    found = _stat(pid)
    if found is None:
        return None
    try:
        ended = found[0] in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except FileNotFoundError:
        return None
    return None if ended else Process(pid, found[2])


def begin(command: Sequence[str], folder: Path, *, user: str | None, settings: Mapping[str, str]) -> Process:
    """Start a command apart from us: no parent, no terminal, output in `folder/log`, its id in `folder/pid`."""
    file = folder / "pid"
    file.unlink(missing_ok=True)
    # the shell writes its id and becomes the command, so the id is there before the command runs
    apart = [
        "setsid",
        "--fork",
        "sh",
        "-c",
        'echo $$ >"$0.part" && mv "$0.part" "$0" && exec "$@"',
        str(file),
        *command,
    ]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "KAFKA_", "LC_"))}
    with (folder / "log").open("ab") as log:
        subprocess.run(
            apart,
            cwd=folder,
            env={**inherited, "LC_ALL": "C.UTF-8", **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
            **as_user(user),
        )
    wait(file.exists, 10.0, f"{command[0]} was not started")
    pid = int(file.read_text())
    born = _state(pid) or Process(pid, 0)
    file.write_text(f"{born.pid} {born.born}")
    return born


def as_user(name: str | None) -> dict[str, Any]:
    """The words of `subprocess.run` that run it as that user: none, where we are not root."""
    if name is None or os.geteuid():
        return {}
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise ServiceError(f"there is no user {name!r} to run the server as: Debian's package makes it") from None
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def recorded(folder: Path) -> Process | None:
    """The process that was begun in this folder, if it is alive."""
    try:
        pid, _, born = (folder / "pid").read_text().partition(" ")
        process = Process(int(pid), int(born))
    except (FileNotFoundError, ValueError):
        return None
    return process if process.alive() else None


def tree(root: Process) -> list[Process]:
    """A process and all below it, the root first."""
    below: dict[int, list[Process]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := _stat(int(entry))) is not None and found[0] not in "ZX":
            below.setdefault(found[1], []).append(Process(int(entry), found[2]))
    whole = [root] if root.alive() else []
    for each in whole:
        whole += below.get(each.pid, [])
    return whole


def send(processes: Sequence[Process], number: signal.Signals) -> None:
    for each in processes:
        if each.alive():
            try:
                os.kill(each.pid, number)
            except ProcessLookupError:
                continue


def freeze(root: Process) -> list[Process]:
    """Stop a whole tree (SIGSTOP), the root first, so that it begets no more; what was stopped."""
    stopped: list[Process] = []
    while more := [each for each in tree(root) if each not in stopped]:
        send(more, signal.SIGSTOP)
        stopped += more
    return stopped


def kill(root: Process) -> None:
    """End a whole tree at once (SIGKILL); returns when nothing of it is left."""
    whole = freeze(root)
    send(whole, signal.SIGKILL)
    wait(lambda: not any(each.alive() for each in whole), 10.0, f"process {root.pid} is there after SIGKILL")


def wait(condition: Callable[[], bool], seconds: float, failure: str) -> None:
    """Poll until the condition holds. Raises `ServiceError(failure)` after so many seconds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise ServiceError(f"{failure} (waited for {seconds:.0f} s)")
        time.sleep(0.02)
