"""Apache Kafka: one node in KRaft mode, on loopback, with every kind of listener that a client meets."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from services.certificates import certificates
from services.kafka_jars import OLDEST_JAVA, classes, jars, java_version
from services.kafka_settings import PORTS, PROXIED, USER, settings
from services.places import LOOPBACK, ServiceError, listens
from services.proxy import Proxy
from services.server import Server


class Kafka(Server):
    """It takes `PORTS` ports in a row. Listeners: `address` without password or TLS, `sasl` (PLAIN, SCRAM-SHA-256 and
    -512), `sasl_tls` the same in TLS, `tls` (a client's certificate is asked for, not demanded). User: `evenflow`.

    A few listeners more are announced to clients under the port of a proxy: see `proxied`. `extra` are further lines of
    `server.properties`, read at each start; `java` are options of Java.
    """

    name = "kafka"

    def __init__(self, folder: Path | str, port: int, *, extra: str = "", java: Sequence[str] = ()) -> None:
        super().__init__(folder, port)
        self.extra = extra
        self.java = java
        self.sasl, self.sasl_tls, self.tls = (f"{LOOPBACK}:{port + offset}" for offset in (2, 3, 4))

    @property
    def ca(self) -> Path:
        """The certificate that its clients trust (`ssl.ca.location`); a client's own lies beside it."""
        return certificates(self.folder / "tls").ca

    @staticmethod
    def missing() -> str | None:
        version = java_version()
        if version is None or version < OLDEST_JAVA:
            package = f"openjdk-{OLDEST_JAVA}-jre-headless"
            return f"Java {OLDEST_JAVA} is not installed: `make services`, or as root `apt-get install {package}`"
        if not jars().exists():
            return "Apache Kafka has not been fetched: `make services` has Maven do it"
        return None

    @contextmanager
    def proxied(self) -> Iterator[Proxy]:
        """A proxy that really stands in the way: what this listener tells clients about the broker is the proxy's port.

        At most four at a time, over all processes.
        """
        for listens_on, announced in self._proxied():
            try:
                proxy = Proxy(listens_on, port=announced)
            except OSError:
                continue
            with proxy:
                yield proxy
            return
        raise ServiceError(f"all {PROXIED} listeners behind proxies are in use")

    def url(self) -> str:
        """By which Evenflow finds it: a single broker has to be allowed."""
        return f"kafka://{self.address}?allow_unsafe=single"

    def ports(self) -> list[int]:
        return [self.port + each for each in range(PORTS - PROXIED)]  # the last ones are for proxies

    def prepare(self) -> None:
        file = self.folder / "server.properties"
        file.touch(mode=0o600)
        certificates(self.folder / "tls")
        file.write_text(settings(self.folder, self.port, self._proxied(), self.password) + self.extra + "\n")
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(file)

    def command(self) -> list[str]:
        options = ["-Xmx512m", "-Xms128m", "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        if classes().exists():
            options.append(f"-XX:SharedArchiveFile={classes()}")
        return [*_java(*options, *self.java), "kafka.Kafka", str(self.folder / "server.properties")]

    def ready(self) -> bool:
        if not listens(self.port):
            return False
        try:
            return bool(self.admin().list_topics(timeout=1.0).brokers)
        except KafkaException:
            return False

    def admin(self) -> AdminClient:
        """A client for making and dropping topics. It logs nothing."""
        return AdminClient({"bootstrap.servers": self.address, "log_level": 0})

    def _proxied(self) -> list[tuple[int, int]]:
        """Where each of those listens, and the port that it announces."""
        first = self.port + PORTS - 2 * PROXIED
        return [(first + each, first + PROXIED + each) for each in range(PROXIED)]

    def _format(self, file: Path) -> None:
        cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=").replace("-", "a")
        tool = _java("-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error")
        command = [*tool, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(file)]
        for kind in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            command += ["--add-scram", f"{kind}=[name={USER},password={self.password}]"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServiceError(f"Kafka could not make its data folder:\n{(done.stdout + done.stderr)[-2000:]}")


def _java(*options: str) -> list[str]:
    return ["java", *options, "-cp", f"{jars()}/*"]
