"""The commands for single dead letters, and the audit: what they print, their exit codes, and an owner at work."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from .conftest import SHOP, Shop, wait_for

CHARGE = "billing.charge"
BAD = '{"order_id": "bad", "lines": [{"article": "x"}]}'


@pytest.fixture
def ran(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop with a dead letter, another behind it, and a second one; its app and a narrow terminal are set."""
    shop.write("shop.py", SHOP.replace('== "bad"', 'in ("bad", "worse")'))
    monkeypatch.setenv("EVENFLOW_APP", "shop:app")
    monkeypatch.setenv("COLUMNS", "80")

    def letters() -> None:
        for data in (BAD, BAD, '{"order_id": "worse"}'):
            assert shop.evenflow("publish", "order.placed", data).code == 0
        assert shop.run("run", "shop:app", "--until-idle").code == 0

    shop.prepare(letters)
    return shop


def document(shop: Shop, *arguments: str) -> Any:
    return json.loads(shop.evenflow(*arguments, "--json").out)


def heals(shop: Shop) -> None:
    shop.write("shop.py", SHOP.replace('== "bad"', '== "nobody"'))


def test_a_dead_letter_is_shown_edited_put_back_and_rehearsed(ran: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    done = ran.evenflow("parked", "show", CHARGE, "bad")
    assert done.code == 0
    assert all(len(line) <= 80 for line in done.out.splitlines() if "shop.py:" not in line), done.out
    assert re.search(
        r"^attempts that failed: 1\n#  WHEN +WHERE +ALIKE +ERROR\n1  20.*ValueError: no card$", done.out, re.M
    )
    assert "→ evenflow parked edit billing.charge bad --editor" in done.out and "was edited" not in done.out

    done = ran.evenflow("parked", "edit", CHARGE, "bad", "--set", "total=x")
    assert done.code == 2 and "at `$.total`" in done.err and "OrderPlaced, shop.py:" in done.err
    done = ran.evenflow("parked", "edit", CHARGE, "bad", "--set", "order_id=good")
    assert done.code == 4 and "its key order_id would change" in done.err
    assert ran.evenflow("parked", "edit", CHARGE, "bad").code == 2
    assert ran.evenflow("parked", "edit", CHARGE, "nix", "--set", "total=1").code == 3
    done = ran.evenflow("parked", "edit", CHARGE, "bad", "--set", "total=2", "--dry-run")
    assert done.code == 0 and re.search(r'^total +"1" +"2"$', done.out, re.M) and "nothing was changed" in done.err
    assert ran.evenflow("audit", "list").out == ""

    changes = ran.write("changes.json", '{"order_id": "bad", "total": "3", "lines": []}')
    done = ran.evenflow("parked", "edit", CHARGE, "bad", "--file", str(changes), "--reason", "typed wrong")
    assert done.code == 0 and "→ evenflow parked redrive billing.charge --lane bad" in done.err
    shown = document(ran, "parked", "show", CHARGE, "bad")
    assert (shown["edited"], shown["event"]["total"], shown["original"]["total"]) == (True, "3", "1")
    assert len(shown["history"]) == 1 and shown["asked"][0]["what"] == "parked edit"

    monkeypatch.setenv("EDITOR", """sed -i 's/"3"/"4"/'""")
    assert ran.evenflow("parked", "edit", CHARGE, "bad", "--editor").code == 0
    monkeypatch.setenv("EDITOR", "true")
    assert ran.evenflow("parked", "edit", CHARGE, "bad", "--editor").code == 4  # as it was
    monkeypatch.setenv("EDITOR", "sed -i s/4/much/")
    done = ran.evenflow("parked", "edit", CHARGE, "bad", "--editor")
    kept = re.search(r"what you wrote is kept in (\S+)", done.err)
    assert done.code == 2 and kept and "much" in Path(kept[1]).read_text()
    Path(kept[1]).unlink()
    monkeypatch.setenv("EDITOR", "no-such-editor")
    assert ran.evenflow("parked", "edit", CHARGE, "bad", "--editor").code == 2

    change, *_ = document(ran, "parked", "edit", CHARGE, "bad", "--restore")["changes"]
    assert change == {"field": "total", "before": '"4"', "after": '"1"'}
    text = ran.evenflow("audit", "list").out
    assert all(len(line) <= 80 for line in text.splitlines()), text
    assert re.search(r"parked edit +billing.charge bad\n    typed wrong: total \"1\" → \"3\"", text)
    assert [each["what"] for each in document(ran, "audit", "list", "--since", "1h")] == [
        "parked restore", "parked edit", "parked edit",
    ]  # fmt: skip
    assert ran.evenflow("audit", "list", "--since", "soon").code == 2
    assert ran.evenflow("audit", "list", "--service", "biling").code == 3
    assert "nothing was done by hand" in ran.evenflow("audit", "list", "--subject", "nix").err

    # and a rehearsal tells what a fix has mended
    done = ran.evenflow("parked", "rehearse", CHARGE)
    assert done.code == 1 and "2 dead letters tried, 0 would pass now, 2 would fail" in done.out
    assert re.search(r"^2 fail alike \(\w+\): bad, worse\n  ValueError: no card\n", done.out, re.M), done.out
    ran.write("shop.py", SHOP.replace('== "bad"', '== "worse"'))
    found = document(ran, "parked", "rehearse", CHARGE)
    assert (found["passes"], found["fails"], found["behind"]["passes"], found["published"]) == (1, 1, 1, 2)
    heals(ran)
    done = ran.evenflow("parked", "rehearse", CHARGE, "--verbose")
    assert done.code == 0 and "they would publish 3 events; nothing was sent" in done.out
    assert "there is no dead letter" in ran.evenflow("parked", "rehearse", CHARGE, "--type", "nix").err
    refused = ran.evenflow("parked", "rehearse", "billing.notify")
    assert refused.code == 4 and "has no transaction of its own" in refused.err
    ran.write(
        "shop.py", SHOP.replace('    if order.order_id == "bad":', "    await asyncio.sleep(0)\n    if not order:")
    )
    ended = ran.evenflow("parked", "rehearse", CHARGE)
    assert ended.code == 1 and "waits for something other than its transaction, shop.py:" in ended.err
    assert len(document(ran, "parked", "list")) == 3


def test_an_owner_in_another_process_goes_on_with_what_is_moved_and_brought_back(ran: Shop) -> None:
    """It holds in memory which keys are parked: what is moved out holds up nothing, what comes back holds up its key."""
    place, file = ran.folder / ".evenflow" / "billing.db", str(ran.folder / "out.jsonl")
    heals(ran)
    ran.start("run", "shop:app")
    wait_for(lambda: "no process" not in ran.evenflow("groups", "show", CHARGE).out)

    def lanes() -> list[str]:
        rows = sqlite3.connect(place).execute('select lane from evenflow_parked order by lane, "offset"').fetchall()
        return [row[0] for row in rows]

    def handled() -> int:
        return int(document(ran, "groups", "show", CHARGE)["status"]["waiting"] == 0)

    assert ran.evenflow("parked", "export", CHARGE, "--remove").code == 2  # where to?
    assert ran.evenflow("parked", "export", CHARGE, "--remove", "--to", file).code == 2  # it asks
    assert not Path(file).exists()
    done = ran.evenflow("parked", "export", CHARGE, "--remove", "--to", file, "--yes", "--lane", "bad")
    assert done.code == 0 and "moved out: 2 events of 1 lane" in done.err and lanes() == ["kworse"]
    assert ran.evenflow("parked", "export", CHARGE, "--to", file).code == 4  # it is there
    assert len(ran.evenflow("parked", "export", CHARGE).out.splitlines()) == 1

    assert "would come back: 2 events" in ran.evenflow("parked", "import", file, "--dry-run").err
    assert ran.evenflow("parked", "import", file).code == 0 and lanes() == ["kbad", "kbad", "kworse"]
    assert ran.evenflow("publish", "order.placed", BAD).code == 0
    wait_for(lambda: lanes() == ["kbad", "kbad", "kbad", "kworse"])  # behind what came back, though its code is mended
    assert ran.evenflow("parked", "import", file).code == 4

    again = str(ran.folder / "again.jsonl")
    assert ran.evenflow("parked", "export", CHARGE, "--remove", "--to", again, "--yes", "--key", "bad").code == 0
    assert ran.evenflow("publish", "order.placed", BAD).code == 0
    wait_for(lambda: handled() and lanes() == ["kworse"])
    done = ran.evenflow("parked", "import", again)
    assert done.code == 4 and "its key has gone on: 1 later event was handled since" in done.out
    assert "→ --late brings back" in done.err
    assert ran.evenflow("parked", "import", again, "--late").code == 0
    assert ran.evenflow("parked", "redrive", CHARGE, "--all").code == 0
    wait_for(lambda: lanes() == [])
    for name in ("nix", "shop.py"):
        assert ran.evenflow("parked", "import", name).code == 2
