"""Settings: precedence, origins, secrets, wrong names and values, and the engines and stores that URLs name."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from evenflow import App, Event, Service, Topic, Transaction
from evenflow.clock import Signal, SystemClock
from evenflow.engines.memory import MemoryEngine
from evenflow.engines.sqlite.engine import SqliteEngine, SqliteOptions
from evenflow.errors import SettingsError
from evenflow.places import LATER, SqliteStoreOptions, make_engine, make_store
from evenflow.settings import Settings
from evenflow.settings_sources import FIELDS, masked
from evenflow.stores.sqlite.store import SqliteStore


def load(cwd: Path, overrides: dict[str, Any] | None = None, /, **env: str) -> Settings:
    return Settings.load(overrides, env={f"EVENFLOW_{name}": value for name, value in env.items()}, cwd=cwd)


def project(folder: Path, text: str) -> Path:
    (folder / "pyproject.toml").write_text(text, "utf-8")
    return folder


def origin(settings: Settings, name: str) -> str:
    return {each.name: each.origin for each in settings.origins()}[name]


# -- frozen --------------------------------------------------------------------------------------------------------


def test_the_names_and_defaults_are_frozen(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert {each.name: each.value for each in settings.origins()} == {
        "folder": f"{tmp_path}/.evenflow",
        "engine": f"sqlite:///{tmp_path}/.evenflow/log.db",
        "store": f"sqlite:///{tmp_path}/.evenflow/{{service}}.db",
        "registry": "",
        "group_prefix": "",
        "topic_prefix": "",
        "lease": 10.0,
        "drain": 30.0,
        "max_event_bytes": 1_048_576,
        "outbox_events": 1_000_000,
        "outbox_bytes": 1_073_741_824,
    }
    assert {each.origin for each in settings.origins()} == {"default"}


def test_the_names_in_the_environment_are_frozen(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        FOLDER="data",
        ENGINE="memory:",
        STORE="sqlite:///{service}.sqlite",
        STORES__BILLING="sqlite::memory:",
        TOPICS__ORDERS__ENGINE="sqlite:////logs/orders.db",
        TOPICS__ORDERS__NAME="prod.orders",
        REGISTRY="https://u:p@schemas:8081",
        GROUP_PREFIX="prod.",
        TOPIC_PREFIX="x.",
        LEASE="2.5",
        DRAIN="0",
        MAX_EVENT_BYTES="1_000",
        OUTBOX_EVENTS="7",
        OUTBOX_BYTES="70",
    )
    assert settings.folder == tmp_path / "data"
    assert settings.registry == "https://u:p@schemas:8081"
    assert "u:***@schemas:8081" in repr(settings)
    assert settings.engine_url() == settings.engine_url("payments") == settings.engine == "memory:"
    assert settings.engine_url("orders") == "sqlite:////logs/orders.db"
    assert settings.topic_name("orders") == "prod.orders"
    assert settings.topic_name("payments") == "x.payments"
    assert settings.store_url("billing") == "sqlite::memory:"
    assert settings.store_url("orders") == f"sqlite:///{tmp_path}/orders.sqlite"
    assert settings.group_name("billing.charge") == "prod.billing.charge"
    assert (settings.lease, settings.drain) == (2.5, 0.0)
    assert (settings.max_event_bytes, settings.outbox_events, settings.outbox_bytes) == (1000, 7, 70)
    assert origin(settings, "topics.orders.name") == "EVENFLOW_TOPICS__ORDERS__NAME"


# -- sources -------------------------------------------------------------------------------------------------------


def test_a_stronger_source_wins_and_is_named(tmp_path: Path) -> None:
    project(tmp_path, "[tool.evenflow]\nlease = 1\ndrain = 2\nengine = 'memory:'\n")
    settings = load(tmp_path, {"drain": 4.0, "lease": None}, DRAIN="3", LEASE="5")
    assert (settings.lease, settings.drain) == (5.0, 4.0)
    assert origin(settings, "drain") == "override"
    assert origin(settings, "lease") == "EVENFLOW_LEASE"
    assert origin(settings, "engine") == "pyproject.toml [tool.evenflow] engine"
    assert origin(settings, "folder") == "default"


def test_the_nearest_file_with_the_table_counts(tmp_path: Path) -> None:
    project(
        tmp_path, "[tool.evenflow]\nengine = 'sqlite:///outer.db'\n[tool.evenflow.stores]\nbilling = 'sqlite:///b.db'"
    )
    inner = tmp_path / "part" / "deeper"
    inner.mkdir(parents=True)
    project(inner.parent, "[project]\nname = 'no-table'\n")
    settings = load(inner)
    assert settings.engine == f"sqlite:///{tmp_path}/outer.db"
    assert settings.store_url("billing") == f"sqlite:///{tmp_path}/b.db"
    assert settings.folder == tmp_path / ".evenflow"
    assert origin(settings, "engine") == "../../pyproject.toml [tool.evenflow] engine"


def test_relative_paths_of_environment_and_overrides_go_from_the_working_directory(tmp_path: Path) -> None:
    project(tmp_path, "[tool.evenflow]\n")
    inner = tmp_path / "inner"
    inner.mkdir()
    settings = load(inner, {"stores": {"a": "sqlite:///a.db?driver=sqlite3"}}, ENGINE="sqlite:///log.db")
    assert settings.engine == f"sqlite:///{inner}/log.db"
    assert settings.store_url("a") == f"sqlite:///{inner}/a.db?driver=sqlite3"


def test_the_default_engine_and_stores_follow_the_folder(tmp_path: Path) -> None:
    settings = load(tmp_path, {"folder": Path("100% {mine}?")})
    engine = make_engine(settings.engine, SystemClock())
    assert isinstance(engine, SqliteEngine)
    assert engine.path == f"{tmp_path}/100% {{mine}}?/log.db"
    store = make_store(settings.store_url("billing"), "billing", SystemClock())
    assert isinstance(store, SqliteStore)
    assert store._place.path == f"{tmp_path}/100% {{mine}}?/billing.db"


def test_with_an_engine_in_memory_stores_are_in_memory_too(tmp_path: Path) -> None:
    settings = load(tmp_path, ENGINE="memory:")
    assert settings.store_url("billing") == "sqlite::memory:"
    assert origin(settings, "store") == "default, since the engine is memory:"
    assert load(tmp_path, ENGINE="memory:", STORE="sqlite:///{service}.db").store_url("a").endswith("/a.db")


def test_the_environment_writes_dots_and_dashes_as_underscores(tmp_path: Path) -> None:
    project(tmp_path, "[tool.evenflow.topics.'order-lines.v2']\nname = 'from-file'\nengine = 'memory:'")
    settings = load(tmp_path, TOPICS__ORDER_LINES_V2__NAME="from-env")
    assert settings.topic_name("order-lines.v2") == "from-env"
    assert settings.engine_url("order-lines.v2") == "memory:"
    assert settings.topic_name("order-lines") == "order-lines"
    stronger = load(tmp_path, {"topics": {"order-lines.v2": {"name": "mine"}}}, TOPICS__ORDER_LINES_V2__NAME="from-env")
    assert stronger.topic_name("order-lines.v2") == "mine"


def test_settings_for_names_that_the_application_has_not_are_told(tmp_path: Path) -> None:
    settings = load(
        tmp_path, STORES__SHIPPING="sqlite::memory:", TOPICS__ORDERS__NAME="x", STORES__ORDERS="sqlite::memory:"
    )
    (line,) = settings.check_names(["billing", "orders"], ["orders"])
    assert line == "there is no service for EVENFLOW_STORES__SHIPPING; known: billing, orders"


def test_a_slip_in_the_name_of_a_store_is_refused_since_its_data_would_go_elsewhere(tmp_path: Path) -> None:
    settings = load(tmp_path, STORES__BILING="sqlite::memory:")
    with pytest.raises(
        SettingsError, match=r"no service 'biling' \(from EVENFLOW_STORES__BILING\)\s+→ did you mean billing"
    ):
        settings.check_names(["billing", "orders"], [])
    both = load(tmp_path, STORES__BILING="sqlite::memory:", STORES__BILLING="sqlite::memory:")
    assert both.check_names(["billing"], []) == ["there is no service for EVENFLOW_STORES__BILING; known: billing"]


def test_one_variable_for_two_topics_is_refused(tmp_path: Path) -> None:
    settings = load(tmp_path, TOPICS__A_B__ENGINE="memory:")
    with pytest.raises(SettingsError, match=r"'a-b' and 'a\.b'.*EVENFLOW_TOPICS__A_B__ENGINE"):
        settings.check_names([], ["a.b", "a-b"])


def test_two_topics_with_one_physical_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="both be 'orders'"):
        load(tmp_path, TOPICS__OLD__NAME="orders").check_names([], ["old", "orders"])
    with pytest.raises(SettingsError, match="both be 'orders'"):  # a topic may move to the other's engine
        load(tmp_path, TOPICS__OLD__NAME="orders", TOPICS__OLD__ENGINE="memory:").check_names([], ["old", "orders"])


def test_settings_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        load(tmp_path).lease = 3.0  # type: ignore[misc]


def test_the_real_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EVENFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENFLOW_LEASE", "3")
    assert Settings.load().lease == 3.0
    assert Settings.load().folder == tmp_path / ".evenflow"


# -- wrong names and values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("ENGIN", "EVENFLOW_ENGINE"),
        ("STORE__BILLING", "EVENFLOW_STORES__BILLING"),
        ("TOPICS__ORDERS", "EVENFLOW_TOPICS__ORDERS__NAME"),
        ("TOPICS__ORDERS__NAMES", "EVENFLOW_TOPICS__ORDERS__NAME"),
        ("engine", "EVENFLOW_ENGINE"),
        ("ENGINE__X", "EVENFLOW_ENGINE"),
        ("STORES__", "EVENFLOW_STORE"),
        ("STORES__9", "EVENFLOW_STORES__"),
        ("WHATEVER", "known: EVENFLOW_FOLDER, EVENFLOW_ENGINE"),
    ],
)
def test_an_unknown_variable_is_an_error_with_a_suggestion(tmp_path: Path, variable: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, **{variable: "1"})
    assert f"EVENFLOW_{variable}" in caught.value.message
    assert hint in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engin = 'memory:'", "did you mean engine?"),
        ("[tool.evenflow.topics.orders]\nnam = 'x'", "did you mean name?"),
        ("[tool.evenflow.stores]\n'Bad Name' = 'memory:'", "is no name of a store"),
        ("stores = 'sqlite::memory:'", "a table is wanted"),
        ("topics = {orders = 'x'}", "a table is wanted"),
        ("lease = '10'", r"lease is seconds, at least 0\.1"),
        ("lease = true", "lease is True"),
        ("outbox_events = 1.5", "outbox_events is 1.5"),
        ("engine = 3", "engine is 3"),
        ("store = 'sqlite:///one.db'", "would share the store"),
        ("store = 'postgresql://h/one?schema=two'", "would share the store"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_the_place(tmp_path: Path, text: str, message: str) -> None:
    project(tmp_path, f"[tool.evenflow]\n{text}")
    with pytest.raises(SettingsError, match=message) as caught:
        load(tmp_path)
    assert "pyproject.toml [tool.evenflow]" in caught.value.origin


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    project(tmp_path, "[tool.evenflow")
    with pytest.raises(SettingsError, match=r"pyproject\.toml cannot be read"):
        load(tmp_path)
    project(tmp_path, "[tool]\nevenflow = 3")
    with pytest.raises(SettingsError, match="a table is wanted, not 3"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LEASE", "ten"),
        ("LEASE", "0"),
        ("LEASE", "nan"),
        ("DRAIN", "inf"),
        ("DRAIN", "-1"),
        ("MAX_EVENT_BYTES", "0"),
        ("MAX_EVENT_BYTES", "1.5"),
        ("OUTBOX_EVENTS", ""),
        ("ENGINE", ""),
        ("ENGINE", "log.db"),
        ("FOLDER", ""),
        ("GROUP_PREFIX", "Prod/"),
        ("TOPICS__ORDERS__NAME", "a b"),
        ("TOPICS__ORDERS__NAME", "Orders here"),
    ],
)
def test_a_wrong_value_names_its_origin(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, **{variable: value})
    assert caught.value.origin == f"EVENFLOW_{variable}"
    assert repr(value) in caught.value.message
    assert caught.value.remedy


def test_what_kubernetes_sets_for_a_service_called_evenflow_is_left_alone(tmp_path: Path) -> None:
    theirs = (
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT",
        "PORT_80_TCP",
        "PORT_80_TCP_ADDR",
        "WEB_PORT",
    )
    assert load(tmp_path, **dict.fromkeys(theirs, "tcp://10.0.0.1:80")).origins() == load(tmp_path).origins()


def test_an_unknown_override_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'leas' is not a setting"):
        load(tmp_path, {"leas": 3})


# -- secrets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://app:s3cret@db:5432/shop", "postgresql://app:***@db:5432/shop"),
        ("postgresql://app:s3/c?r@et@db/shop", "postgresql://app:***@db/shop"),
        ("redis://:s3cret@cache/0", "redis://:***@cache/0"),
        ("nats://s3cret@broker", "nats://***@broker"),
        ("kafka://a:9092,b:9092?sasl.password=s3cret&acks=all", "kafka://a:9092,b:9092?sasl.password=***&acks=all"),
        ("amqp://h/?client_secret=s3cret&x=1", "amqp://h/?client_secret=***&x=1"),
        ("postgresql://app@db/shop", "postgresql://app@db/shop"),
        ("sqlite:///a@b.db?driver=sqlite3", "sqlite:///a@b.db?driver=sqlite3"),
    ],
)
def test_secrets_are_masked_wherever_a_url_is_shown(tmp_path: Path, url: str, shown: str) -> None:
    assert masked(url) == shown
    settings = load(tmp_path, ENGINE=url, STORES__BILLING=url, TOPICS__ORDERS__ENGINE=url)
    assert "s3" not in repr(settings)
    assert "s3" not in str(settings.origins()).replace("sqlite3", "")
    if url.partition(":")[0] in LATER:
        assert settings.engine_url() == url
        with pytest.raises(SettingsError) as caught:
            make_engine(url, SystemClock())
        assert "s3" not in str(caught.value)


# -- engines and stores --------------------------------------------------------------------------------------------


def test_urls_name_engines(tmp_path: Path) -> None:
    assert isinstance(make_engine("memory:", SystemClock()), MemoryEngine)
    engine = make_engine(f"sqlite:///{tmp_path}/log.db?poll=0.5&allow_unsafe=network&cache_bytes=9", SystemClock())
    assert isinstance(engine, SqliteEngine)
    options = engine._file._options
    assert (options.poll, options.allow_unsafe, options.cache_bytes) == (0.5, frozenset({"network"}), 9)


def test_urls_name_stores(tmp_path: Path) -> None:
    memory = make_store("sqlite::memory:", "billing", SystemClock())
    assert not memory.capabilities.durable
    store = make_store(
        f"sqlite:///{tmp_path}/b.db?driver=sqlite3&wait=3&allow_unsafe=network", "billing", SystemClock()
    )
    assert isinstance(store, SqliteStore)
    assert (store.name, store._driver, store._wait, store._allow_network) == ("billing", "sqlite3", 3.0, True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///log.db?pol=1", "did you mean poll"),
        ("sqlite:///log.db?poll=often", "'poll'.* is 'often'"),
        ("sqlite:///log.db?poll=-1", "not below 0"),
        ("sqlite:///log.db?poll=1&poll=2", "given twice"),
        ("sqlite:///log.db?poll=", "empty"),
        ("sqlite://log.db", "names no file"),
        ("sqlite:log.db", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite::memory:", "write memory:"),
        ("memory:?x=1", "takes no path and no options"),
        ("memory://x", "takes no path and no options"),
        ("sqlitee:///log.db", "did you mean sqlite"),
        ("rabbitmq://h", "did you mean amqp"),
        ("mainframe://h", "this version has postgresql, sqlite, kafka, memory"),
        *((f"{scheme}://h", "not supported yet") for scheme in LATER),
    ],
)
def test_a_wrong_engine_url_says_what_to_write(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_engine(url, SystemClock())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory:", "write sqlite::memory:"),
        ("sqlite:///b.db?driver=pysqlite", "use apsw or sqlite3"),
        ("sqlite:///b.db?drivr=apsw", "did you mean driver"),
        ("postgresql://h/shop?pool=x", "use a number"),
        ("postgresql://h/shop?pol=4", "unknown option .pol."),
        ("postgresql://h/shop?sslmod=require", r"did you mean sslmode\?"),
        ("redis://h", "not supported yet"),
        ("mongo://h", r"this version has postgresql, sqlite$"),
        ("postgresql+psycopg://h/shop", "did you mean postgresql"),
    ],
)
def test_a_wrong_store_url_says_what_to_write(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_store(url, "billing", SystemClock())


@pytest.mark.parametrize("url", ["sqlite:////srv/one.db", "postgresql://h/shop?schema=one"])
def test_two_services_with_one_store_are_refused(tmp_path: Path, url: str) -> None:
    settings = load(tmp_path, STORES__BILLING=url, STORES__SHOP=url)
    assert settings.check_names(["billing"], []) == ["there is no service for EVENFLOW_STORES__SHOP; known: billing"]
    with pytest.raises(SettingsError, match="'billing' and 'shop' would share"):
        settings.check_names(["billing", "shop"], [])
    apart = load(tmp_path, STORES__BILLING="postgresql://h/shop", STORES__SHOP="postgresql://h/shop")
    assert apart.check_names(["billing", "shop"], []) == []  # each in a schema with its name


def test_a_store_of_an_unknown_kind_is_not_taken_for_a_shared_one(tmp_path: Path) -> None:
    url = "postgresql+psycopg://h/shop"
    assert load(tmp_path, STORE=url).store_url("billing") == url  # `make_store` says what is wrong


# -- in an app -----------------------------------------------------------------------------------------------------


class Placed(Event, type="placed", topic=Topic("orders", partitions=2), key="order"):
    order: str


async def handled(settings: Settings) -> tuple[list[str], dict[str, list[str]]]:
    """Publish one event through the outbox and one directly; what was handled, and where each engine keeps them."""
    shop = Service("shop")
    app = App(shop)
    seen: list[str] = []
    news = Signal()

    @shop.on(Placed, group="see")
    async def see(placed: Placed, tx: Transaction) -> None:
        seen.append(placed.order)
        news.set()

    async with app.running(handle=None, settings=settings) as running:
        async with app.transaction(shop) as tx:
            tx.publish(Placed(order="by outbox"))
        await app.publish(Placed(order="directly"))
        while len(seen) < 2 and await running.clock.wait(news, 10):
            news.clear()
        places = {
            url: [name for name in ("orders", "prod.orders") if await engine.log(name) is not None]
            for url, engine in running.engines.items()
        }
    return sorted(seen), places


def test_a_topic_lives_under_its_physical_name(tmp_path: Path) -> None:
    seen, places = asyncio.run(handled(load(tmp_path, ENGINE="memory:", TOPICS__ORDERS__NAME="prod.orders")))
    assert seen == ["by outbox", "directly"]
    assert places == {"memory:": ["prod.orders"]}


def test_a_topic_lives_on_its_own_engine(tmp_path: Path) -> None:
    settings = load(tmp_path, TOPICS__ORDERS__ENGINE="sqlite:///orders.db")
    seen, places = asyncio.run(handled(settings))
    assert seen == ["by outbox", "directly"]
    assert places == {settings.engine_url(): [], settings.engine_url("orders"): ["orders"]}


def test_a_topic_lives_on_its_own_engine_under_its_physical_name(tmp_path: Path) -> None:
    settings = load(tmp_path, TOPICS__ORDERS__ENGINE="sqlite:///orders.db", TOPICS__ORDERS__NAME="prod.orders")
    seen, places = asyncio.run(handled(settings))
    assert seen == ["by outbox", "directly"]
    assert places == {settings.engine_url(): [], settings.engine_url("orders"): ["prod.orders"]}


def test_every_setting_is_described() -> None:
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text("utf-8")
    assert Settings.__doc__ is not None
    assert [name for name in FIELDS if name not in Settings.__doc__] == []
    documented = set(re.findall(r"^\| `([a-z_.<>]+)` \|", page, re.MULTILINE))
    assert documented == {
        *FIELDS, "stores.<service>", "engines.<name>", "topics.<topic>.engine", "topics.<topic>.name",
    }  # fmt: skip
    known = {each.name for kind in (SqliteOptions, SqliteStoreOptions) for each in fields(kind)}
    assert [name for name in known if f"`{name}" not in page] == []
