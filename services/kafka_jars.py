"""Apache Kafka as Maven's central repository has it: fetched once per checkout."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from services.places import ServiceError, home

POM = Path(__file__).parent / "kafka.pom.xml"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
OLDEST_JAVA = 17


def jars() -> Path:
    """The folder of the jars, whether they are there or not."""
    version = re.search(r"kafka_2.13</artifactId>\s*<version>(.+?)<", POM.read_text("utf-8"))
    assert version is not None
    return home() / f"kafka-{version[1]}"


def classes() -> Path:
    """What Java has kept of the loaded classes of a broker that ran once: half the work of a start is done with it."""
    return jars() / "classes.jsa"


def java_version() -> int | None:
    """The major version of the java on PATH, or None."""
    java = shutil.which("java")
    return None if java is None else _version(java)


@cache
def _version(java: str) -> int | None:
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else None


def fetch() -> None:
    """Have Maven put the jars into their folder, where they are not: 64 MB."""
    folder = jars()
    if folder.exists():
        return
    if shutil.which("mvn") is None:
        raise ServiceError("Maven is not installed: as root `apt-get install maven`")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-f", str(POM), COPY, f"-DoutputDirectory={part}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceError(f"Maven could not fetch Apache Kafka:\n{(done.stdout + done.stderr)[-2000:]}")
    part.rename(folder)
