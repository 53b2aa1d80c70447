"""What the commands say and do when a system is in trouble: full disks, lost logs, slips in a name, too much of a thing."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evenflow import operate
from evenflow.drivers.sqlite import examine as sqlite_examine
from evenflow.checkup import Finding
from evenflow.cli import groups
from evenflow.cli.failures import UsageError, code_of
from evenflow.cli.filters import condition
from evenflow.cli.load import load_app
from evenflow.cli.moment import moment
from evenflow.operate.finding import known
from evenflow.settings import Settings
from evenflow.drivers.sqlite.diagnosis import Diagnosis, Trouble

from .conftest import SHOP, Shop
from .test_commands import _on_a_terminal

CHARGE = "billing.charge"


def order(name: str) -> str:
    return json.dumps({"order_id": name})


@pytest.fixture
def ran(shop: Shop) -> Shop:
    """A shop with three dead letters and one that is handled."""
    shop.write("shop.py", SHOP.replace('== "bad"', '.startswith("bad")'))

    def letters() -> None:
        assert shop.run("run", "shop:app", "--until-idle").code == 0
        for name in ("1", "bad1", "bad2", "bad3"):
            assert shop.evenflow("publish", "shop:app", "order.placed", order(name)).code == 0
        assert shop.run("run", "shop:app", "--until-idle").code == 0

    shop.prepare(letters)
    return shop


@pytest.mark.parametrize("command", [["describe", "shop:app"], ["--help"], ["describe", "shop:app", "--json"]])
def test_output_that_cannot_be_written_is_told_and_is_no_mistake_of_ours(shop: Shop, command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "evenflow", *command], cwd=shop.folder, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (5, 2), done.stderr
    assert "error: the output cannot be written: No space left on device\n  → make room" in done.stderr


def test_a_full_disk_ends_with_the_code_of_what_is_out_of_reach() -> None:
    codes = {trouble: code_of(Diagnosis(trouble, "m", "r").refusal()) for trouble in (Trouble.FULL, Trouble.READ_ONLY)}
    assert codes == {Trouble.FULL: 5, Trouble.READ_ONLY: 4}


def test_a_new_project_on_a_full_disk_names_the_file(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode == "x":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    done = shop.evenflow("new", "books")
    assert done.code == 4 and "error: books cannot be written: No space left on device\n  → " in done.err


def test_a_seek_counts_what_is_skipped_in_a_log_that_was_made_anew(ran: Shop) -> None:
    for file in (ran.folder / ".evenflow").glob("log.db*"):
        file.unlink()
    for name in ("7", "8"):
        assert ran.evenflow("publish", "shop:app", "order.placed", order(name)).code == 0
    listed = ran.evenflow("groups", "list", "shop:app").out
    assert f"{CHARGE} has read another log than the one that is there now\n  → evenflow doctor shop:app" in listed
    told = ran.evenflow("doctor", "shop:app", "--fast").out
    assert f"group {CHARGE}: 3 dead letters, 3 parked in all; nobody can tell how many wait" in told
    asked = ran.evenflow("groups", "seek", "shop:app", CHARGE, "--to", "end").err
    assert "at most 0 events come again, at most 2 are skipped" in asked
    asked = ran.evenflow("groups", "seek", "shop:app", CHARGE, "--to", "beginning").err
    assert "at most 0 events come again, at most 0 are skipped" in asked


def test_dead_letters_do_not_hide_that_no_process_runs(ran: Shop) -> None:
    assert ran.evenflow("publish", "shop:app", "order.placed", order("7")).code == 0
    told = ran.evenflow("doctor", "shop:app", "--fast").out
    assert "3 dead letters, 3 parked in all; no process works on it; 1 waiting" in told
    assert f"       → evenflow parked list shop:app --group {CHARGE}\n       → evenflow run shop:app\n" in told


def test_a_full_parking_lot_is_told(ran: Shop) -> None:
    assert not any(each["full"] for each in json.loads(ran.evenflow("groups", "list", "shop:app", "--json").out))
    ran.write("shop.py", SHOP.replace("Policy(attempts=1)", "Policy(attempts=1, parking=3)"))
    words = "as its policy allows: a partition whose next event fails waits"
    for command, given in (("groups list", ()), ("groups show", (CHARGE,)), ("doctor", ("--fast",))):
        done = ran.evenflow(*command.split(), "shop:app", *given)
        assert words in " ".join(done.out.split()), done.out
    assert ran.evenflow("parked", "redrive", "shop:app", CHARGE, "--all").code == 0
    assert words in ran.evenflow("doctor", "shop:app", "--fast").out
    assert [each["full"] for each in json.loads(ran.evenflow("groups", "list", "shop:app", "--json").out)] == [
        True,
        False,
    ]


def test_a_disk_that_is_nearly_full_does_not_hide_the_groups(ran: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_examine, "disk", lambda _: [Finding("wrong", "disk", "0.0 GB free", "make room")])
    done = ran.evenflow("doctor", "shop:app", "--fast")
    assert done.code == 1 and f"group {CHARGE}: 3 dead letters" in done.out, done.out


def test_a_file_that_is_not_there_is_not_well(shop: Shop) -> None:
    done = shop.evenflow("doctor", "sqlite:///nix.db")
    assert done.code == 1 and "nix.db is not there" in done.out


def test_an_orphans_remedies_are_a_line_each(ran: Shop) -> None:
    ran.write("shop.py", SHOP.replace('group="charge"', 'group="collect"'))
    told = ran.evenflow("doctor", "shop:app", "--fast").out
    for remedy in (f"rename shop:app {CHARGE} NEW", f"drop shop:app {CHARGE}"):
        assert f"       → evenflow groups {remedy}\n" in told
        assert f"→ evenflow groups {remedy}\n" in ran.evenflow("groups", "show", "shop:app", CHARGE).out
    refused = ran.run("run", "shop:app", "--until-idle")
    assert refused.code == 4
    assert "if it had another name before: evenflow groups rename shop:app OLD billing.collect" in refused.err


def test_all_dead_letters_are_asked_for_in_one_transaction(ran: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        app = load_app("shop.py:app")
        del sys.modules["shop"]
        async with app.running(settings=Settings.load(), join=False) as running:
            store, count = running.stores["billing"], 0
            real = store.transact

            async def transact(*given: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                return await real(*given, **options)

            monkeypatch.setattr(store, "transact", transact)
            assert await operate.redrive(running, CHARGE, None, "ann") == 3
            assert count == 1
            plan = await store.read(f"explain query plan {store.sql['operation_wish']}", (1, 0, 3, CHARGE, "", 0.0))
            assert all(
                part in str(plan) for part in ("topic=?", "lane=?")
            )  # not a look at all that is parked, for each
            asked = [each.wish for each in await operate.parked(running, CHARGE)]
            assert asked == ["redrive"] * 3
            ((detail,),) = await store.read("select detail from evenflow_audit where what = 'parked redrive'")
            assert detail == "operation 1: 3 dead letters"

    asyncio.run(main())


def test_a_list_that_is_cut_says_so_in_json_too(ran: Shop) -> None:
    for arguments in (("parked", "list", "shop:app", "--limit", "2"),):
        for form in ((), ("--json",)):
            done = ran.evenflow(*arguments, *form)
            assert done.code == 0 and done.err == "these are the first 2; --limit N shows more\n"
    assert len(json.loads(done.out)) == 2
    assert ran.evenflow("parked", "list", "shop:app", "--limit", "3").err == ""
    for name in ("8", "9"):
        later = ("--after", "86400", "--service", "billing")
        assert ran.evenflow("publish", "shop:app", "order.placed", order(name), *later).code == 0
    done = ran.evenflow("schedules", "list", "shop:app", "--limit", "1", "--json")
    assert len(json.loads(done.out)["events"]) == 1 and done.err == "these are the next 1 of 2; --limit N shows more\n"


def test_what_was_asked_for_already_is_told(ran: Shop) -> None:
    assert ran.evenflow("parked", "redrive", "shop:app", CHARGE, "--lane", "bad1").code == 0
    assert "redrive asked" in ran.evenflow("parked", "list", "shop:app").out
    done = ran.evenflow("parked", "discard", "shop:app", CHARGE, "--lane", "bad1", "--yes")
    assert done.code == 4 and "'bad1' waits for the redrive that was asked for already" in done.err


def test_of_many_names_a_few_are_told() -> None:
    told = known("zebra", [f"reminder-{number}" for number in range(5000)])
    assert told.startswith("known: reminder-0, ") and told.endswith(" and 4,980 more") and len(told) < 400
    assert known("zebra", []) == "known: none"


@pytest.mark.parametrize("text", ["2026-01-01", "2026-01-01T12:00", "2026-01-01 12:00:05.5"])
def test_the_zone_that_is_proposed_is_understood(text: str) -> None:
    for option, read in (("--from", lambda given: moment(given, "--from")), ("--to", groups.where)):
        with pytest.raises(UsageError, match=f"{option} '{text}' has no zone") as caught:
            read(text)
        for proposed in caught.value.remedy.removeprefix("add it: ").split(", or "):
            assert isinstance(read(proposed), float)


@pytest.mark.parametrize("text", ["total>", "total<= ", "total<"])
def test_more_than_nothing_is_no_condition(text: str) -> None:
    with pytest.raises(UsageError, match="is no condition"):
        condition(text)


def test_a_slip_in_a_field_is_told(ran: Shop) -> None:
    begin = ("tail", "shop:app", "--from", "beginning", "--no-follow", "--where")
    done = ran.evenflow(*begin, "order_ids=1")
    assert (done.code, done.out) == (0, "")
    assert done.err == "no event of this app has a field 'order_ids': did you mean order_id?\n"
    assert "known: lines, order_id, total" in ran.evenflow(*begin, "zzz=1").err
    assert ran.evenflow(*begin, "order_id=1").err == ""


def test_a_module_without_its_app_is_completed(shop: Shop) -> None:
    for given in ("shop", "shop.py", "shop:"):
        done = shop.evenflow("check", given)
        assert done.code == 2 and f"did you mean {given.rstrip(':')}:app?" in done.err
    assert "name it, as shop:app" in shop.evenflow("check", "nix").err


def test_the_time_of_a_pause_is_written_as_all_times_are(ran: Shop) -> None:
    assert ran.evenflow("groups", "pause", "shop:app", CHARGE).code == 0
    (pause,) = json.loads(ran.evenflow("groups", "show", "shop:app", CHARGE, "--json").out)["pauses"]
    assert abs((datetime.now(UTC) - datetime.fromisoformat(pause["at"])).total_seconds()) < 600


def test_what_is_asked_about_is_looked_up_before_the_question(ran: Shop) -> None:
    for arguments, code, words in (
        (("parked", "discard", "shop:app", "billing.chrge", "--all"), 3, "did you mean billing.charge?"),
        (("parked", "discard", "shop:app", CHARGE, "--lane", "nix"), 3, "nothing is parked"),
        (("parked", "discard", "shop:app", "billing.notify", "--all"), 0, "there is no dead letter"),
        (("parked", "discard", "shop:app", CHARGE, "--all"), 2, "this needs a yes"),
        (("store", "adopt", "shop:app", "billling"), 3, "did you mean billing?"),
        (("store", "adopt", "shop:app", "billing"), 2, "this needs a yes"),
    ):
        done = ran.evenflow(*arguments)
        assert done.code == code and words in done.err, (arguments, done)
    said = _on_a_terminal(ran, "parked", "discard", "shop:app", CHARGE, "--all", answer="n\n")
    assert "give up 3 dead letters of billing.charge for good? [y/N]" in said and "nothing was changed" in said
    said = _on_a_terminal(ran, "parked", "discard", "shop:app", CHARGE, "--lane", "bad2", answer="y\n")
    assert re.search(r"give up order.placed [0-9a-f-]{36} of 'bad2' of billing.charge for good\?", said), said
    assert "1 dead letter will be given up" in said
