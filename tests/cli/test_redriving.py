"""parked list, redrive and discard, operations: as a person uses them after a bad day."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import SHOP, Shop, wait_for
from .test_commands import _on_a_terminal

CHARGE = "billing.charge"
BROKEN = SHOP.replace('if order.order_id == "bad":', "if order.total > 0:")
FILL = """
import asyncio
from shop import *

async def main() -> None:
    async with app.open():
        await app.publish({})

asyncio.run(main())
"""
HALF = SHOP.replace('== "bad"', 'in ("order-03", "order-07")')


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve dead letters, made once."""
    folder = tmp_path_factory.mktemp("stores")
    error = 'ValueError("no card")', 'ValueError(f"no card for {order.order_id} " * 9)'
    (folder / "shop.py").write_text(BROKEN.replace(*error))
    filling = "".join(f"OrderPlaced(order_id='order-{n:02}', total=Decimal({n + 1}))," for n in range(12))
    (folder / "fill.py").write_text(FILL.format(filling))
    for command in (["fill.py"], ["-m", "evenflow", "run", "shop:app", "--until-idle"]):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("EVENFLOW_", "PYTHON"))}
        subprocess.run([sys.executable, *command], cwd=folder, env=clean, check=True, capture_output=True, timeout=60)
    return folder / ".evenflow"


@pytest.fixture
def ran(shop: Shop, stores: Path) -> Shop:
    """Twelve dead letters, and their cause mended for ten of them."""
    shutil.copytree(stores, shop.folder / ".evenflow")
    shop.write("shop.py", HALF)
    return shop


def document(shop: Shop, *arguments: str) -> Any:
    return json.loads(shop.evenflow(*arguments, "--json").out)


def test_the_list_fits_80_columns_and_counts(ran: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for given in ((), ("--by", "fingerprint"), ("--by", "key"), ("--by", "type"), ("--by", "age"), ("--by", "group")):
        done = ran.evenflow("parked", "list", "shop:app", *given)
        assert done.code == 0 and max(map(len, done.out.splitlines())) <= 80, done.out
    monkeypatch.delenv("COLUMNS")
    whole = ran.evenflow("parked", "list", "shop:app").out
    assert max(map(len, whole.splitlines())) > 200  # what goes into a pipe is not cut
    (count,) = document(ran, "parked", "list", "shop:app", "--by", "type")
    assert (count["group"], count["value"], count["dead"], count["behind"]) == (CHARGE, "order.placed", 12, 0)
    assert len(document(ran, "parked", "list", "shop:app", "--key", "order-03", "--newer", "1h")) == 1
    assert (
        ran.evenflow("parked", "list", "shop:app", CHARGE, "--error", "KeyError").err == "nothing that is parked fits\n"
    )
    assert "is no span of time: use 90, 30s" in ran.evenflow("parked", "list", "shop:app", "--older", "soon").err


def test_a_dry_run_tells_and_changes_nothing(ran: Shop) -> None:
    for arguments, code, words in (
        ((), 2, "say which dead letters"),
        (("--all",), 0, "12 dead letters of billing.charge would be tried again: order-00, order-01, "),
        ((CHARGE, "--error", "ValueError", "--rate", "3", "--canary", "2"), 0, "at 3 a second that takes at least 4 s"),
        ((CHARGE, "--key", "nix"), 0, "there is no dead letter that fits"),
        ((CHARGE, "--all", "--key", "order-01"), 2, "--all and --key exclude each other"),
        ((CHARGE, "--all", "--lane", "order-01"), 2, "--all and --lane exclude each other"),
        (("--lane", "order-01"), 2, "GROUP is missing"),
        ((CHARGE, "--all", "--rate", "0"), 2, "'0' is no rate"),
        ((CHARGE, "--all", "--stop-above", "100"), 2, "'100' is no share"),
        (("billing.chrge", "--all"), 3, "did you mean billing.charge?"),
    ):
        done = ran.evenflow("parked", "redrive", "shop:app", *arguments, "--dry-run")
        assert done.code == code and words in done.out + done.err, done
    assert ran.evenflow("operations", "list", "shop:app").err == "there is no operation\n"
    assert {each["dead"] for each in document(ran, "parked", "list", "shop:app")} == {True}


def test_an_operation_waits_for_a_process_and_is_followed_to_its_end(ran: Shop) -> None:
    asked = ran.evenflow(
        "parked", "redrive", "shop:app", CHARGE, "--all", "--batch", "3", "--reason", "the bank is back"
    )
    assert asked.code == 0
    assert "12 dead letters will be tried again" in asked.err
    assert "no process runs this group now" in asked.err and "→ evenflow run shop:app" in asked.err
    (listed,) = document(ran, "operations", "list", "shop:app")
    assert (listed["operation"], listed["state"], listed["under_way"], listed["not_asked"]) == (
        "billing/1",
        "running",
        3,
        9,
    )
    again = ran.evenflow("parked", "redrive", "shop:app", CHARGE, "--all", "--batch", "2")
    assert re.search(r"operation billing/1 \(redrive, by .*\) has 3 under way and 9 still to come of these", again.err)
    cancelled = ran.evenflow("operations", "cancel", "shop:app", "billing/2")
    assert cancelled.code == 0 and "operation billing/2 is cancelled" in cancelled.err
    assert ran.evenflow("operations", "cancel", "shop:app", "2").code == 4
    assert ran.evenflow("operations", "show", "shop:app", "9").code == 3

    follower = ran.start("parked", "redrive", "shop:app", CHARGE, "--key", "order-07", "--wait", "--json")
    wait_for(lambda: len(document(ran, "operations", "list", "shop:app")) == 3)
    process = ran.start("run", "shop:app")
    out, err = follower.communicate(timeout=30)
    assert follower.returncode == 1 and json.loads(out)[0]["failed"] == 1, (out, err)
    assert "billing/3 done: 0 passed, 1 failed again" in err
    wait_for(lambda: document(ran, "operations", "list", "shop:app", "--open") == [])
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    shown = ran.evenflow("operations", "show", "shop:app", "1")
    for line in (
        r"^billing/1  redrive of billing.charge  done$", r"figures   12 dead letters: \d+ passed",
        r"asked     by .*@.* \(.* ago\)", r"reason    the bank is back", r"pace      3 at once",
    ):  # fmt: skip
        assert re.search(line, shown.out, re.MULTILINE), (line, shown.out)
    figures = document(ran, "operations", "list", "shop:app")
    assert {each["state"] for each in figures} == {"done", "cancelled"}
    assert sum(each["passed"] for each in figures) == 10
    left = document(ran, "parked", "list", "shop:app", CHARGE)
    assert sorted(each["key"] for each in left) == ["order-03", "order-07"]


def test_the_leading_process_is_killed_and_the_next_goes_on(ran: Shop) -> None:
    ran.write("shop.py", SHOP)
    process = ran.start("run", "shop:app")
    assert ran.evenflow("parked", "redrive", "shop:app", "--all", "--rate", "6", "--canary", "1").code == 0

    def passed() -> int:
        return int(document(ran, "operations", "show", "shop:app", "1")["passed"])

    wait_for(lambda: passed() >= 2)
    process.kill()
    process.wait()
    before = passed()
    assert before < 12 and "no process runs this group" in ran.evenflow("operations", "show", "shop:app", "1").out
    assert ran.evenflow("operations", "pause", "shop:app", "1").code == 0
    assert ran.run("run", "shop:app", "--until-idle").code == 0
    assert before <= passed() < 12
    assert ran.evenflow("operations", "resume", "shop:app", "1").code == 0
    assert ran.run("run", "shop:app", "--until-idle").code == 0  # not idle before it has ended
    found = document(ran, "operations", "show", "shop:app", "1")
    assert (found["state"], found["passed"], found["failed"], found["gone"]) == ("done", 12, 0, 0)
    assert ran.evenflow("parked", "list", "shop:app").err == "nothing is parked\n"


def test_a_stop_rule_ends_it_and_the_exit_code_says_so(ran: Shop) -> None:
    ran.write("shop.py", BROKEN)
    process = ran.start("run", "shop:app")
    done = ran.evenflow("parked", "redrive", "shop:app", CHARGE, "--all", "--canary", "2", "--wait")
    assert done.code == 1
    assert re.search(
        r"^billing/1 stopped \(the canary failed: \d of the first \d\): 0 passed, 2 failed again",
        done.err,
        re.MULTILINE,
    )
    shown = ran.evenflow("operations", "show", "shop:app", "1").out
    assert "failed again:" in shown and f"→ evenflow parked rehearse shop:app {CHARGE}" in shown
    done = ran.evenflow("parked", "discard", "shop:app", CHARGE, "--key", "order-05", "--wait", "--yes")
    assert done.code == 0 and "billing/2 done: 1 given up" in done.err
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert len(document(ran, "parked", "list", "shop:app")) == 11


def test_a_discard_asks_first(ran: Shop) -> None:
    assert (
        ran.evenflow("parked", "discard", "shop:app", CHARGE, "--older", "1h").err
        == "there is no dead letter that fits\n"
    )
    assert ran.evenflow("parked", "discard", "shop:app", CHARGE, "--error", "ValueError").code == 2
    said = _on_a_terminal(ran, "parked", "discard", "shop:app", CHARGE, "--error", "ValueError", answer="n\n")
    assert "give up 12 dead letters of billing.charge for good? [y/N]" in said and "nothing was changed" in said
    assert ran.evenflow("operations", "list", "shop:app").err == "there is no operation\n"
