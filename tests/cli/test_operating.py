"""The commands for whoever operates a system: what they print and where, their exit codes, and two processes at work."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import SHOP, Shop, wait_for
from .test_commands import _on_a_terminal

BAD = '{"order_id": "bad"}'
GOOD = '{"order_id": "1"}'
CHARGE = "billing.charge"


@pytest.fixture
def ran(shop: Shop) -> Shop:
    """A shop that has a dead letter, something behind it, and something scheduled."""

    def letters() -> None:
        assert shop.run("run", "shop:app", "--until-idle").code == 0
        for data in (GOOD, BAD, BAD):
            assert shop.evenflow("publish", "shop:app", "order.placed", data).code == 0
        after = ("--after", "86400", "--service", "billing")
        assert shop.evenflow("publish", "shop:app", "payment.taken", GOOD, *after).code == 0
        assert shop.run("run", "shop:app", "--until-idle").code == 0

    shop.prepare(letters)
    return shop


def document(shop: Shop, *arguments: str) -> Any:
    return json.loads(shop.evenflow(*arguments, "--json").out)


def test_groups_and_what_is_parked_are_shown(ran: Shop) -> None:
    done = ran.evenflow("groups", "show", "shop:app", CHARGE)
    assert (done.code, done.err) == (0, "")
    for line in (
        r"^billing.charge  no process$", r"^  handler   charge, shop.py:\d+$", r"^  waiting   0 events$",
        r"^  promise   effects once, in order per key", r"1 dead → evenflow parked list shop:app --group billing.charge",
        r"^orders/3 +free +\d+ +\d+ +0 +- +- +\d+ +2$",
    ):  # fmt: skip
        assert re.search(line, done.out, re.MULTILINE), (line, done.out)
    found = document(ran, "groups", "show", "shop:app", CHARGE)
    assert found["status"]["dead"] == 1 and len(found["partitions"]) == 4 and found["pauses"] == []
    assert "did you mean billing.charge?" in ran.evenflow("groups", "show", "shop:app", "billing.chrge").err

    done = ran.evenflow("parked", "show", "shop:app", CHARGE, "bad")
    for line in (
        r"^order.placed  dead letter$", r'"order_id": "bad"', r"ValueError: no card", r"shop.py:\d+ in charge",
        r"^what waits behind it: 1$", r"evenflow parked redrive shop:app billing.charge --lane bad",
    ):  # fmt: skip
        assert re.search(line, done.out, re.MULTILINE), (line, done.out)
    head = document(ran, "parked", "show", "shop:app", CHARGE, "bad")
    assert (head["dead"], head["event"]["order_id"], head["lane_size"], len(head["others"])) == (True, "bad", 2, 1)
    place = f"{head['partition']}/{head['offset']}"
    assert document(ran, "parked", "show", "shop:app", CHARGE, "--offset", place)["id"] == head["id"]
    behind = str(head["others"][0]["offset"])
    assert document(ran, "parked", "show", "shop:app", CHARGE, "--offset", behind)["behind"]
    for arguments, code in (
        (("nix",), 3), (("--offset", "99"), 3), (("--offset", "x"), 2), ((), 2), (("bad", "--offset", "1"), 2),
    ):  # fmt: skip
        assert ran.evenflow("parked", "show", "shop:app", CHARGE, *arguments).code == code


def test_the_app_may_be_named_by_the_environment(ran: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENFLOW_APP", "shop:app")
    assert ran.evenflow("groups", "list").code == 0
    done = ran.evenflow("parked", "show", CHARGE, "bad")
    assert done.code == 0 and "→ evenflow parked redrive billing.charge --lane bad" in done.out


def test_schedules_are_listed_and_cancelled(ran: Shop) -> None:
    listed = ran.evenflow("groups", "list", "shop:app").out
    assert re.search(r"the outbox of billing keeps 1 event for later, the next due in (1.0 d|24.0 h)", listed)
    line = ran.evenflow("schedules", "list", "shop:app").out.splitlines()[1]
    assert re.search(r"^20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ  in (1.0 d|24.0 h)  billing  payment.taken +1  -$", line), line
    whole = document(ran, "schedules", "list", "shop:app", "--service", "billing")
    (found,) = whole["events"]
    assert whole["schedules"] == []
    assert (found["type"], found["key"], found["name"]) == ("payment.taken", "1", None)
    assert (
        ran.evenflow("schedules", "list", "shop:app", "--service", "orders").err == "nothing is scheduled for later\n"
    )
    assert ran.evenflow("schedules", "list", "shop:app", "--service", "biling").code == 3
    assert ran.evenflow("schedules", "cancel", "shop:app", "nix").code == 2  # it asks
    assert ran.evenflow("schedules", "cancel", "shop:app", "nix", "--yes").code == 3


def test_a_pause_is_told_and_ends_a_run_until_idle(ran: Shop) -> None:
    paused = ran.evenflow("groups", "pause", "shop:app", CHARGE, "--reason", "the bank is down")
    assert paused.code == 0 and "→ evenflow groups resume shop:app billing.charge" in paused.err
    assert ran.evenflow("groups", "pause", "shop:app", CHARGE).code == 4
    assert ran.evenflow("groups", "pause", "shop:app", CHARGE, "--partition", "x").code == 2
    assert ran.evenflow("publish", "shop:app", "order.placed", GOOD).code == 0
    text = ran.evenflow("groups", "list", "shop:app").out
    assert re.search(r"^billing.charge  paused +- +1 ", text, re.MULTILINE), text
    assert re.search(r"^billing.charge is paused by .*@.*: the bank is down$", text, re.MULTILINE)
    asked = ran.evenflow("parked", "redrive", "shop:app", CHARGE, "--lane", "bad")
    assert asked.code == 0 and "the group is paused: it is done when it goes on" in asked.err
    run = ran.run("run", "shop:app", "--until-idle", "--log", "text")
    assert run.code == 4
    assert "the bank is down" in run.err and "billing.charge cannot go on without a person" in run.err
    assert document(ran, "groups", "list", "shop:app")[0]["waiting"] == 1
    resumed = ran.evenflow("groups", "resume", "shop:app", CHARGE)
    assert resumed.code == 0 and "it was paused by" in resumed.err
    assert ran.evenflow("groups", "resume", "shop:app", CHARGE).code == 4
    assert ran.run("run", "shop:app", "--until-idle").code == 0
    assert document(ran, "groups", "list", "shop:app")[0]["waiting"] == 0


def test_an_orphan_is_renamed_or_dropped(ran: Shop) -> None:
    assert ran.evenflow("groups", "drop", "shop:app", CHARGE, "--yes").code == 4
    early = ran.evenflow("groups", "rename", "shop:app", CHARGE, "billing.collect")
    assert early.code == 2 and "the code still has billing.charge, at shop.py:" in early.err  # it asks
    ran.write("shop.py", SHOP.replace('group="charge"', 'group="collect"'))
    text = ran.evenflow("groups", "list", "shop:app").out
    assert re.search(r"^billing.charge   orphaned +- +0 +- +2 +1$", text, re.MULTILINE), text
    assert "→ evenflow groups rename shop:app billing.charge NEW" in text
    said = _on_a_terminal(ran, "groups", "rename", "shop:app", CHARGE, "billing.collect", answer="y\n")
    assert "rename billing.charge to billing.collect? [y/N]" in said and "goes on where it was" in said
    assert ran.run("run", "shop:app", "--until-idle").code == 0
    listed = ran.evenflow("parked", "list", "shop:app", "billing.collect").out
    assert listed.count("billing.collect") == 2
    assert "billing" not in ran.evenflow("parked", "list", "shop:app", "billing.notify").out
    assert "no group 'billing.colect'" in ran.evenflow("parked", "list", "shop:app", "billing.colect").err
    shown = ran.evenflow("groups", "show", "shop:app", "billing.collect").out
    assert "derive from billing.charge, its name before" in shown
    ran.write("shop.py", SHOP.replace('group="charge"', 'group="other", start="end"'))
    told = ran.run("run", "shop:app", "--until-idle").err
    assert "billing.collect is in the store, and the code does not have it" in told
    assert "→ evenflow groups rename shop:app billing.collect NEW" in told
    asked = ran.evenflow("groups", "drop", "shop:app", "billing.collect")
    assert asked.code == 2 and "2 parked events, 1 of them dead letters" in asked.err
    assert ran.evenflow("groups", "drop", "shop:app", "billing.collect", "--yes").code == 0
    assert [each["group"] for each in document(ran, "groups", "list", "shop:app")] == [
        "billing.other", "billing.notify",
    ]  # fmt: skip


def test_migrations_are_planned_shown_as_sql_and_applied(shop: Shop) -> None:
    shop.write("shop.py", SHOP.replace('Service("orders")', 'Service("orders", migrations="sql")'))
    file = shop.write("sql/0001_placed.sql", "create table placed (id text);\n")
    done = shop.evenflow("migrate", "shop:app", "--service", "orders")
    assert done.code == 0
    assert re.search(r"^  0001_placed.sql +orders +pending +[0-9a-f]{12}  -$", done.out, re.MULTILINE), done.out
    sql = shop.evenflow("migrate", "shop:app", "--sql").out
    assert "create table placed (id text);" in sql and "create table evenflow_position" in sql
    assert not (shop.folder / ".evenflow").exists()
    done = shop.evenflow("migrate", "apply", "shop:app", "--service", "orders")
    assert done.code == 0 and re.search(r"^orders: 0001_placed.sql of orders \(", done.err, re.MULTILINE)
    assert "nothing is pending" in shop.evenflow("migrate", "plan", "shop:app", "--service", "orders").err
    shop.write("sql/0002_bad.sql", "create table a (x);\ncreate table b (\n  x,,\n  y\n);\n")
    failed = shop.evenflow("migrate", "apply", "shop:app", "--service", "orders")
    assert failed.code == 4 and "in sql/0002_bad.sql:3:" in failed.err
    (shop.folder / "sql" / "0002_bad.sql").unlink()
    file.write_text("create table placed (id integer);\n")
    done = shop.evenflow("migrate", "plan", "shop:app")
    assert done.code == 1 and "sql/0001_placed.sql is " in done.out
    (plan,) = document(shop, "migrate", "plan", "shop:app", "--service", "orders")
    *ours, placed = [each["state"] for each in plan["migrations"]]
    assert (set(ours), placed) == ({"applied"}, "changed")
    assert "did you mean migrate apply?" in shop.evenflow("migrate", "aply").err
    assert "was changed after it was applied" in shop.evenflow("doctor", "shop:app").out


def test_doctor_tells_what_is_to_be_done(ran: Shop) -> None:
    done = ran.evenflow("doctor", "shop:app", "--fast")
    assert done.code == 0, done.out
    assert re.search(r"^warn   group billing.charge: 1 dead letter, 2 parked", done.out, re.MULTILINE), done.out
    assert "→ evenflow parked list shop:app --group billing.charge" in done.out
    assert all(re.match(r"(ok|warn|wrong) +\w|       → ", line) for line in done.out.splitlines())
    found = document(ran, "doctor", "shop:app")
    assert {each["level"] for each in found} == {"ok", "warn"} and found[0]["about"] == "version"
    for file in (ran.folder / ".evenflow").glob("log.db*"):
        file.unlink()
    done = ran.evenflow("doctor", "shop:app")
    assert done.code == 1 and "log.db is not there, and the stores have read it" in done.out
    assert ran.run("run", "shop:app", "--until-idle").code == 4
    done = ran.evenflow("doctor", "shop:app")
    assert done.code == 1 and "→ if the engine's URL is wrong, correct it" in done.out
    assert re.search(r"^billing.charge +stopped +- +\? ", ran.evenflow("groups", "list", "shop:app").out, re.MULTILINE)
    file = ran.folder / ".evenflow" / "billing.db"
    done = ran.evenflow("doctor", f"sqlite:///{file}")
    assert done.code == 1 and "group billing.charge: is stopped at orders" in done.out and "outbox: empty" in done.out
    assert ran.evenflow("doctor", "sqlite:///shop.py").code == 1
    assert ran.evenflow("doctor", "kafka://x").code == 2


WORK = """
import asyncio
from evenflow import App, Event, Service, Topic, Transaction

T = Topic("t", partitions=4)

class Made(Event, type="made", topic=T, key="key"):
    key: str

s = Service("s", migrations="sql")
app = App(s)

@s.on(Made, group="write", start="beginning")
async def write(made: Made, tx: Transaction) -> None:
    await asyncio.sleep(0.003)
    tx.write("insert into done values ($1)", made.key)

async def fill() -> None:
    async with app.open():
        await app.publish(*[Made(key=str(n)) for n in range(200)])

if __name__ == "__main__":
    asyncio.run(fill())
"""


def done_in(folder: Path) -> list[str]:
    connection = sqlite3.connect(f"file:{folder}/.evenflow/s.db?mode=ro", uri=True)
    try:
        return [key for (key,) in connection.execute("select key from done")]
    finally:
        connection.close()


def test_a_pause_holds_in_two_processes_through_a_kill(shop: Shop) -> None:
    shop.write("work.py", WORK)
    shop.write("sql/0001_done.sql", "create table done (key text not null);")
    env = {"EVENFLOW_LEASE": "1"}
    assert shop.run("run", "work:app", "--until-idle").code == 0
    first, second = (shop.start("run", "work:app", **env) for _ in "12")

    def group() -> Any:
        return document(shop, "groups", "show", "work:app", "s.write")

    wait_for(lambda: len({each["owner"] for each in group()["partitions"]} - {None}) == 2)
    filling = subprocess.Popen([sys.executable, "work.py"], cwd=shop.folder)
    wait_for(lambda: len(done_in(shop.folder)) > 5)
    assert shop.evenflow("groups", "pause", "work:app", "s.write").code == 0
    wait_for(lambda: not any(each["owner"] for each in group()["partitions"]))
    count = len(done_in(shop.folder))
    assert filling.wait(30) == 0
    for each in (first, second):
        each.kill()
        each.wait(30)
    run = shop.run("run", "work:app", "--until-idle", **env)
    assert run.code == 4 and "s.write cannot go on without a person" in run.err
    assert len(done_in(shop.folder)) == count < 200
    found = group()
    assert found["status"]["state"] == "paused" and found["status"]["waiting"] == 200 - count
    last = shop.start("run", "work:app", **env)
    wait_for(lambda: "is run by pid" in shop.evenflow("groups", "rename", "work:app", "s.write", "s.other").err)
    assert shop.evenflow("groups", "resume", "work:app", "s.write").code == 0
    wait_for(lambda: len(done_in(shop.folder)) >= 200)
    last.send_signal(signal.SIGTERM)
    assert last.wait(30) == 0
    assert sorted(done_in(shop.folder), key=int) == [str(n) for n in range(200)]
