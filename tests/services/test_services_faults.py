"""What happens to servers: killed, frozen, out of disk, cut off. Each on a server of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from services import processes
from services.disk import small_disk
from services.kafka import Kafka
from services.places import ROOT, ServiceError
from services.private import private_kafka, private_postgres
from tests import servers

SOON = 30.0


def soon(condition: Callable[[], object]) -> None:
    until = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_postgres_keeps_what_it_confirmed() -> None:
    servers.need("postgres")
    with private_postgres(extra="max_connections = 20") as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            assert connection.execute("show max_connections").fetchone() == ("20",)
            connection.execute("create table t as select 1 as n")

            server.freeze()
            with pytest.raises(psycopg.OperationalError, match="timeout"):
                psycopg.connect(server.url(), connect_timeout=2)
            server.thaw()
            assert connection.execute("select n from t").fetchone() == (1,)  # the connection has outlived it

            whole = processes.tree(server.process)
            server.kill()
            assert len(whole) > 3 and not any(each.alive() for each in whole)
            with pytest.raises(psycopg.OperationalError):
                connection.execute("select n from t")
        server.start()
        with psycopg.connect(server.url()) as connection:
            assert connection.execute("select n from t").fetchone() == (1,)
        server.freeze()
        server.restart()  # thaws it to stop it
        with (
            psycopg.connect(server.url(user="evenflow_plain")) as connection,
            pytest.raises(psycopg.Error, match="perm"),
        ):
            connection.execute("select n from t")
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            psycopg.connect(server.url(user="evenflow_tls"), sslmode="disable")
        tls = {"sslmode": "verify-full", "sslrootcert": str(server.ca)}
        psycopg.connect(server.url(user="evenflow_tls"), **tls).close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.url().replace(server.password, "wrong"))
    assert not server.running and not server.folder.exists()


def test_a_full_disk_under_postgres() -> None:
    servers.need("postgres")
    try:
        with small_disk(120) as disk, private_postgres(disk) as server, psycopg.connect(server.url()) as connection:
            with pytest.raises(psycopg.OperationalError):  # DiskFull, or the server is gone: its log had no room
                connection.execute("create table t as select repeat('x', 1000) from generate_series(1, 200000)")
    except ServiceError as error:
        if "right to mount" in str(error):
            servers.refuse(str(error))
        raise


def test_a_server_that_cannot_start_says_why() -> None:
    servers.need("postgres")
    with pytest.raises(ServiceError, match=r"postgres ended while it started(?s:.*)no_such_setting"):
        with private_postgres(extra="no_such_setting = 1"):
            pass


def test_a_test_that_is_killed_leaves_no_server() -> None:
    servers.need("postgres")
    program = """
from services.private import private_postgres
with private_postgres() as server:
    print(server.process.pid, server.process.born, server.folder, flush=True)
    input()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as test:
        assert test.stdout is not None
        pid, born, folder = test.stdout.readline().split()
        left = processes.Process(int(pid), int(born))
        assert left.alive()
        test.kill()
    soon(lambda: not left.alive())


def produce(at: str, topic: str, value: bytes) -> None:
    settings = {"bootstrap.servers": at, "log_level": 0, "message.timeout.ms": 20_000, "acks": "all"}
    producer = Producer(settings)
    trouble: list[object] = []
    producer.produce(topic, value, on_delivery=lambda error, _: trouble.append(error))
    producer.flush(SOON)
    assert trouble == [None]


def consume(at: str, topic: str, count: int, seconds: float = SOON) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": at, "log_level": 0, "group.id": "t", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [each.value() for each in consumer.consume(count, timeout=seconds)]
    finally:
        consumer.close()


def made(server: Kafka, topic: str) -> str:
    admin = server.admin()
    for done in admin.create_topics([NewTopic(topic, 1)]).values():
        done.result(SOON)
    return topic


def test_kafka_keeps_what_it_confirmed_and_can_be_cut_off() -> None:
    servers.need("kafka")
    with private_kafka() as server:
        topic = made(server, "t")
        produce(server.address, topic, b"1")
        server.kill()
        server.start()
        produce(server.address, topic, b"2")
        server.freeze()
        with pytest.raises(KafkaException):
            server.admin().list_topics(timeout=0.5)
        server.thaw()
        assert consume(server.address, topic, 2) == [b"1", b"2"]

        with server.proxied() as proxy, server.proxied() as other:
            assert proxy.port != other.port
            produce(proxy.address, topic, b"3")
            proxy.cut()
            assert consume(proxy.address, topic, 1, 1.0) == []
            assert consume(other.address, topic, 3) == [b"1", b"2", b"3"]
    assert not server.running and not server.folder.exists()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_kafka_takes_passwords_and_tls(mechanism: str) -> None:
    from confluent_kafka.admin import AdminClient

    server = servers.kafka()
    user = {"sasl.mechanism": mechanism, "sasl.username": "evenflow", "sasl.password": server.password, "log_level": 0}
    ca = {"ssl.ca.location": str(server.ca)}
    for at, settings in (
        (server.sasl, {"security.protocol": "SASL_PLAINTEXT"} | user),
        (server.sasl_tls, {"security.protocol": "SASL_SSL"} | user | ca),
        (server.tls, {"security.protocol": "SSL", "log_level": 0} | ca),
    ):
        assert AdminClient({"bootstrap.servers": at} | settings).list_topics(timeout=SOON).brokers
    wrong = (
        {"bootstrap.servers": server.sasl, "security.protocol": "SASL_PLAINTEXT"} | user | {"sasl.password": "wrong"}
    )
    with pytest.raises(KafkaException):
        AdminClient(wrong).list_topics(timeout=1.0)
