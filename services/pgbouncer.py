"""PgBouncer in transaction mode, in front of a PostgreSQL of ours."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.places import LOOPBACK, listens
from services.postgres import ADMIN, PLAIN, Postgres
from services.server import Server

SETTINGS = """\
[databases]
* = host={host} port={behind}

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
auth_type = scram-sha-256
auth_file = {folder}/users
admin_users = {admin}
default_pool_size = 10
max_client_conn = 500
"""


class PgBouncer(Server):
    """A connection belongs to a client for one transaction only; any database of the server behind it can be named."""

    name = "pgbouncer"
    user = "postgres"
    patience = 5.0

    def __init__(self, folder: Path | str, port: int, behind: Postgres) -> None:
        super().__init__(folder, port)
        self.behind = behind

    def url(self, database: str = "postgres", *, user: str = ADMIN) -> str:
        return self.behind.url(database, user=user, port=self.port)

    @staticmethod
    def missing() -> str | None:
        if _program() is None:
            return "PgBouncer is not installed: `make services`, or as root `apt-get install pgbouncer`"
        return None

    def prepare(self) -> None:
        users = "".join(f'"{user}" "{self.behind.password}"\n' for user in (ADMIN, PLAIN))
        settings = SETTINGS.format(
            host=LOOPBACK, port=self.port, behind=self.behind.port, folder=self.folder, admin=ADMIN
        )
        for name, text in (("users", users), ("settings.ini", settings)):
            file = self.folder / name
            file.touch(mode=0o600)
            file.write_text(text)
            self._give(file)

    def command(self) -> list[str]:
        return [str(_program()), str(self.folder / "settings.ini")]

    def ready(self) -> bool:
        return listens(self.port)

    def stop(self) -> None:
        """It keeps nothing, and newer versions wait for their clients to leave: it is ended at once."""
        self.kill()


def _program() -> str | None:
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
