"""Installing what the servers need from Debian's packages and from Maven, without starting anything of the system's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services import kafka_jars
from services.kafka_jars import OLDEST_JAVA, java_version
from services.pgbouncer import PgBouncer
from services.places import ServiceError
from services.postgres import Postgres
from services.private import private_kafka

POLICY = Path("/usr/sbin/policy-rc.d")  # Debian asks it whether a package may start its service
CLUSTERS = Path("/etc/postgresql-common/createcluster.conf")


def install(names: Sequence[str], say: Callable[[str], None]) -> None:
    """Install what these servers need and is missing. Raises `ServiceError` with the command where we may not."""
    if packages := needed(names):
        say(f"installing {' '.join(packages)} with apt-get")
        _packages(packages)
    if "kafka" in names and not kafka_jars.jars().exists():
        say("fetching Apache Kafka with Maven")
        kafka_jars.fetch()
    if "kafka" in names and not kafka_jars.classes().exists():
        say("running Apache Kafka once, to start faster from now on")
        _keep_classes()


def _keep_classes() -> None:
    part = kafka_jars.classes().with_suffix(".part")
    with private_kafka(java=[f"-XX:ArchiveClassesAtExit={part}"]) as server:
        server.stop()
    part.rename(kafka_jars.classes())


def needed(names: Sequence[str]) -> list[str]:
    """The packages that are missing."""
    packages = []
    if "postgres" in names and Postgres.missing():
        packages.append("postgresql")
    if "pgbouncer" in names and PgBouncer.missing():
        packages.append("pgbouncer")
    if "kafka" in names:
        version = java_version()
        if version is None or version < OLDEST_JAVA:
            packages.append(_java())
        if shutil.which("mvn") is None and not kafka_jars.jars().exists():
            packages.append("maven")
    if packages and shutil.which("openssl") is None:
        packages.append("openssl")
    return packages


def _java() -> str:
    """The oldest Java that will do, or where the system is newer than that, its own."""
    oldest = f"openjdk-{OLDEST_JAVA}-jre-headless"
    if shutil.which("apt-cache") is None:
        return oldest
    asked = subprocess.run(["apt-cache", "show", oldest], capture_output=True, check=False)
    return "default-jre-headless" if asked.returncode else oldest


def _packages(packages: list[str]) -> None:
    command = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise ServiceError(f"there is no apt-get here; install with what there is: {', '.join(packages)}")
    if os.geteuid():
        raise ServiceError(f"this needs root: `sudo {command}`, then again")
    _apt("update")
    with _nothing_started():
        if "postgresql" in packages:
            with _no_cluster():
                _apt("install", "postgresql")
        _apt("install", *packages)


def _apt(*words: str) -> None:
    command = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold", *words]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise ServiceError(f"`apt-get {' '.join(words)}` failed:\n{done.stdout[-2000:]}")


@contextmanager
def _nothing_started() -> Iterator[None]:
    """No package starts its service while it is installed, nor with the next boot."""
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    new = PgBouncer.missing() is not None
    try:
        yield
    finally:
        if ours:
            POLICY.unlink()
        if new and PgBouncer.missing() is None and shutil.which("systemctl"):
            subprocess.run(["systemctl", "disable", "pgbouncer"], capture_output=True, check=False)


@contextmanager
def _no_cluster() -> Iterator[None]:
    """The package of PostgreSQL makes no cluster of its own. The file that says so is afterwards as it was."""
    _apt("install", "postgresql-common")
    before = CLUSTERS.read_bytes()
    CLUSTERS.write_bytes(before + b"\ncreate_main_cluster = false\n")
    try:
        yield
    finally:
        CLUSTERS.write_bytes(before)
