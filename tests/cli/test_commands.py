"""Each command as a person uses it: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest

from evenflow.cli.commands import COMMANDS

from .conftest import Shop

PLACED = '{"order_id": "1", "total": "9.50"}'


# -- help, and finding the command ------------------------------------------------------------------------------------


def test_help_lists_every_command(shop: Shop) -> None:
    done = shop.evenflow("--help")
    assert (done.code, done.err) == (0, "")
    assert [each.name for each in COMMANDS if each.name not in done.out] == []
    assert "or EVENFLOW_APP." in done.out


@pytest.mark.parametrize("command", [each.name for each in COMMANDS])
def test_help_of_a_command_teaches_with_examples(shop: Shop, command: str) -> None:
    done = shop.evenflow(*command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    examples = done.out.partition("examples:")[2]
    assert f"evenflow {command}" in examples
    assert max(map(len, done.out.splitlines())) <= 120


def test_the_nouns_are_frozen() -> None:
    assert [each.name for each in COMMANDS] == [
        "new", "run", "dev", "check", "describe", "publish", "tail", "completions", "config",
        "groups list", "groups show", "groups pause", "groups resume", "groups seek", "groups rename", "groups drop",
        "parked list", "parked redrive", "parked discard", "parked show", "parked edit", "parked rehearse",
        "parked export", "parked import", "operations list", "operations show", "operations pause",
        "operations resume", "operations cancel", "audit list", "schedules list", "schedules pause",
        "schedules resume", "schedules run", "schedules cancel",
        "migrate plan", "migrate apply", "migrate", "move status", "move", "doctor",
        "conformance", "store adopt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["grups"], 2, "did you mean groups?"),
        (["groups", "lst"], 2, "did you mean groups list?"),
        (["groups"], 2, "groups seek"),
        ([], 2, "groups seek"),
        (["run", "shop:app", "--sevice", "x"], 2, "did you mean --service?"),
        (["run", "shop:app", "--drain", "soon"], 2, "'soon' is no number of seconds"),
        (["run", "shop:app", "--service", "biling"], 3, "did you mean billing?"),
        (["describe", "shop:app", "--format", "xml"], 2, "invalid choice: 'xml'"),
        (["describe", "shop:app", "shop:app"], 2, "'shop:app' is one word too many"),
        (["describe"], 2, 'set app = "shop:app" in [tool.evenflow]'),
        (["describe", "shpo:app"], 3, "did you mean shop?"),
        (["describe", "shop:ap"], 3, "did you mean shop:app?"),
        (["describe", "shop.py:ap"], 3, "did you mean shop.py:app?"),
        (["describe", "shpo.py:app"], 3, "shop.py?"),
        (["describe", "shop:"], 2, "is no name of an app"),
        (["describe", "shop:ORDERS"], 2, "is of type Topic, not an App"),
        (["describe", "a b:c"], 2, "is no name of a module"),
        (["publish", "shop:app", "order.placd", "{}"], 3, "did you mean order.placed?"),
        (["publish", "shop:app", "order.placed"], 2, "JSON is missing"),
        (["publish", "shop:app", "order.placed", '{"order_id": "1", "totl": "2"}'], 2, "did you mean total?"),
        (["groups", "seek", "shop:app", "--to", "end"], 2, "GROUP is missing"),
        (["groups", "seek", "shop:app", "billing.charge"], 2, "--to"),
        (["groups", "list", "shop:app"], 3, "there is no log at"),
        (["config", "--jsn"], 2, "did you mean --json?"),
    ],
)
def test_what_is_mistyped_is_told_with_what_was_meant(shop: Shop, arguments: list[str], code: int, hint: str) -> None:
    done = shop.evenflow(*arguments)
    assert (done.code, done.out) == (code, "")
    assert hint in done.err
    assert "Traceback" not in done.err
    assert not (shop.folder / ".evenflow").exists()


def test_the_app_may_be_a_file_in_a_package_or_named_by_the_project(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (shop.folder / "shop.py").read_text()
    shop.write("deep/pkg/__init__.py", "")
    shop.write("deep/pkg/events.py", "NAME = 'packed'")
    shop.write(
        "deep/pkg/main.py",
        source.replace('name="shop"', "name=events.NAME").replace("import asyncio", "from . import events"),
    )
    assert "app packed" in shop.evenflow("describe", "deep/pkg/main.py:app").out
    assert "app shop" in shop.evenflow("describe", str(shop.folder / "shop.py") + ":app").out
    shop.write("pyproject.toml", '[tool.evenflow]\napp = "shop:app"\nlease = 3')
    (shop.folder / "sub").mkdir()
    monkeypatch.chdir(shop.folder / "sub")
    assert "app shop" in shop.evenflow("describe").out
    assert "lease" in shop.evenflow("config").out
    monkeypatch.chdir(shop.folder)
    monkeypatch.setenv("EVENFLOW_APP", "shop:other")
    assert "stock.count" in shop.evenflow("describe").out
    assert "billing.charge" in shop.evenflow("describe", "shop:app").out


# -- broken apps: the user's lines, not ours ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        (
            'import json\ndef load():\n    return json.loads("{")\nx = load()\n',
            ["bad.py:4 in <module>", "x = load()", "bad.py:3 in load", 'json.loads("{")', "JSONDecodeError: Expecting"],
        ),
        ("x = 1\ndef f(:\n    pass\n", ["bad.py:2", "def f(:", "SyntaxError: invalid syntax"]),
        ("import nosuchthing\n", ["bad.py:1 in <module>", "No module named 'nosuchthing'"]),
    ],
)
def test_a_module_that_cannot_be_imported_shows_its_own_lines(shop: Shop, source: str, lines: list[str]) -> None:
    shop.write("bad.py", source)
    done = shop.evenflow("describe", "bad:app")
    assert (done.code, done.out) == (2, "")
    places = [done.err.find(line) for line in lines]
    assert -1 not in places and places == sorted(places), done.err
    assert "evenflow/" not in done.err and "importlib" not in done.err and "json/" not in done.err
    assert "Traceback" in shop.evenflow("describe", "bad:app", "--debug").err


WRONG = """
from evenflow import App, Event, Service, Topic, Transaction
T = Topic("t", partitions=1)
class A(Event, type="a", topic=T, key="nope"):
    id: str
class B(Event, type="b", topic=T, key="id"):
    id: str
s = Service("s")
@s.on(A, group="one")
async def one(a: A, tx: Transaction) -> None: ...
@s.on(B, group="two")
async def two(b, tx: Transaction) -> None: ...
@s.on(B, group="three")
async def three(b: B, thing: dict) -> None: ...
app = App(s)
"""


def test_definition_errors_are_told_all_with_line_and_remedy(shop: Shop) -> None:
    shop.write("wrong.py", WRONG)
    done = shop.evenflow("check", "wrong:app")
    assert done.code == 1
    assert "wrong.py:3: A has key='nope', which is no field\n  → name one of its fields: id" in done.out
    assert "wrong.py:10: handler 'two' has no type for its parameter 'b'\n  → " in done.out
    assert done.err == "2 things are wrong\n"
    found = json.loads(shop.evenflow("check", "wrong:app", "--json").out)
    assert [each["where"] for each in found["problems"]] == ["wrong.py:3", "wrong.py:10"]
    ran = shop.evenflow("run", "wrong:app")
    assert ran.code == 2
    assert "wrong.py:3" in ran.err and "wrong.py:10" in ran.err


def test_a_missing_provider_is_found_by_check_and_by_run(shop: Shop) -> None:
    shop.write("wrong.py", re.sub(r"@s.on\(., group=\"(one|two)\"\)\n.*\n", "", WRONG))
    done = shop.evenflow("check", "wrong:app")
    assert done.code == 1
    assert done.out.startswith("wrong.py:8: nothing provides dict")
    assert shop.evenflow("run", "wrong:app").code == 2


LATE = """
from evenflow import *
t = Topic("t", partitions=4)
class A(Event, type="a", topic=t): ...
class B(Event, type="a", topic=t): ...
class C(Event, type="c", topic=Topic("t", partitions=2)): ...
s = Service("s", migrations="nowhere")
app = App(s)
@s.on(A, B, C, group="one")
async def one(event: A | B | C): ...
"""


def test_what_is_wrong_after_the_app_was_made_is_found_by_check(shop: Shop) -> None:
    shop.write("late.py", LATE)
    done = shop.evenflow("check", "late:app")
    assert (done.code, done.err) == (1, "3 things are wrong\n")
    assert "late.py:4: B is of type 'a', and so is A" in done.out
    assert "late.py:5: the topic 't' is declared twice" in done.out
    assert "late.py:6: the migrations folder nowhere of 's' does not exist" in done.out


def test_a_mistake_of_ours_says_so(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evenflow.cli.pictures.paint", None)
    done = shop.evenflow("describe", "shop:app")
    assert done.code == 70
    assert "this is a mistake in Evenflow, not in your code: TypeError: " in done.err
    assert "Traceback" in done.err


# -- check and describe -------------------------------------------------------------------------------------------------


def test_check_finds_nothing_wrong_without_a_file(shop: Shop) -> None:
    done = shop.evenflow("check", "shop:app")
    assert (done.code, done.out, done.err) == (0, "", "nothing is wrong\n")
    assert not (shop.folder / ".evenflow").exists()


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("", "", []),
        ('group="charge"', 'group="pay"', ["group 'billing.charge' is gone", "group 'billing.pay' is new"]),
        ('type="payment.taken"', 'type="paid"', [
            "event 'paid' is new", "event 'payment.taken' is gone", "group 'billing.notify': events was",
        ]),
        ("partitions=4", "partitions=8", ["topic 'orders': partitions was 4 and is 8"]),
        ('key="order_id"):\n    """A', 'key="total"):\n    """A', ["whose type cannot be a key"]),
        ("total: Decimal = Decimal(1)", "total: Decimal", ["'total' has no default any more; raise version="]),
        ("total: Decimal = Decimal(1)", "total: str = ''", ["the field 'total' was", "old events remain readable"]),
        ("total: Decimal = Decimal(1)", "total: Decimal = Decimal(1)\n    note: str = ''", ["'note' is new\n"]),
        ("total: Decimal = Decimal(1)", "total: Decimal = Decimal(1)\n    note: str", ["'note' is new and has no"]),
        ("article: str\n\nclass OrderP", "article: int\n\nclass OrderP", ["a class that it holds has another shape"]),
        ("class Mailer: ...", "class Mailer: pass", []),
    ],
)  # fmt: skip
def test_check_compares_what_lasts_with_what_was_committed(shop: Shop, old: str, new: str, found: list[str]) -> None:
    shop.write("contract.json", shop.evenflow("describe", "shop:app", "--json").out)
    source = (shop.folder / "shop.py").read_text()
    assert old in source
    shop.write("shop.py", source.replace(old, new, 1))
    os.utime(shop.folder / "shop.py", (1, 1))  # or its compiled form of the same second is used
    done = shop.evenflow("check", "shop:app", "--contract", "contract.json")
    assert (done.code, len(done.out.splitlines()) > 0) == ((1, True) if found else (0, False)), done
    assert [each for each in found if each not in done.out] == []
    if found and "changed" in done.out:
        assert "evenflow describe shop:app --json > contract.json" in done.err


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"evenflow": 0}'])
def test_a_contract_that_is_none_is_told(shop: Shop, content: str | None) -> None:
    if content is not None:
        shop.write("contract.json", content)
    done = shop.evenflow("check", "shop:app", "--contract", "contract.json")
    assert done.code == (1 if content == '{"evenflow": 0}' else 2)
    assert "contract.json" in done.err


def test_describe_as_text_and_mermaid(shop: Shop) -> None:
    text = shop.evenflow("describe", "shop:app").out
    assert "orders  4 partitions, kept 90.0 d, json\n    order.placed  OrderPlaced, version 1, key order_id" in text
    assert "transactional  order.placed → payment.taken" in text
    assert "\x1b" not in text
    chart = shop.evenflow("describe", "shop:app", "--format", "mermaid").out
    assert chart.startswith("flowchart LR\n")
    assert '  t_orders -->|"order.placed"| g_billing_d_charge\n' in chart
    assert '  g_billing_d_charge -->|"payment.taken"| t_billing\n' in chart


def test_describe_as_json_is_the_same_from_anywhere(shop: Shop) -> None:
    one = shop.evenflow("describe", "shop:app", "--json")
    assert one == shop.evenflow("describe", str(shop.folder / "shop.py") + ":app", "--format", "json")
    found = json.loads(one.out)
    assert str(shop.folder) not in one.out
    assert found["events"]["order.placed"]["key"] == ["order_id"]
    assert found["groups"]["billing.charge"] == {
        "service": "billing", "kind": "transactional", "events": ["order.placed"], "publishes": ["payment.taken"],
        "start": None,
    }  # fmt: skip


def _resolve(document: Any, reference: str) -> Any:
    assert reference.startswith("#/")
    for part in reference[2:].split("/"):
        document = document[part]
    return document


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [each for inner in value.values() for each in _references(inner)]
    return [each for inner in value for each in _references(inner)] if isinstance(value, list) else []


def test_describe_as_asyncapi(shop: Shop) -> None:
    found = json.loads(shop.evenflow("describe", "shop:app", "--format", "asyncapi").out)
    assert found["asyncapi"] == "3.0.0"
    assert found["info"]["title"] == "shop"
    for reference in _references(found):
        _resolve(found, reference)
    operations = {name: (o["action"], o["channel"]["$ref"]) for name, o in found["operations"].items()}
    assert operations == {
        "send.billing": ("send", "#/channels/billing"),
        "send.orders": ("send", "#/channels/orders"),
        "receive.billing.charge": ("receive", "#/channels/orders"),
        "receive.billing.notify": ("receive", "#/channels/billing"),
    }
    for operation in found["operations"].values():  # an operation names messages of its own channel
        assert all(
            each["$ref"].startswith(operation["channel"]["$ref"] + "/messages/") for each in operation["messages"]
        )
    message = found["components"]["messages"]["order.placed"]
    assert message["summary"] == "A customer has ordered."
    assert message["traits"] == [{"$ref": "#/components/messageTraits/cloudevents"}]
    assert "ce_id" in found["components"]["messageTraits"]["cloudevents"]["headers"]["required"]
    payload = _resolve(found, message["payload"]["$ref"])
    assert payload["properties"]["order_id"] == {"type": "string"}
    assert payload["required"] == ["order_id"]
    line = payload["properties"]["lines"]["items"]["$ref"]
    assert _resolve(found, line)["properties"] == {"article": {"type": "string"}}


def test_another_teams_events_are_received_and_not_sent(shop: Shop) -> None:
    found = json.loads(shop.evenflow("describe", "shop:other", "--format", "asyncapi").out)
    assert {o["action"] for o in found["operations"].values()} == {"receive"}
    assert found["channels"]["stock"]["description"] == "Declared by another team."


MODELS = """
from dataclasses import dataclass
from pydantic import BaseModel
from evenflow import App, Topic, event
T = Topic("t", partitions=1, codec="msgpack")
class Part(BaseModel):
    n: int
@event(type="model", topic=T)
class Model(BaseModel):
    parts: list[Part]
@event(type="data", topic=T)
@dataclass
class Data:
    n: int
    next: "Data | None" = None
app = App(events=[Model, Data])
"""


def test_asyncapi_of_pydantic_models_and_of_events_that_hold_themselves(shop: Shop) -> None:
    shop.write("models.py", MODELS)
    found = json.loads(shop.evenflow("describe", "models:app", "--format", "asyncapi").out)
    for reference in _references(found):
        _resolve(found, reference)
    assert found["operations"]["send.t"]["action"] == "send"
    assert found["components"]["messages"]["model"]["contentType"] == "application/msgpack"
    assert "summary" not in found["components"]["messages"]["data"]


# -- config ---------------------------------------------------------------------------------------------------------


def test_config_tells_where_each_setting_came_from(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENFLOW_STORES__SHIPPING", "sqlite:///b.db")
    monkeypatch.setenv("EVENFLOW_TOPICS__ORDERS__ENGINE", "sqlite:///o.db?password=hush")
    done = shop.evenflow("config", "shop:app", "--json")
    found = {each["name"]: (each["value"], each["origin"]) for each in json.loads(done.out)}
    assert found["lease"] == (10.0, "default")
    assert found["engine of orders"][0].endswith("o.db?password=***")
    assert found["store of billing"][1] == "in effect"
    assert "there is no service for EVENFLOW_STORES__SHIPPING; known: billing" in done.err
    assert re.search(r"^lease +10.0 +default$", shop.evenflow("config").out, re.MULTILINE)
    monkeypatch.setenv("EVENFLOW_ENGIN", "x")
    assert shop.evenflow("config").code == 2


# -- a system: one life of it, in the order in which a person meets these commands ------------------------------------


def test_a_life_of_a_system(shop: Shop) -> None:
    ran = shop.run("run", "shop:app", "--until-idle")
    assert (ran.code, ran.out) == (0, "")
    lines = [json.loads(line)["message"] for line in ran.err.splitlines()]
    assert any(line.startswith("app shop, pid") and f"{shop.folder}/.evenflow/log.db" in line for line in lines)
    assert f"store of billing: sqlite:///{shop.folder}/.evenflow/billing.db" in lines
    assert "billing.charge: effects once, in order per key, nothing lost in a crash" in lines
    assert lines[-1] == "stopped: all that was begun is finished"

    done = shop.evenflow("publish", "shop:app", "order.placed", PLACED)
    assert (done.code, done.out, done.err) == (0, "", "order.placed (key 1) is published to orders\n")
    shop.write("order.json", '{"order_id": "bad"}')
    assert shop.evenflow("publish", "shop:app", "OrderPlaced", "@order.json").code == 0
    listed = json.loads(shop.evenflow("groups", "list", "shop:app", "--json").out)
    assert [(each["group"], each["state"], each["waiting"]) for each in listed] == [
        ("billing.charge", "running", 2), ("billing.notify", "running", 0),
    ]  # fmt: skip

    ran = shop.run("run", "shop:app", "--until-idle", "--log", "text")
    assert ran.code == 0
    assert "ValueError: no card" in ran.err
    assert "shop.py" in ran.err and "chunk.py" not in ran.err  # from the user's first line on
    assert "\x1b" not in ran.err

    text = shop.evenflow("groups", "list", "shop:app").out
    assert re.search(r"^billing.charge +no process +- +0 +- +1 +1$", text, re.MULTILINE), text
    text = shop.evenflow("parked", "list", "shop:app").out
    assert re.search(
        r"^billing.charge +bad +order.placed .* dead letter +1 .* ValueError: no card$", text, re.MULTILINE
    )
    (dead,) = json.loads(shop.evenflow("parked", "list", "shop:app", "--group", "billing.charge", "--json").out)
    assert (dead["key"], dead["dead"], json.loads(dead["data"])["order_id"]) == ("bad", True, "bad")

    assert shop.evenflow("parked", "redrive", "shop:app", "billing.charge", "--lane", "nix").code == 3
    assert (
        "will be tried again" in shop.evenflow("parked", "redrive", "shop:app", "billing.charge", "--lane", "bad").err
    )
    assert "there is no dead letter" in shop.evenflow("parked", "redrive", "shop:app", "billing.charge", "--all").err
    assert shop.evenflow("parked", "redrive", "shop:app", "billing.charge", "--lane", "bad").code == 4
    assert shop.run("run", "shop:app", "--until-idle").code == 0
    assert shop.evenflow("parked", "discard", "shop:app", "billing.charge", "--all").code == 2  # it asks
    assert shop.evenflow("parked", "discard", "shop:app", "billing.charge", "--all", "--yes").code == 0
    assert shop.run("run", "shop:app", "--until-idle").code == 0
    assert shop.evenflow("parked", "list", "shop:app").err == "nothing is parked\n"

    asked = shop.evenflow("groups", "seek", "shop:app", "billing.charge", "--to", "beginning")
    assert asked.code == 2
    assert "at most 2 events come again, at most 0 are skipped" in asked.err and "add --yes" in asked.err
    for where in ("nowhere", "2026-03-01T12:00:00", "0=x"):
        assert shop.evenflow("groups", "seek", "shop:app", "billing.charge", "--to", where, "--yes").code == 2
    assert shop.evenflow("groups", "seek", "shop:app", "billing.charg", "--to", "end", "--yes").code == 3
    assert shop.evenflow("groups", "seek", "shop:app", "billing.charge", "--to", "0=77", "--yes").code == 4
    assert (
        shop.evenflow("groups", "seek", "shop:app", "billing.charge", "--yes", "--to", "2026-03-01T12:00:00Z").code == 0
    )
    assert json.loads(shop.evenflow("groups", "list", "shop:app", "--json").out)[0]["waiting"] == 2

    after = ("publish", "shop:app", "order.placed", PLACED, "--after", "60")
    assert shop.evenflow(*after).code == 2
    assert "due in 60 s" in shop.evenflow(*after, "--service", "billing").err
    assert shop.evenflow("publish", "shop:app", "order.placed", '{"order_id": 1}').code == 2
    assert shop.evenflow("store", "adopt", "shop:app", "biling", "--yes").code == 3
    assert shop.evenflow("store", "adopt", "shop:app", "billing", "--yes").code == 0

    for file in (shop.folder / ".evenflow").glob("log.db*"):
        file.unlink()
    stopped = shop.run("run", "shop:app", "--until-idle")
    assert stopped.code == 4
    assert "evenflow groups seek shop:app billing.charge --to beginning" in stopped.err
    text = shop.evenflow("groups", "list", "shop:app").out
    assert "billing.charge is stopped: the log of topic 'orders'" in text
    for group in ("billing.charge", "billing.notify"):
        assert shop.evenflow("groups", "seek", "shop:app", group, "--to", "end", "--yes").code == 0
    assert shop.run("run", "shop:app", "--until-idle").code == 0


def test_nothing_is_seen_of_an_engine_in_memory(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENFLOW_ENGINE", "memory:")
    assert shop.evenflow("groups", "list", "shop:app").code == 4
    assert shop.evenflow("publish", "shop:app", "order.placed", PLACED).code == 4


# -- terminals and pipes ----------------------------------------------------------------------------------------------


def _on_a_terminal(shop: Shop, *arguments: str, answer: str = "", **env: str) -> str:
    """What the command writes to stdout when that is a terminal."""
    master, slave = pty.openpty()
    with os.fdopen(master, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            [sys.executable, "-m", "evenflow", *arguments], cwd=shop.folder, stdin=slave, stdout=slave,
            stderr=slave, env={**os.environ, "TERM": "xterm", **env},
        )  # fmt: skip
        os.close(slave)
        os.write(master, answer.encode())
        written = b""
        while True:
            try:
                part = screen.read(4096)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            written += part
        process.wait(30)
    return written.decode()


def test_colours_only_on_a_terminal_and_not_with_no_color(shop: Shop) -> None:
    assert "\x1b[1morders" in _on_a_terminal(shop, "describe", "shop:app", NO_COLOR="")
    assert "\x1b" not in _on_a_terminal(shop, "describe", "shop:app", NO_COLOR="1")
    assert "\x1b" not in shop.run("describe", "shop:app").out


def test_a_reader_that_goes_away_is_no_error(shop: Shop) -> None:
    process = shop.start("describe", "shop:app", "--format", "asyncapi")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(30) == 0


def test_a_seek_asks_on_a_terminal(shop: Shop) -> None:
    assert shop.run("run", "shop:app", "--until-idle").code == 0
    assert shop.evenflow("publish", "shop:app", "order.placed", PLACED).code == 0
    said = _on_a_terminal(shop, "groups", "seek", "shop:app", "billing.charge", "--to", "end", answer="n\n")
    assert "let billing.charge go on there? [y/N]" in said and "nothing was changed" in said
    said = _on_a_terminal(shop, "groups", "seek", "shop:app", "billing.charge", "--to", "end", answer="y\n")
    assert "billing.charge goes on there" in said
    assert json.loads(shop.evenflow("groups", "list", "shop:app", "--json").out)[0]["waiting"] == 0
