"""Certificates for tests: an authority of our own, a server's for loopback, and a client's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from services.places import LOOPBACK, ServiceError


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files. `server_chain` holds the key and the certificate in one file, as Kafka wants it."""

    ca: Path
    server_key: Path
    server: Path
    server_chain: Path
    client_key: Path
    client: Path

    def all(self) -> Iterator[Path]:
        return (getattr(self, each.name) for each in fields(self))


def certificates(folder: Path) -> Certificates:
    """Those of this folder; made by openssl, for ten years, where there are none."""
    made = Certificates(
        *(folder / name for name in ("ca.crt", "server.key", "server.crt", "server.pem", "client.key", "client.crt"))
    )
    if not made.client.exists():
        _make(folder, made)
    return made


def _make(folder: Path, made: Certificates) -> None:
    if shutil.which("openssl") is None:
        raise ServiceError("there is no openssl to make test certificates: as root `apt-get install openssl`")
    folder.mkdir(parents=True, exist_ok=True)
    ca_key = folder / "ca.key"
    _new(ca_key, made.ca, "evenflow tests", [])
    signed = ["-CA", str(made.ca), "-CAkey", str(ca_key)]
    _new(made.server_key, made.server, "localhost", [*signed, "-addext", f"subjectAltName=DNS:localhost,IP:{LOOPBACK}"])
    made.server_chain.touch(mode=0o600)
    made.server_chain.write_text(made.server_key.read_text() + made.server.read_text())
    _new(made.client_key, made.client, "evenflow", signed)


def _new(key: Path, certificate: Path, name: str, more: list[str]) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "3650", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceError(f"openssl could not make {certificate}: {done.stderr.strip()}")
    key.chmod(0o600)
