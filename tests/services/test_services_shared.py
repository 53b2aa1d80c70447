"""The shared servers: started once, stopped by the last who leaves, wherever ports are free."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import NewTopic

from services import installing, places, shared
from services.__main__ import main
from services.places import LOOPBACK, ROOT, ServiceError, free_ports
from services.postgres import Postgres
from tests import servers


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout's folder of servers of our own, with PostgreSQL at most."""
    servers.need("postgres")
    folder = Path(tempfile.mkdtemp(prefix="evenflow-services-"))
    folder.chmod(0o711)
    monkeypatch.setenv("SERVICES_FOLDER", str(folder))
    yield folder
    shared.stop()
    shutil.rmtree(folder)


def soon(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_test_gets_a_database_of_its_own(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("create table t (id int)")
    with servers.database() as other, psycopg.connect(other) as connection:
        assert connection.execute("select to_regclass('t')").fetchone() == (None,)
        safe = "select current_setting('fsync'), current_setting('synchronous_commit')"
        assert connection.execute(safe).fetchone() == ("on", "on")


def test_a_test_gets_a_prefix_of_its_own(kafka_at: servers.KafkaAt) -> None:
    admin = servers.kafka().admin()
    with servers.topics() as at:
        for done in admin.create_topics([NewTopic(f"{at.prefix}a", 1)]).values():
            done.result(10.0)
        assert at.prefix != kafka_at.prefix
        soon(lambda: f"{at.prefix}a" in admin.list_topics(timeout=5.0).topics)
    soon(lambda: f"{at.prefix}a" not in admin.list_topics(timeout=5.0).topics)


def test_a_missing_server_skips_on_a_laptop_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Postgres, "missing", staticmethod(lambda: "PostgreSQL is not installed: do this"))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="do this"):
        servers.need("pgbouncer")  # which stands on it
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="do this"):
        servers.need("postgres")


def test_what_is_missing_is_installed_or_the_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Postgres, "missing", staticmethod(lambda: "not there"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(ServiceError, match="needs root: `sudo apt-get install --no-install-recommends postgresql`"):
        installing.install(["postgres"], print)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ServiceError, match="no apt-get here; install with what there is: postgresql, openssl"):
        installing.install(["postgres"], print)
    with pytest.raises(ServiceError, match="PostgreSQL|not there"):
        Postgres("/nowhere/at/all", 1).start()


def test_start_stop_status_and_who_leaves_last(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "postgres"]) == 3
    with shared.Use():
        with shared.Use():
            (server,) = shared.start(["postgres"])
            process = server.process
        assert server.process == process is not None  # the other one is still there
        shared.start(["postgres"])
        assert server.process == process
    assert not server.running

    assert main(["start", "postgres"]) == 0
    with shared.Use():
        pass
    assert server.running  # started to be kept
    assert main(["status", "postgres"]) == 0
    assert main(["stop"]) == 0 and not server.running
    assert main(["stop"]) == 0
    assert main(["wipe", "postgres"]) == 0 and not server.folder.exists()
    assert main(["start", "mysql"]) == 1
    out, err = capsys.readouterr()
    assert "postgres: does not run" in out and f"runs on {server.address}" in out and "postgres: stopped" in out
    assert err == "services: there is no server 'mysql': postgres, pgbouncer, kafka\n"


def test_ports_of_others_are_left_alone(elsewhere: Path) -> None:
    (server,) = shared.start(["postgres"])
    first = server.port
    shared.stop()
    with socket.create_server((LOOPBACK, first + 1)):
        (server,) = shared.start(["postgres"])
        moved = server.port
        assert moved >= first + places.BLOCK and shared.postgres().port == moved
        shared.stop()
    (server,) = shared.start(["postgres"])  # the ports of last time, though the first ones are free again
    assert server.port == moved


def test_ports_that_are_claimed_are_given_to_nobody_else() -> None:
    with free_ports() as one, free_ports() as other:
        assert abs(one - other) >= places.BLOCK


def test_processes_that_start_at_once_share_one(elsewhere: Path) -> None:
    command = [sys.executable, "-m", "services", "start", "postgres"]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {each.communicate(timeout=60)[0] for each in started}
    assert len(said) == 1 and [each.returncode for each in started] == [0, 0, 0]
    with psycopg.connect(shared.postgres().url()) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_repository_that_others_may_not_enter_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SERVICES_FOLDER", raising=False)
    monkeypatch.setattr(places, "ROOT", tmp_path / "checkout")
    (tmp_path / "checkout").mkdir()
    tmp_path.chmod(0o700)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert places.home().parent == Path(tempfile.gettempdir())
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert places.home() == tmp_path / "checkout" / ".services"
