"""The text of Kafka's `server.properties`."""

from __future__ import annotations

from pathlib import Path

from services.places import LOOPBACK

PROXIED = 4
PORTS = 5 + 2 * PROXIED
USER = "evenflow"

REST = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
auto.create.topics.enable=false

# a single node: one copy of the internal topics, and few partitions, so that it starts fast
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216

# rights can be taken away by rules; where there is no rule everything is allowed
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
super.users=User:ANONYMOUS

# tests only: retention is looked at each second, and what is deleted goes at once
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=500
file.delete.delay.ms=1000

# tests only: a dead consumer is noticed fast (defaults: 6000 for the classic protocol, 45000 and 5000 for the new one)
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=200
group.consumer.session.timeout.ms=6000
group.consumer.heartbeat.interval.ms=1000

# tests only: start again fast after a SIGKILL (a broker waits until its old registration has run out; 9000 and 2000)
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""

MODULE = "org.apache.kafka.common.security"

SASL = """\
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.{name}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{user}="{password}";
listener.name.{name}.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.{name}.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
"""

TLS = """\
listener.name.{name}.ssl.keystore.type=PEM
listener.name.{name}.ssl.keystore.location={folder}/tls/server.pem
listener.name.{name}.ssl.truststore.type=PEM
listener.name.{name}.ssl.truststore.location={folder}/tls/ca.crt
listener.name.{name}.ssl.client.auth=requested
"""


def settings(folder: Path, port: int, proxied: list[tuple[int, int]], password: str) -> str:
    """All lines. `proxied`: where those listeners listen, and the port that each announces."""
    # name, kind, where it listens, what it announces
    listeners = [
        ("PLAIN", "PLAINTEXT", port, port),
        ("SASL", "SASL_PLAINTEXT", port + 2, port + 2),
        ("SASLTLS", "SASL_SSL", port + 3, port + 3),
        ("TLS", "SSL", port + 4, port + 4),
        *((f"PROXIED{n}", "PLAINTEXT", *ports) for n, ports in enumerate(proxied)),
    ]
    lines = [
        f"log.dirs={folder}/data",
        f"controller.quorum.voters=1@{LOOPBACK}:{port + 1}",
        f"inter.broker.listener.name={listeners[0][0]}",
        "listeners="
        + ",".join(
            [*(f"{name}://{LOOPBACK}:{at}" for name, _, at, _ in listeners), f"CONTROLLER://{LOOPBACK}:{port + 1}"]
        ),
        "advertised.listeners=" + ",".join(f"{name}://{LOOPBACK}:{told}" for name, _, _, told in listeners),
        "listener.security.protocol.map="
        + ",".join(["CONTROLLER:PLAINTEXT", *(f"{name}:{kind}" for name, kind, _, _ in listeners)]),
        *(f"listener.name.{name.lower()}.num.network.threads=1" for name, _, _, _ in listeners[1:]),
    ]
    text = "\n".join(lines) + "\n" + REST
    for name in ("sasl", "sasltls"):
        text += SASL.format(name=name, module=MODULE, user=USER, password=password)
    for name in ("sasltls", "tls"):
        text += TLS.format(name=name, folder=folder)
    return text
