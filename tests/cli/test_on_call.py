"""What a person on call reads: whose fault it is, where, and what to do, on a narrow terminal too."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import pytest

from evenflow.cli.audit import recorded
from evenflow.operate.doctor_running import _group
from evenflow.operate.status import BreakerStatus, GroupStatus

from .conftest import SHOP, Shop

LINE = '@billing.on(PaymentTaken, group="notify")'
MAIL = GroupStatus(
    group="shop.mail", kind="waiting", topics=("orders",), state="running", reason="", owners=("pid 7",), taken=0,
    waiting=5, age=9.0, parked=0, dead=0, full=False,
)  # fmt: skip


def test_the_doctor_tells_that_a_breaker_is_open() -> None:
    assert _group(MAIL).level == "ok"
    told = "breaker open, next probe in 8 s, because ConnectionError: it is down"
    breaker = BreakerStatus(state="open", next_probe=8.0, reason="ConnectionError: it is down", told=told)
    found = _group(replace(MAIL, breaker=breaker))
    assert (found.level, found.message) == ("warn", f"{told}; 5 waiting, the oldest 9 s old")
    assert found.remedy == "evenflow groups resume shop.mail, to try at once"


@pytest.mark.parametrize("given", ["limit=50", "breaker=5", "policy=3"])
def test_an_option_of_another_kind_is_refused_where_it_stands(shop: Shop, given: str) -> None:
    shop.write("shop.py", SHOP.replace(LINE, f"{LINE[:-1]}, {given})"))
    done = shop.evenflow("check", "shop:app")
    name, kind = given.partition("=")[0], given.partition("=")[0].title()
    assert done.code == 1
    assert re.search(
        rf"^shop.py:\d+: handler 'notify' has {given}\n  → use {name}={kind}\(…\)$", done.out, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("Policy(attempts=0)", "a Policy cannot have attempts=0\n  → use 1 (no retry) or more\n"),
        ("Policy(final=(ValueError,), stop=(ValueError,))", "a Policy cannot have ValueError in both final and stop\n"),
    ],
)
def test_what_is_wrong_in_a_module_is_told_with_its_line(shop: Shop, wrong: str, said: str) -> None:
    text = SHOP.replace("Policy(attempts=1)", wrong)
    shop.write("shop.py", text)
    line = text.lstrip("\n").splitlines().index(f'billing = Service("billing", policy={wrong})') + 1
    assert shop.evenflow("groups", "list", "shop:app").err.startswith(f"error: shop.py:{line}: {said}")
    assert shop.evenflow("check", "shop:app").out.startswith(f"shop.py:{line}: {said}")


def test_two_groups_are_one_too_many(shop: Shop) -> None:
    done = shop.evenflow("parked", "list", "shop:app", "billing.charge", "--group", "billing.notify")
    assert (done.code, done.out) == (2, "") and "are two groups\n  → give one of them" in done.err
    assert shop.run("run", "shop:app", "--until-idle").code == 0
    for given in (["--group", "billing.charge"], ["billing.charge"], ["billing.charge", "--group", "billing.charge"]):
        assert shop.evenflow("parked", "list", "shop:app", *given).err == "nothing is parked\n"


def test_a_supervisor_without_an_app_says_so_once(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "evenflow"):
        done = shop.evenflow("run", "--workers", "2")
    assert done.code == 2 and done.err.count("no app is named") == 1 and not caplog.records


def test_a_record_of_the_audit_is_not_cut_where_it_tells_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    why = "operation 3 (redrive): 0 passed, 1 failed again, 5 not asked for: the canary failed: 1 of the first 1"
    recorded([(0.0, "ann", "operation stopped", "billing.charge", why), (1.0, "ann", "group pause", "x", "long " * 99)])
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(line.strip() for line in lines[1:3]) == why
    assert len(lines) == 7 and lines[-1].endswith(" …") and max(map(len, lines[1:3])) <= 60


def test_a_list_of_schedules_fits_a_narrow_terminal(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.write("dues.py", (
        "from evenflow import App, Due, Service\nbilling = Service('billing')\napp = App(billing)\n"
        "@billing.cron('the-dunning-letters', '*/15 7-18 * * MON-FRI', tz='Europe/Berlin')\n"
        "async def dunning(due: Due) -> None: ...\n"
    ))  # fmt: skip
    assert shop.run("run", "dues:app", "--until-idle").code == 0
    whole = shop.evenflow("schedules", "list", "dues:app").out
    assert re.search(r"\d\d:\d\dZ  in |\d\d:\d\d:\d\dZ  in ", whole)
    monkeypatch.setenv("COLUMNS", "80")
    narrow = shop.evenflow("schedules", "list", "dues:app").out
    assert max(map(len, narrow.splitlines())) <= 80 and " in " in narrow


def test_until_idle_ends_while_a_breaker_is_open_and_says_so(shop: Shop) -> None:
    shop.write(
        "post.py",
        """
        from evenflow import App, Breaker, Event, Service, Topic

        class Sent(Event, type="sent", topic=Topic("sent", partitions=1), key="to"):
            to: str

        post = Service("post")

        @post.on(Sent, group="mail", start="beginning", breaker=Breaker(failures=2, pause=600.0, max_pause=600.0))
        async def mail(sent: Sent) -> None:
            raise ConnectionError("the mail server is down")

        app = App(post)
        """.replace("\n        ", "\n"),
    )
    for name in "abc":
        assert shop.evenflow("publish", "post:app", "Sent", f'{{"to": "{name}"}}').code == 0
    done = shop.run("run", "post:app", "--until-idle", "--log", "text")
    assert done.code == 0, done.err
    assert re.search(r"idle: .*post\.mail: breaker open, next probe in \d+ s, because ConnectionError", done.err)
