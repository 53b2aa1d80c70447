"""PostgreSQL from the system's packages: one cluster in a folder, durable, with passwords (SCRAM) and TLS."""

from __future__ import annotations

import signal
import subprocess
from functools import cache
from pathlib import Path

from services.certificates import certificates
from services.places import LOOPBACK, ServiceError
from services.processes import as_user, dead
from services.server import Server

ADMIN = "evenflow"
PLAIN = "evenflow_plain"
TLS_ONLY = "evenflow_tls"

# fsync, synchronous_commit and full_page_writes stay on, as PostgreSQL ships them
SETTINGS = """\
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
max_connections = 200
shared_buffers = 128MB
timezone = 'UTC'
password_encryption = 'scram-sha-256'
ssl = on
ssl_ca_file = '{folder}/tls/ca.crt'
ssl_cert_file = '{folder}/tls/server.crt'
ssl_key_file = '{folder}/tls/server.key'
log_line_prefix = '%m [%p] %q%u@%d '
{extra}
"""

ACCESS = f"""\
hostssl   all {TLS_ONLY} {LOOPBACK}/32 scram-sha-256
hostnossl all {TLS_ONLY} {LOOPBACK}/32 reject
host      all all        {LOOPBACK}/32 scram-sha-256
"""


class Postgres(Server):
    """Users: `evenflow` may do everything, `evenflow_plain` what it is granted, `evenflow_tls` connects by TLS only.

    `extra` are further lines of `postgresql.conf`, read at each start.
    """

    name = "postgres"
    user = "postgres"
    ending = signal.SIGINT  # "fast": open transactions are rolled back

    def __init__(self, folder: Path | str, port: int, *, extra: str = "") -> None:
        super().__init__(folder, port)
        self.extra = extra

    def url(self, database: str = "postgres", *, user: str = ADMIN, port: int | None = None) -> str:
        """Where a client goes; `port` is a proxy's or a pooler's, if it shall go through one."""
        return f"postgresql://{user}:{self.password}@{LOOPBACK}:{port or self.port}/{database}"

    @property
    def ca(self) -> Path:
        """The certificate that its clients trust (`sslrootcert`)."""
        return self.folder / "tls" / "ca.crt"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @staticmethod
    def missing() -> str | None:
        if _programs() is None:
            return "PostgreSQL is not installed: `make services`, or as root `apt-get install postgresql`"
        return None

    def prepare(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._make()
        self._unlock()
        tls = certificates(self.folder / "tls")
        for each in tls.all():
            self._give(each)
        text = SETTINGS.format(host=LOOPBACK, port=self.port, folder=self.folder, extra=self.extra)
        for name, content in (("postgresql.conf", text), ("pg_hba.conf", ACCESS)):
            (self.data / name).write_text(content)
            self._give(self.data / name)

    def command(self) -> list[str]:
        return [program("postgres"), "-D", str(self.data)]

    def ready(self) -> bool:
        asked = [program("pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port), "-d", "postgres", "-t", "1"]
        return subprocess.run(asked, check=False, capture_output=True, cwd="/").returncode == 0

    def _unlock(self) -> None:
        """PostgreSQL takes its lock for a living server's while a killed one is a zombie, perhaps for ever."""
        lock = self.data / "postmaster.pid"
        if lock.exists() and dead(int(lock.read_text().split()[0])):
            lock.unlink()

    def _make(self) -> None:
        """A new cluster. It is whole only once it has its name, so a start that was killed begins again."""
        part = self.folder / "data.part"
        self._run(["rm", "-rf", str(part)])
        password = f"'{self.password}'"
        made = ["-U", ADMIN, f"--pwfile={self.folder / 'password'}", "--auth=scram-sha-256", "--no-sync"]
        self._run([program("initdb"), "-D", str(part), *made, "--encoding=UTF8", "--locale=C.UTF-8"])
        roles = "".join(f"create role {role} login password {password};\n" for role in (PLAIN, TLS_ONLY))
        self._run([program("postgres"), "--single", "-D", str(part), "postgres"], roles)
        part.rename(self.data)

    def _run(self, command: list[str], text: str = "") -> None:
        done = subprocess.run(
            command, input=text, text=True, capture_output=True, check=False, cwd=self.folder, **as_user(self.user)
        )
        if done.returncode:
            raise ServiceError(f"{' '.join(command[:3])} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, of the newest version that is installed."""
    found = _programs()
    if found is None:
        raise ServiceError(str(Postgres.missing()))
    return str(found / name)


@cache
def _programs_once(names: tuple[str, ...]) -> Path | None:
    return max((Path(each) for each in names), key=lambda each: int(each.parent.name), default=None)


def _programs() -> Path | None:
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    return _programs_once(tuple(sorted(str(each) for each in folders if (each / "initdb").exists())))
