"""What all servers share: start, stop, and the harm that comes to servers."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from services import processes
from services.places import LOOPBACK, ServiceError, free


class Server(ABC):
    """One server in a folder of its own. Only the folder is remembered: two objects of one folder are the same server.

    `start` where it runs does nothing; what it has kept is there after `stop`, `kill` and `restart`.
    """

    name: str
    user: str | None = None  # who runs it, where we are root and it refuses to run as root
    ending = signal.SIGTERM
    patience = 30.0

    def __init__(self, folder: Path | str, port: int) -> None:
        self.folder = Path(folder).absolute()
        self.port = port

    @staticmethod
    @abstractmethod
    def missing() -> str | None:
        """What has to be installed before it can start, in words, or None."""

    @abstractmethod
    def prepare(self) -> None:
        """Write settings, and make the data folder where there is none."""

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def ready(self) -> bool:
        """Whether a client would be served now."""

    @abstractmethod
    def url(self) -> str:
        """By which Evenflow finds it."""

    def ports(self) -> list[int]:
        """All that it listens on."""
        return [self.port]

    def environment(self) -> Mapping[str, str]:
        return {}

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def process(self) -> processes.Process | None:
        return processes.recorded(self.folder)

    @property
    def running(self) -> bool:
        return self.process is not None

    @property
    def password(self) -> str:
        """The password of all its users, drawn at random when the folder was made."""
        file = self.folder / "password"
        if not file.exists():
            self._own_folder()
            drawn = file.with_name(f"password.{os.getpid()}")
            drawn.touch(mode=0o600)
            drawn.write_text(secrets.token_hex(12))
            self._give(drawn)
            with suppress(FileExistsError):  # another process was first: its word holds
                file.hardlink_to(drawn)
            drawn.unlink()
        return file.read_text()

    def start(self, seconds: float = 60.0) -> None:
        """Returns when it serves. A frozen one is thawed."""
        if self.running:
            self.thaw()
        else:
            self._begin()
        processes.wait(self._ready_or_ended, seconds, f"{self.name} on {self.address} does not serve")

    def stop(self) -> None:
        """End it as its manual says; everything it has confirmed is kept."""
        process = self.process
        if process is None:
            return
        self.thaw()
        processes.send([process], self.ending)
        processes.wait(lambda: not process.alive(), self.patience, f"{self.name} (process {process.pid}) does not end")

    def kill(self) -> None:
        """SIGKILL to all its processes: what a crash of the program does."""
        if (process := self.process) is not None:
            processes.kill(process)

    def freeze(self) -> None:
        """SIGSTOP to all its processes: connections stay open, and nothing answers."""
        if (process := self.process) is not None:
            processes.freeze(process)

    def thaw(self) -> None:
        if (process := self.process) is not None:
            processes.send(processes.tree(process)[::-1], signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def wipe(self) -> None:
        """End it at once and drop its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, lines: int = 15) -> str:
        """The end of what it has said."""
        try:
            return "\n".join((self.folder / "log").read_text("utf-8", "replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def _begin(self) -> None:
        if why := self.missing():
            raise ServiceError(why)
        if taken := [port for port in self.ports() if not free(port)]:
            raise ServiceError(f"{self.name} cannot listen on port {taken[0]}: another program does")
        self._own_folder()
        self.prepare()
        processes.begin(self.command(), self.folder, user=self.user, settings=self.environment())

    def _ready_or_ended(self) -> bool:
        if not self.running:
            raise ServiceError(f"{self.name} ended while it started; the end of {self.folder / 'log'}:\n{self.log()}")
        return self.ready()

    def _own_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._give(self.folder)

    def _give(self, path: Path) -> None:
        """Make the server's user the owner."""
        if ids := processes.as_user(self.user):
            os.chown(path, ids["user"], ids["group"])
