"""The shop with faults: a supplier who is away, a wrong order, somebody who mends both; and one who does not."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from evenflow import operate
from replay.__main__ import main
from replay.faults import away, mistyped, with_a_mistake
from replay.placing import new_order
from replay.purchases import read

from .conftest import LONG, Shop
from .test_shop_reconcile import last_line

PURCHASES = 300


def test_with_faults_and_a_kill_in_the_middle_it_comes_to_the_same_line(shop: Shop) -> None:
    """Killed while the wrong order is a dead letter; the next one finds it, and the supplier goes away then or later."""
    process = shop.start(PURCHASES, "--faults")
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if "1 dead letter in stock.reserve: Reject: there is no title 9999" in line:
            os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=LONG)
    assert process.returncode == -signal.SIGKILL, f"{said}\n{shop.logs()}"
    lines = shop.replay(1, "--resume", "--split")
    assert lines[-1] == last_line(PURCHASES)
    for part in ("its title is corrected; in a rehearsal", "the supplier works again: ", " is done: "):
        assert [line for line in lines if part in line], (part, lines)


def test_dead_letters_that_somebody_gives_up_are_missing_in_the_books(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given_up: list[int] = []
    really_ask = operate.ask

    async def ask(running: Any, kind: str, wanted: Any, who: str, **_: Any) -> list[operate.Asked]:
        found = await really_ask(running, "discard", wanted, who)
        given_up.extend(each.operation.total for each in found)
        return found

    monkeypatch.setattr(operate, "ask", ask)
    options = ["--purchases", str(PURCHASES), "--window", "1", "--faults", "--folder", str(tmp_path / "state")]
    assert main(options) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(given_up) > 0
    assert lines[-1].startswith(f"not reconciled: {PURCHASES} purchases")
    assert f", {2 * sum(given_up)} lost, 0 doubled, 0 out of order" in lines[-1]  # in stock, and at the supplier
    assert [line for line in lines if line.startswith("lost: stock.restocks: ")]


@pytest.mark.parametrize("count", [1, 400, PURCHASES, 69_659])
def test_one_order_is_wrong_and_the_supplier_goes_away_in_time(count: int) -> None:
    purchases = read(count)
    wrong = mistyped(purchases)
    typed = with_a_mistake(purchases)
    assert [each for each in purchases if typed(each) != new_order(each)] == [wrong]
    after, seconds = away(purchases)
    assert after <= 0.04 * count / 4 + 1
    assert 1.0 <= seconds <= 10.0
