"""`evenflow doctor URL`: what a server says of itself, and a clear word with a remedy where it cannot be reached."""

import asyncio
import re
import time
from types import SimpleNamespace

import pytest

from evenflow import App, Event, Service, Topic, Transaction
from evenflow.cli import main
from evenflow.clock import SystemClock
from evenflow.engines.kafka.engine import KafkaEngine
from evenflow.engines.kafka.examine import _copies, _rights
from evenflow.engines.kafka.options import KafkaOptions
from evenflow.operate.doctor_url import examine_url
from evenflow.settings import Settings
from services.private import private_postgres
from tests import servers

ORDERS = Topic("orders", partitions=2)


class Placed(Event, type="doctor.placed", topic=ORDERS, key="order"):
    order: str


def shop():
    billing = Service("billing")

    @billing.on(Placed, group="charge", start="beginning")
    async def charge(placed: Placed, tx: Transaction) -> None:
        pass

    return App(billing, name="shop", events=[Placed])


async def ran(settings):
    """A service has handled three events."""
    app = shop()
    async with app.open(settings=settings, handle=True):
        for number in range(3):
            await app.publish(Placed(order=f"o{number}"))
        assert await app.wait_idle(20.0)


def doctor(capsys, *arguments):
    """The exit code and all that was printed; it came within seconds."""
    began = time.monotonic()
    code = main(["doctor", *arguments])
    printed = capsys.readouterr()
    assert time.monotonic() - began < 15.0
    shown = printed.out + printed.err
    assert "Traceback" not in shown and "secret" not in shown
    return code, shown


# -- a server that is well ---------------------------------------------------------------------------------------------


def test_a_database_tells_of_its_log_and_of_each_store(postgres_url, capsys):
    code, shown = doctor(capsys, postgres_url)
    assert code == 0 and "the schema evenflow_log is not there yet" in shown and "clock: " in shown
    settings = Settings.load({"engine": postgres_url, "store": f"{postgres_url}?schema=s_{{service}}"}, env={})
    asyncio.run(ran(settings))
    code, shown = doctor(capsys, postgres_url)
    assert code == 0, shown
    assert "the event log in schema evenflow_log: " in shown and "the store in schema s_billing: " in shown
    assert "topic orders: 2 partitions, 3 offsets kept" in shown
    identity = re.search(r"identity: (\S+):", shown)[1]
    assert f"group billing.charge: 0 events wait, as it has told; its positions are in the store {identity}" in shown
    assert "group billing.charge: reads orders" in shown and "outbox: empty" in shown
    assert shown.count("fsync: on") == 1, "what two schemas have in common is said once"
    _, of_log = doctor(capsys, postgres_url, "--as", "engine")
    assert "topic orders" in of_log and "outbox" not in of_log
    _, of_store = doctor(capsys, f"{postgres_url}?schema=s_billing&pool=2", "--as", "store")
    assert "outbox" in of_store and "topic orders" not in of_store
    _, of_schema = doctor(capsys, f"{postgres_url}?schema=s_billing&pool=2")
    assert "outbox" in of_schema and "topic orders" not in of_schema


def test_kafka_tells_of_topics_and_groups(kafka_at, monkeypatch, tmp_path):
    prefix = kafka_at.prefix

    def ours(listing):
        async def listed(self):
            return [each for each in await listing(self) if each.startswith(prefix)]  # other tests' are there too

        return listed

    for name in ("topics", "groups"):
        monkeypatch.setattr(KafkaEngine, name, ours(getattr(KafkaEngine, name)))
    settings = Settings.load(
        {"engine": kafka_at.url, "store": f"sqlite:///{tmp_path}/{{service}}.db", "topic_prefix": prefix,
         "group_prefix": prefix}, env={},
    )  # fmt: skip

    async def main():
        await ran(settings)
        found = [each async for each in examine_url(kafka_at.url, SystemClock())]
        assert not [each for each in found if each.level == "wrong"]
        said = {each.about: each.message for each in found}
        assert said[f"topic {prefix}orders"] == "2 partitions, 3 offsets kept"
        told = said[f"group {prefix}billing.charge"]
        assert re.match(r"\d events wait.*, as it has told; its positions are in the store \S+$", told), told
        assert said["rights"] == "an unnamed user may make topics"
        assert [each.about for each in found if each.about.startswith("group")] == [f"group {prefix}billing.charge"]

    asyncio.run(main())


def test_as_is_for_urls_alone(capsys):
    assert doctor(capsys, "shop:app", "--as", "store")[0] != 0
    code, shown = doctor(capsys, "kafka://h:1", "--as", "store")
    assert code == 2 and "no URL of a store" in shown


# -- a server that is not ----------------------------------------------------------------------------------------------


def postgres_urls():
    server = servers.postgres()
    return {
        "nobody there": ("postgresql://u:secret@127.0.0.1:1/d", "see that the server runs"),
        "no such host": ("postgresql://u:secret@nobody.invalid/d", "correct the host"),
        "wrong password": (server.url().replace(server.password, "secret"), "correct the user or the password"),
        "no database": (server.url("nodatabase"), "make the role or the database"),
        "no tls": (server.url(user="evenflow_tls") + "?sslmode=disable", "sslmode=require"),
        "untrusted": (server.url() + "?sslmode=verify-full&sslrootcert=/nix", "sslrootcert="),
        "no rights": (server.url(user="evenflow_plain"), "create schema"),
        "read-only": (server.url() + "?options=-cdefault_transaction_read_only%3Don", "connect to the primary"),
    }


@pytest.mark.parametrize(
    "case",
    ["nobody there", "no such host", "wrong password", "no database", "no tls", "untrusted", "no rights", "read-only"],
)
@pytest.mark.parametrize("kind", [(), ("--as", "store")], ids=["either", "store"])
def test_a_database_that_cannot_be_used(case, kind, capsys):
    url, remedy = postgres_urls()[case]
    if kind and case == "no rights":
        remedy = "authorization"
    code, shown = doctor(capsys, url, *kind)
    assert code == 1 and remedy in shown and servers.postgres().password not in shown, shown


def test_a_standby_is_told(capsys):
    """A server in recovery takes no writes."""
    servers.need("postgres")
    with private_postgres() as server:
        server.stop()
        (server.data / "standby.signal").touch()
        server.start()
        code, shown = doctor(capsys, server.url())
        assert code == 1 and "in recovery" in shown and "target_session_attrs" in shown


def test_brokers_that_cannot_be_used(capsys):
    at = servers.kafka()
    for url, remedy in {
        "kafka://nobody.invalid:9092": "correct the hosts",
        f"kafka://evenflow:secret@{at.sasl}": "correct user, password",
        f"kafka://{at.tls}": "tls=true",
        f"kafka://{at.address}?tls=true": "tls=true",
        f"kafka://{at.address}": "allow_unsafe=single",
        "kafka://127.0.0.1:1": "see that the brokers run",
    }.items():
        code, shown = doctor(capsys, url)
        assert code == 1 and f"→ {remedy}"[2:] in shown and "not looked at" in shown, shown


@pytest.mark.parametrize(
    ("brokers", "options", "level"),
    [
        (1, {}, "wrong"), (1, {"allow_unsafe": {"single"}}, "warn"), (2, {}, "wrong"), (3, {}, "ok"),
        (2, {"allow_unsafe": {"replicas"}}, "warn"), (3, {"replication": 5}, "wrong"), (3, {"replication": 2}, "wrong"),
    ],
)  # fmt: skip
def test_too_few_copies_are_told(brokers, options, level):
    options = {name: frozenset(value) if isinstance(value, set) else value for name, value in options.items()}
    found = [*_copies(SimpleNamespace(options=KafkaOptions(**options)), brokers, {})]
    assert found[0].level == level and (level == "ok") == (not found[0].remedy)


def test_rights_to_make_topics_are_told():
    client = SimpleNamespace(address=SimpleNamespace(user="shop"))
    allowed = [[SimpleNamespace(name=name) for name in names] for names in (["DESCRIBE"], ["DESCRIBE", "CREATE"])]
    assert [[each.level for each in _rights(client, names)] for names in (*allowed, None)] == [["warn"], ["ok"], []]
