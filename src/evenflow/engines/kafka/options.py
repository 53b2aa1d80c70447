"""What a `kafka:` URL says, and the settings of the client library that follow from it.

kafka://host:9092,host:9092                              no password, no encryption
kafka://user:password@host:9093?tls=true&ca=/etc/ca.pem  SCRAM-SHA-512 over TLS
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from evenflow.errors import SettingsError

_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^:/@,\s\[\]]+):([0-9]{1,5})")
_FORM = "write kafka://host:9092, or kafka://user:password@host:9092,other:9092?tls=true"


NO_ANSWER = 2_000
"""Milliseconds after which a broker that does not answer is connected to anew, for a firewall may have forgotten the
connection; beside the time that the largest question or answer takes on a slow line. What was appended twice for it
counts once, since the producer is idempotent."""
SLOW = 4_000
"""Bytes that a slow line brings in a millisecond: 32 Mbit/s."""
FETCH = 4 << 20
"""Bytes that a broker gives a reader at once, unless a single record is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOptions:
    """tls: encrypt, and verify the brokers' certificates against `ca` (a file; empty: the system's).
    certificate, key: files of a client's certificate, where the brokers ask for one.
    mechanism: how a user and password are shown.
    replication: copies of a new topic, 0 for three (or as many as there are brokers).
    headers: "compact" (one header per record) or "cloudevents" (those of CloudEvents 1.0, binary mode, as well).
    compression: of what is appended.
    deadline: seconds after which an append that nobody has confirmed is unknown.
    max_bytes: a record may be as large, its headers included; new topics are made so.
    grown: topics whose partitions were increased by hand, and that are to be used as they are now.
    allow_unsafe: what is taken on the user's own risk: "single" (one broker, so one copy), "replicas" (too few copies
    that must have a record before it counts as stored), "election" (a broker without the newest records may lead).
    """

    tls: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""
    mechanism: Literal["plain", "scram-sha-256", "scram-sha-512"] = "scram-sha-512"
    replication: int = 0
    headers: Literal["compact", "cloudevents"] = "compact"
    compression: Literal["none", "lz4", "zstd", "snappy", "gzip"] = "none"
    deadline: float = 30.0
    max_bytes: int = 1_114_112
    grown: frozenset[str] = frozenset()
    allow_unsafe: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """The brokers to begin with, and who we are there."""

    brokers: str
    user: str = ""
    password: str = ""

    def __str__(self) -> str:
        return self.brokers


def address(rest: str, shown: str) -> Address:
    """The address in a URL, which is shown as `shown` in an error. Raises `SettingsError`."""
    who, at, brokers = rest.removeprefix("//").rstrip("/").rpartition("@")
    user, colon, password = who.partition(":")
    wrong = [each for each in brokers.split(",") if not (found := _ADDRESS.fullmatch(each)) or int(found[1]) > 65535]
    if not rest.startswith("//") or wrong:
        what = f"{wrong[0]!r} is no host:port" if wrong and wrong[0] else "it names no broker"
        raise SettingsError(f"{shown}: {what}", remedy=_FORM)
    if at and not (user and colon and password):
        raise SettingsError(f"{shown} names a user without a password", remedy=_FORM)
    return Address(brokers, unquote(user), unquote(password))


def client_settings(address: Address, options: KafkaOptions) -> dict[str, Any]:
    """What all our clients are made with: how to connect, and how fast to do so again."""
    found: dict[str, Any] = {
        "bootstrap.servers": address.brokers,
        "client.id": "evenflow",
        "security.protocol": ("sasl_" if address.user else "") + ("ssl" if options.tls else "plaintext"),
        "socket.keepalive.enable": True,
        "socket.nagle.disable": True,
        "socket.timeout.ms": NO_ANSWER + max(options.max_bytes, FETCH) // SLOW,
        "socket.connection.setup.timeout.ms": 3_000,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        "retry.backoff.ms": 50,
        "topic.metadata.refresh.fast.interval.ms": 100,
        "topic.metadata.propagation.max.ms": 1_000,
    }
    if address.user:
        found |= {
            "sasl.mechanism": options.mechanism.upper(),
            "sasl.username": address.user,
            "sasl.password": address.password,
        }
    files = {"ssl.ca.location": options.ca, "ssl.certificate.location": options.certificate}
    found |= {name: value for name, value in files.items() if value and options.tls}
    if options.key and options.tls:
        found["ssl.key.location"] = options.key
    return found


BATCH = 1 << 18
"""Bytes that a producer sends together, unless a topic takes fewer."""


def producer_settings(options: KafkaOptions, batch: int = BATCH) -> Mapping[str, Any]:
    """Beside the settings of every client, those of the producer. `batch`: bytes that it sends together.

    It never gives a record up by itself, since that would leave a gap that later records of the partition do not
    have: the deadline is ours, and ends with another producer.
    """
    return {
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 0,
        "message.timeout.ms": 0,
        "request.timeout.ms": 10_000,
        "message.max.bytes": options.max_bytes,
        "batch.size": batch,
        "compression.type": options.compression,
        "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 2_000_000,
        "partitioner": "consistent_random",
    }


def reader_settings(options: KafkaOptions) -> Mapping[str, Any]:
    """Beside the settings of every client, those of a reader: it owns no position and commits nothing."""
    return {
        "group.id": "evenflow-reader",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "allow.auto.create.topics": False,
        "check.crcs": True,
        "fetch.queue.backoff.ms": 10,
        "fetch.error.backoff.ms": 50,
        "fetch.wait.max.ms": 250,
        "fetch.message.max.bytes": max(1 << 20, options.max_bytes),
        "fetch.max.bytes": max(FETCH, options.max_bytes),
        "queued.min.messages": 10_000,
        "queued.max.messages.kbytes": 16_384,
    }
