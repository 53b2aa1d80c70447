"""What `evenflow run` says: in one form to the end, with what is left, and of a mistake in SQL the line alone."""

from __future__ import annotations

import json

import pytest

from .conftest import Shop

WRONG = """
from evenflow import App, Event, Policy, Service, Topic, Transaction

class Made(Event, type="made", topic=Topic("t", partitions=1), key="key"):
    key: str

s = Service("s", policy=Policy(attempts=1))
app = App(s)

@s.on(Made, group="now", start="beginning")
async def now(made: Made, tx: Transaction) -> None:
    await tx.execute("insert into nowhere values ($1)", made.key)

@s.on(Made, group="later", start="beginning")
async def later(made: Made, tx: Transaction) -> None:
    tx.write("insert into nowhere values ($1)", made.key)

@s.on(Made, group="fine", start="beginning")
async def fine(made: Made, tx: Transaction) -> None:
    tx.publish(made, after=3600)
"""


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_mistake_in_sql_shows_the_line_of_the_handler_and_no_traceback(shop: Shop) -> None:
    shop.write("wrong.py", WRONG)
    assert shop.run("publish", "wrong:app", "made", '{"key": "a"}').code == 0
    ran = shop.run("run", "wrong:app", "--until-idle", "--log", "text")
    assert ran.code == 0
    assert "Traceback" not in ran.err and "apsw" not in ran.err
    for place in (
        'wrong.py:11 in now\n    await tx.execute("insert into nowhere values ($1)", made.key)\n',
        'wrong.py:15\n    tx.write("insert into nowhere values ($1)", made.key)\n',
    ):
        after = ran.err.partition(place)[2]
        assert "no such table: nowhere\n  in: insert into nowhere values ($1)\n  with: ('a',)\n  → evenflow" in after
    assert "→ evenflow parked list wrong:app --group s.now" in ran.err
    assert "idle: 2 parked, 2 of them dead letters, 1 scheduled, next at 20" in ran.err
    assert "→ evenflow parked list wrong:app\n" in ran.err

    done = shop.evenflow("parked", "redrive", "wrong:app", "s.now", "--all")
    assert done.code == 0
    assert "1 dead letter will be tried again" in done.err
    assert "no process runs this group now: it is done when one starts\n  → evenflow run wrong:app" in done.err

    ran = shop.run("run", "wrong:app", "--until-idle", "--log", "json", "--debug")
    assert "Traceback (most recent call last)" in ran.err and "apsw" in ran.err
    assert [line for line in lines(ran.err) if str(line["message"]).startswith("idle: 2 parked, ")] != []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("bad:app",), 2, "bad cannot be imported"),
        (("nowhere:app",), 3, "there is no module 'nowhere'"),
        (("shop:app", "--service", "biling"), 3, "did you mean billing?"),
        (("wrong:app",), 2, "wrong.py:3: Made has key='kye'"),
    ],
)
def test_the_last_line_of_a_log_in_json_is_json_too(
    shop: Shop, arguments: tuple[str, ...], code: int, message: str
) -> None:
    shop.write("bad.py", "x =\n")
    shop.write("wrong.py", WRONG.replace('key="key"', 'key="kye"'))
    ran = shop.run("run", *arguments)
    assert (ran.code, ran.out) == (code, "")
    (line,) = lines(ran.err)
    assert (line["level"], line["exit_code"]) == ("error", code)
    assert message in str(line["message"])
    if code == 2 and "bad" in message:
        assert line["error"] == "  bad.py:1\n    x =\n  SyntaxError: invalid syntax"


def test_what_is_refused_was_not_said_to_be_opened(shop: Shop) -> None:
    ran = shop.run("run", "shop:app", "--log", "json", EVENFLOW_ENGINE="nats://broker")
    assert ran.code == 2
    (line,) = lines(ran.err)
    assert str(line["message"]).startswith("NATS")
