"""The checker finds what it is there for, and a short run of the real thing with a fixed seed is clean."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest

from .checker import Call, Effect, Fault, History, Parked, check, read, summary
from .nemesis import Nemesis


def clean() -> History:
    """Two keys of three orders each, a poisoned one of seven, and everything that follows from them."""
    uids = [f"{key}/1/{n}" for key in ("d-0", "m-0") for n in (1, 2, 3)] + [f"d-poison/1/{n}" for n in range(1, 8)]
    history = History(tried={uid: "tx" if uid.startswith("m") else "direct" for uid in uids})
    history.acked = list(uids)
    history.placed = [uid for uid in uids if uid.startswith("m")]
    for group in ("charge", "balance", "ledger", "ship", "parcel"):
        for uid in uids:
            key, number = uid.split("/")[0], int(uid.split("/")[2])
            if group == "ledger" and key == "d-poison" and number >= 5:
                head = number == 5
                history.parked.append(Parked("ledger", uid, head, None, (1, number)))
                continue
            history.effects.setdefault(group, []).append(Effect(key, number, uid))
            history.counters[group, key] = number
    for at, uid in enumerate(uids):
        for phase, moment in (("start", 10.0 * at), ("end", 10.0 * at + 1)):
            history.calls.append(Call(uid, uid.split("/")[0], 7, phase, moment))
    return history


def kinds(history: History) -> set[str]:
    return {anomaly.kind for anomaly in check(history)}


def test_a_clean_history_passes() -> None:
    history = clean()
    assert check(history) == []
    assert summary(history, []) == "crash: 0 kills, 13 events, 0 lost, 0 doubled, 0 out of order"


def lose_everywhere(history: History) -> None:
    for rows in history.effects.values():
        del rows[2]


def lose_in_one_group(history: History) -> None:
    del history.effects["ledger"][0]


def lose_in_the_chain(history: History) -> None:
    del history.effects["ship"][-1]


def lose_a_due_event(history: History) -> None:
    del history.effects["parcel"][0]


def lose_a_call(history: History) -> None:
    history.calls = [call for call in history.calls if call.uid != "d-0/1/2"]


def lose_a_call_half_way(history: History) -> None:
    history.calls = [call for call in history.calls if call.uid != "d-0/1/2" or call.phase == "start"]


def lose_a_commit(history: History) -> None:
    history.placed.remove("m-0/1/2")


def lose_unacknowledged_in_one_group(history: History) -> None:
    history.acked.remove("d-0/1/3")
    del history.effects["balance"][2]


def double(history: History) -> None:
    history.effects["charge"].append(Effect("d-0", 4, "d-0/1/3"))
    history.counters["charge", "d-0"] = 4


def double_unacknowledged(history: History) -> None:
    history.acked.remove("d-0/1/3")
    double(history)


def double_by_parking(history: History) -> None:
    history.effects["ledger"].append(Effect("d-poison", 5, "d-poison/1/5"))


def double_a_business_row(history: History) -> None:
    history.placed.append("m-0/1/2")


def call_twice_in_peace(history: History) -> None:
    again = [call for call in history.calls if call.uid == "d-0/1/2"]
    history.calls += [call._replace(at=call.at + 500, pid=8) for call in again]


def untried(history: History) -> None:
    del history.tried["d-0/1/3"]


def uncommitted(history: History) -> None:
    history.acked.remove("m-0/1/3")
    history.placed.remove("m-0/1/3")


def without_a_cause(history: History) -> None:
    del history.effects["charge"][0]


def cancelled_and_came(history: History) -> None:
    history.effects["cancelled"] = [Effect("d-0", 1, "d-0/1/1")]
    history.counters["cancelled", "d-0"] = 1


def swap(history: History) -> None:
    rows = history.effects["parcel"]
    rows[0], rows[1] = rows[1]._replace(seq=1), rows[0]._replace(seq=2)


def swap_calls(history: History) -> None:
    first, second = history.calls[1], history.calls[3]
    history.calls[1], history.calls[3] = first._replace(at=60.0), second
    history.calls[2] = history.calls[2]._replace(at=50.0)
    history.calls[3] = history.calls[3]._replace(at=51.0)


def call_side_by_side(history: History) -> None:
    history.calls[1] = history.calls[1]._replace(at=10.5)


def call_side_by_side_on_a_clean_stop(history: History) -> None:
    call_side_by_side(history)
    history.faults.append(Fault("leave", 7, 5.0))


def overtake_the_dead_letter(history: History) -> None:
    history.parked = [row for row in history.parked if not row.uid.endswith("/6")]
    history.effects["ledger"].append(Effect("d-poison", 5, "d-poison/1/6"))
    history.counters["ledger", "d-poison"] = 5


def lose_an_update(history: History) -> None:
    history.counters["balance", "d-0"] = 2


def keep_a_failed_attempt(history: History) -> None:
    history.effects["balance"][1] = history.effects["balance"][1]._replace(seq=3)


def leave_parked(history: History) -> None:
    history.effects["charge"].pop()
    history.parked.append(Parked("charge", "d-poison/1/7", True, 99.0, (1, 7)))


def leave_a_row(history: History) -> None:
    history.left.append("orders.db: 1 rows in evenflow_outbox")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lose_everywhere, "lost"), (lose_in_one_group, "lost"), (lose_in_the_chain, "lost"),
        (lose_a_due_event, "lost"), (lose_a_call, "lost"), (lose_a_call_half_way, "lost"), (lose_a_commit, "lost"),
        (lose_unacknowledged_in_one_group, "lost"), (double, "doubled"), (double_unacknowledged, "doubled"),
        (double_by_parking, "doubled"), (double_a_business_row, "doubled"), (call_twice_in_peace, "doubled"),
        (untried, "phantom"), (uncommitted, "phantom"), (without_a_cause, "phantom"), (cancelled_and_came, "phantom"),
        (swap, "order"), (swap_calls, "order"), (call_side_by_side, "order"),
        (call_side_by_side_on_a_clean_stop, "order"), (overtake_the_dead_letter, "order"), (lose_an_update, "count"),
        (keep_a_failed_attempt, "count"), (leave_parked, "parked"), (leave_a_row, "left"),
    ],
)  # fmt: skip
def test_the_checker_finds(change, kind) -> None:
    history = deepcopy(clean())
    change(history)
    assert kind in kinds(history)


def test_an_event_that_nobody_acknowledged_may_be_there_or_not() -> None:
    there = clean()
    there.acked.remove("d-0/1/3")
    assert check(there) == []
    gone = clean()
    gone.acked.remove("d-0/1/3")
    for group, rows in gone.effects.items():
        gone.effects[group] = [row for row in rows if row.uid != "d-0/1/3"]
        gone.counters[group, "d-0"] = 2
    gone.calls = [call for call in gone.calls if call.uid != "d-0/1/3"]
    assert check(gone) == []


def test_a_kill_excuses_a_repeated_call() -> None:
    history = clean()
    call_twice_in_peace(history)
    history.faults.append(Fault("kill", 7, 200.0))
    assert "doubled" not in kinds(history)


@pytest.mark.slow
def test_a_short_run_is_clean(tmp_path: Path) -> None:
    nemesis = Nemesis(tmp_path, seed=7)
    nemesis.run(10.0)
    history = read(tmp_path)
    anomalies = check(history)
    assert not nemesis.complaints
    assert not anomalies, summary(history, anomalies)
    assert nemesis.counts["kill"] >= 2
    assert len(history.acked) > 50
    for group in ("charge", "balance", "ledger", "ship", "parcel"):
        assert len(history.effects[group]) > 50
