"""Schedules from the command line: list, pause, resume, run; what doctor, describe and check say of them."""

from __future__ import annotations

import json
import re
import sqlite3

import pytest

from .conftest import Shop

APP = """
from evenflow import App, Due, Service, Transaction

billing = Service("billing")
app = App(billing)

@billing.cron("dunning", "0 7 * * *", tz="Europe/Berlin")
async def dunning(due: Due, tx: Transaction) -> None:
    tx.write("create table if not exists runs (name text, manual integer)")
    tx.write("insert into runs values ($1, $2)", due.name, due.manual)

@billing.every("sweep", 86400)
async def sweep(due: Due) -> None: ...
"""
NAME = "billing.dunning"


@pytest.fixture
def ran(shop: Shop) -> Shop:
    shop.write("dues.py", APP)
    assert shop.evenflow("describe", "dues:app", "--json").code == 0
    shop.write("dues.json", shop.evenflow("describe", "dues:app", "--json").out)
    assert shop.run("run", "dues:app", "--until-idle").code == 0
    return shop


def test_before_a_process_has_run_them_they_are_new(shop: Shop) -> None:
    shop.write("dues.py", APP.replace('@billing.cron("dunning"', '@billing.cron("reminders"'))
    assert shop.run("run", "dues:app", "--until-idle").code == 0
    shop.write("dues.py", APP)
    done = shop.evenflow("schedules", "list", "dues:app")
    assert re.search(r"^billing.dunning    0 7 \* \* \* Europe/Berlin  new ", done.out, re.MULTILINE), done.out
    assert re.search(r"^billing.reminders  0 7 \* \* \* Europe/Berlin  orphaned ", done.out, re.MULTILINE), done.out
    assert "billing.dunning: no process has run it yet" in done.err
    assert "→ evenflow groups drop dues:app billing.reminders" in done.err
    refused = shop.evenflow("schedules", "run", "dues:app", "dunning")
    assert refused.code == 4 and "no process has run the schedule 'dunning' yet" in refused.err
    orphaned = shop.evenflow("schedules", "run", "dues:app", "reminders")
    assert orphaned.code == 4 and "the code does not have the schedule 'reminders'" in orphaned.err
    assert "schedule billing.reminders: is in the store" in shop.evenflow("doctor", "dues:app", "--fast").out
    assert shop.evenflow("groups", "drop", "dues:app", "billing.reminders", "--yes").code == 0
    assert "reminders" not in shop.evenflow("schedules", "list", "dues:app").out


def test_they_are_listed_paused_resumed_and_run(ran: Shop) -> None:
    done = ran.evenflow("schedules", "list", "dues:app")
    assert (done.code, done.err) == (0, "")
    line = rf"^{NAME}  0 7 \* \* \* Europe/Berlin  running  20\d\d-\d\d-\d\d 0[56]:00:00Z  in [\d.]+ (h|min|s) +- +0$"
    assert re.search(line, done.out, re.MULTILINE), done.out
    found = json.loads(ran.evenflow("schedules", "list", "dues:app", "--json").out)
    assert [(each["name"], each["times"]) for each in found["schedules"]] == [
        ("dunning", "0 7 * * * Europe/Berlin"), ("sweep", "every 86400 s"),
    ]  # fmt: skip
    paused = ran.evenflow("schedules", "pause", "dues:app", "dunning", "--reason", "the bank is down")
    assert paused.code == 0 and f"{NAME} is paused by " in paused.err
    again = ran.evenflow("schedules", "pause", "dues:app", NAME)
    assert again.code == 4 and "the bank is down" in again.err
    listed = ran.evenflow("schedules", "list", "dues:app")
    assert f"→ evenflow schedules resume dues:app {NAME}" in listed.err and "paused" in listed.out
    doctor = ran.evenflow("doctor", "dues:app", "--fast")
    assert doctor.code == 0 and re.search(rf"warn +schedule {NAME}: is paused by .*: the bank is down", doctor.out)
    run = ran.evenflow("schedules", "run", "dues:app", NAME)
    assert run.code == 0 and "a run of billing.dunning is published" in run.err
    resumed = ran.evenflow("schedules", "resume", "dues:app", NAME)
    assert resumed.code == 0 and f"{NAME} goes on; its next run is due 20" in resumed.err
    assert ran.run("run", "dues:app", "--until-idle").code == 0
    (store,) = ran.folder.rglob("billing.db")
    connection = sqlite3.connect(store)
    rows = connection.execute("select name, manual from runs").fetchall()
    audit = connection.execute("select what, subject from evenflow_audit order by id").fetchall()
    connection.close()
    assert rows == [("dunning", 1)]
    assert audit == [(f"schedule {what}", "dunning") for what in ("pause", "run", "resume")]
    wrong = ran.evenflow("schedules", "run", "dues:app", "duning")
    assert wrong.code == 3 and "did you mean dunning?" in wrong.err


def test_a_line_that_has_changed_is_told_until_the_next_start(ran: Shop) -> None:
    ran.write("dues.py", APP.replace("0 7 * * *", "0 18 * * *"))
    listed = ran.evenflow("schedules", "list", "dues:app")
    assert f"{NAME}: the code says 0 18 * * * Europe/Berlin, which counts from the next start on" in listed.err
    assert ran.run("run", "dues:app", "--until-idle").code == 0
    listed = ran.evenflow("schedules", "list", "dues:app")
    assert listed.err == "" and f"{NAME}  0 18 * * * Europe/Berlin" in listed.out


def test_names_last_and_times_do_not(ran: Shop) -> None:
    described = ran.evenflow("describe", "dues:app")
    assert re.search(r"SCHEDULES\n  billing.dunning\n    transactional  0 7 \* \* \* Europe/Berlin", described.out)
    assert "evenflow.due" not in described.out
    for form in ("mermaid", "asyncapi"):
        assert ran.evenflow("describe", "dues:app", "--format", form).code == 0
    ran.write("dues.py", APP.replace("0 7 * * *", "0 18 * * *"))
    assert ran.evenflow("check", "dues:app", "--contract", "dues.json").code == 0
    ran.write("dues.py", APP.replace('"dunning", "0', '"reminders", "0'))
    renamed = ran.evenflow("check", "dues:app", "--contract", "dues.json")
    assert renamed.code == 1
    assert "schedule 'billing.dunning' is gone" in renamed.err + renamed.out
    assert "schedule 'billing.reminders' is new" in renamed.err + renamed.out


def test_a_wrong_line_is_told_by_check_with_its_place(shop: Shop) -> None:
    shop.write("dues.py", APP.replace("0 7 * * *", "0 0 30 2 *"))
    done = shop.evenflow("check", "dues:app")
    said = done.out + done.err
    assert done.code != 0 and "never fires" in said and "dues.py:" in said
