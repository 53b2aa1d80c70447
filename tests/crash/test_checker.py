"""The checker finds what it is there for, in histories made by hand."""

from __future__ import annotations

from copy import deepcopy

import pytest

from .calls import Call, Fault
from .checker import Asked, Effect, History, Parked, check
from .record import by_kind
from .runs import Run

GROUPS = ("charge", "balance", "ledger", "again", "ship", "confirm", "parcel")


def clean() -> History:
    """Three keys of three orders each, a poisoned one of seven, two readings, and everything that follows from them."""
    uids = [f"{key}/{n}" for key in ("d-0/1", "m-0/1", "t-0/-") for n in (1, 2, 3)] + [
        f"d-poison/1/{n}" for n in range(1, 8)
    ]
    history = History(tried=[("direct" if uid.startswith("d") else "tx", [uid]) for uid in uids])
    history.acked = [[uid] for uid in uids]
    history.placed = [uid for uid in uids if not uid.startswith("d")]
    history.effects = {group: [] for group in GROUPS}
    for group in GROUPS:
        for uid in uids:
            key, _, number = uid.split("/")
            if group == "ledger" and key == "d-poison" and int(number) >= 5:
                history.parked.append(Parked("ledger", uid, number == "5", None, (1, int(number))))
                continue
            apply(history, group, uid)
    history.tried.append(("direct", ["r-0/1/1", "r-0/1/2"]))
    history.acked.append(["r-0/1/1", "r-0/1/2"])
    for uid in ("r-0/1/1", "r-0/1/2"):
        apply(history, "tally", uid)
    for at, uid in enumerate(uids):
        for phase, moment in (("start", 10.0 * at), ("end", 10.0 * at + 1)):
            history.calls.append(Call(uid, uid.split("/")[0], f"id of {uid}", 7, 1, phase, moment))
    history.runs = [
        Run("sweep", 10.0, 0, False), Run("sweep", 11.0, 0, False), Run("sweep", 10.0, 0, True),
        Run("minutely", 60.0, 0, False), Run("minutely", 240.0, 2, False),
    ]  # fmt: skip
    history.asked = [Asked("run", "sweep", ""), Asked("ran", "sweep", "")]
    return history


def apply(history: History, group: str, uid: str) -> None:
    key = uid.split("/")[0]
    seq = history.counters[group, key] = history.counters.get((group, key), 0) + 1
    history.effects.setdefault(group, []).append(Effect(key, seq, uid))


def drop(history: History, group: str, uid: str) -> None:
    """As if it had never been applied: those that follow it have smaller numbers."""
    rows, history.effects[group] = history.effects[group], []
    for key in {row.key for row in rows}:
        del history.counters[group, key]
    for row in rows:
        if row.uid != uid:
            apply(history, group, row.uid)


def drop_everywhere(history: History, uid: str) -> None:
    for group in [group for group, rows in history.effects.items() if any(row.uid == uid for row in rows)]:
        drop(history, group, uid)
    history.calls = [call for call in history.calls if call.uid != uid]


def kinds(history: History) -> set[str]:
    return {anomaly.kind for anomaly in check(history).anomalies}


def test_a_clean_history_passes() -> None:
    history = clean()
    verdict = check(history)
    assert verdict.anomalies == []
    assert verdict.summary([Fault("kill", 1, 1.0), Fault("freeze", 1, 1.0), Fault("thaw", 1, 2.0)]) == (
        "crash: 2 faults (1 kills, 1 freezes) and 0 others, 55 events, 0 lost, 0 doubled, 0 out of order"
    )


def test_faults_are_counted_by_kind() -> None:
    facts = ["kill", "thaw", "kill postgres", "freeze", "freeze kafka", "cut store", "half-open engine", "well", "join"]
    kinds = by_kind([*facts, "leave", "reload", "fill kafka", "lock table", "back", "started", "stall", "start"])
    assert kinds == {
        "kills": 1, "server kills": 1, "freezes": 1, "server freezes": 1, "cuts": 2, "rebalances": 3, "others": 3,
    }  # fmt: skip


# -- what is wrong ------------------------------------------------------------------------------------------------------


def lose_everywhere(history: History) -> None:
    drop_everywhere(history, "d-0/1/2")


def lose_in_one_group(history: History) -> None:
    drop(history, "ledger", "d-0/1/1")


def lose_in_the_chain(history: History) -> None:
    drop(history, "ship", "t-0/-/3")


def lose_a_reading(history: History) -> None:
    drop(history, "tally", "r-0/1/2")


def lose_a_due_event(history: History) -> None:
    drop(history, "parcel", "d-0/1/1")


def lose_with_a_waiting_handler(history: History) -> None:
    drop(history, "confirm", "d-0/1/1")


def lose_a_call(history: History) -> None:
    history.calls = [call for call in history.calls if call.uid != "d-0/1/2"]


def lose_a_call_half_way(history: History) -> None:
    history.calls = [call for call in history.calls if call.uid != "d-0/1/2" or call.phase == "start"]


def lose_a_call_that_failed(history: History) -> None:
    history.calls = [
        call._replace(phase="failed") if call[0::5] == ("d-0/1/2", "end") else call for call in history.calls
    ]


def lose_a_commit(history: History) -> None:
    history.placed.remove("m-0/1/2")


def lose_unacknowledged_in_one_group(history: History) -> None:
    history.acked.remove(["d-0/1/3"])
    drop(history, "balance", "d-0/1/3")


def lose_what_another_group_has_discarded(history: History) -> None:
    lose_in_one_group(history)
    history.asked.append(Asked("discard", "charge", "d-0/1/1"))


def lose_what_was_only_redriven(history: History) -> None:
    lose_in_one_group(history)
    history.asked.append(Asked("redrive", "ledger", "d-0/1/1"))


def lose_across_a_seek(history: History) -> None:
    history.asked.append(Asked("seek", "again", ""))
    drop(history, "again", "d-0/1/3")


def double(history: History) -> None:
    apply(history, "charge", "d-0/1/3")


def double_a_reading(history: History) -> None:
    apply(history, "tally", "r-0/1/2")


def double_unacknowledged(history: History) -> None:
    history.acked.remove(["d-0/1/3"])
    double(history)


def double_by_parking(history: History) -> None:
    apply(history, "ledger", "d-poison/1/5")


def double_a_business_row(history: History) -> None:
    history.placed.append("m-0/1/2")


def double_a_run(history: History) -> None:
    history.runs.append(Run("sweep", 11.0, 0, False))


def lose_a_run(history: History) -> None:
    history.runs.append(Run("sweep", 13.0, 0, False))


def run_what_was_missed(history: History) -> None:
    history.runs.append(Run("minutely", 120.0, 0, False))


def double_a_run_by_hand(history: History) -> None:
    history.runs.append(Run("sweep", 10.5, 0, True))


def lose_a_run_by_hand(history: History) -> None:
    history.asked += [Asked("run", "sweep", ""), Asked("ran", "sweep", "")]


def call_twice_in_peace(history: History) -> None:
    again = [call for call in history.calls if call.uid == "d-0/1/2"]
    history.calls += [call._replace(at=call.at + 500, pid=8) for call in again]


def call_twice_long_after_a_kill(history: History) -> None:
    """It was settled long before."""
    call_twice_in_peace(history)
    history.faults.append(Fault("kill", 7, 200.0))


def call_twice_while_another_was_killed(history: History) -> None:
    call_twice_in_peace(history)
    history.faults.append(Fault("kill", 9, 11.5))


def call_twice_with_another_id(history: History) -> None:
    call_twice_in_peace(history)
    history.faults.append(Fault("kill", 7, 12.0))
    history.calls[-1], history.calls[-2] = (call._replace(id="new") for call in (history.calls[-1], history.calls[-2]))


def untried(history: History) -> None:
    history.tried.remove(("direct", ["d-0/1/3"]))


def uncommitted(history: History) -> None:
    history.acked.remove(["m-0/1/3"])
    history.placed.remove("m-0/1/3")


def without_a_cause(history: History) -> None:
    drop(history, "charge", "d-0/1/1")


def cancelled_and_came(history: History) -> None:
    apply(history, "cancelled", "d-0/1/1")


def swap(history: History) -> None:
    rows = history.effects["parcel"]
    rows[0], rows[1] = rows[1]._replace(seq=1), rows[0]._replace(seq=2)


def swap_with_a_store_s_numbers(history: History) -> None:
    rows = history.effects["ship"]
    rows[6], rows[7] = rows[7]._replace(seq=1), rows[6]._replace(seq=2)


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
    apply(history, "ledger", "d-poison/1/6")


def go_back_without_a_seek(history: History) -> None:
    apply(history, "again", "d-0/1/2")


def go_back_twice_with_one_seek(history: History) -> None:
    history.asked.append(Asked("seek", "again", ""))
    go_back_without_a_seek(history)
    go_back_without_a_seek(history)


def lose_an_update(history: History) -> None:
    history.counters["balance", "d-0"] = 2


def keep_a_failed_attempt(history: History) -> None:
    history.effects["balance"][1] = history.effects["balance"][1]._replace(seq=3)


def leave_parked(history: History) -> None:
    drop(history, "charge", "d-poison/1/7")
    history.parked.append(Parked("charge", "d-poison/1/7", True, 99.0, (1, 7)))


def leave_a_second_head(history: History) -> None:
    history.parked[1] = history.parked[1]._replace(head=True)


def leave_a_row(history: History) -> None:
    history.left.append("orders.db: 1 rows in evenflow_outbox")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lose_everywhere, "lost"), (lose_in_one_group, "lost"), (lose_in_the_chain, "lost"), (lose_a_reading, "lost"),
        (lose_a_due_event, "lost"), (lose_with_a_waiting_handler, "lost"), (lose_a_call, "lost"),
        (lose_a_call_half_way, "lost"), (lose_a_call_that_failed, "lost"), (lose_a_commit, "lost"),
        (lose_unacknowledged_in_one_group, "lost"), (lose_what_another_group_has_discarded, "lost"),
        (lose_what_was_only_redriven, "lost"), (lose_across_a_seek, "lost"), (double, "doubled"),
        (double_a_reading, "doubled"), (double_unacknowledged, "doubled"), (double_by_parking, "doubled"),
        (double_a_business_row, "doubled"), (double_a_run, "doubled"), (lose_a_run, "lost"), (double_a_run_by_hand, "doubled"), (lose_a_run_by_hand, "lost"), (run_what_was_missed, "phantom"), (call_twice_in_peace, "doubled"),
        (call_twice_long_after_a_kill, "doubled"), (call_twice_while_another_was_killed, "doubled"),
        (call_twice_with_another_id, "doubled"), (untried, "phantom"), (uncommitted, "phantom"),
        (without_a_cause, "phantom"), (cancelled_and_came, "phantom"), (swap, "order"),
        (swap_with_a_store_s_numbers, "order"), (swap_calls, "order"), (call_side_by_side, "order"),
        (call_side_by_side_on_a_clean_stop, "order"), (overtake_the_dead_letter, "order"),
        (go_back_without_a_seek, "order"), (go_back_twice_with_one_seek, "order"), (lose_an_update, "count"),
        (keep_a_failed_attempt, "count"), (leave_parked, "parked"), (leave_a_second_head, "parked"),
        (leave_a_row, "left"),
    ],
)  # fmt: skip
def test_the_checker_finds(change, kind) -> None:
    history = deepcopy(clean())
    change(history)
    assert kind in kinds(history)


# -- what is not --------------------------------------------------------------------------------------------------------


def test_an_event_that_nobody_acknowledged_may_be_there_or_not() -> None:
    there = clean()
    there.acked.remove(["d-0/1/3"])
    assert kinds(there) == set()
    gone = clean()
    gone.acked.remove(["d-0/1/3"])
    drop_everywhere(gone, "d-0/1/3")
    assert kinds(gone) == set()


def test_what_was_discarded_is_not_lost_and_has_no_chain() -> None:
    history = clean()
    drop_everywhere(history, "d-0/1/2")
    for group in ("balance", "ledger", "again"):
        history.effects[group] = clean().effects[group]
        history.counters |= {place: n for place, n in clean().counters.items() if place[0] == group}
    assert kinds(history) == {"lost"}
    history.asked.append(Asked("discard", "charge", "d-0/1/2"))
    assert kinds(history) == set()


def test_a_discard_that_came_too_late_is_none() -> None:
    history = clean()
    history.asked.append(Asked("discard", "charge", "d-0/1/2"))
    assert kinds(history) == set()


def test_a_clock_that_jumps_excuses_the_order_of_due_events() -> None:
    history = clean()
    swap(history)
    rows = history.effects["parcel"]
    rows[1] = rows[1]._replace(epoch=1)
    assert kinds(history) == set()


def test_a_clock_that_is_set_back_excuses_due_times_that_come_again() -> None:
    history = clean()
    history.runs.append(Run("sweep", 10.0, 0, False, 2))
    assert kinds(history) == {"doubled"}
    history.faults += [Fault("jump", 0, 1.0), Fault("back", 0, 2.0)]
    assert kinds(history) == set()
    history.runs.append(Run("sweep", 20.5, 0, False, 2))
    assert kinds(history) == set(), "another grid"
    history.runs.append(Run("sweep", 22.5, 0, False, 2))
    assert kinds(history) == {"lost"}


def test_a_seek_excuses_effects_that_come_again() -> None:
    history = clean()
    history.asked.append(Asked("seek", "again", ""))
    for uid in ("d-0/1/2", "d-0/1/3"):
        apply(history, "again", uid)
    assert kinds(history) == set()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("kill", 7, 10.5),
        Fault("freeze", 7, 12.0),
        Fault("stall", 7, 11.5),
        Fault("thaw", 8, 509.0),
        Fault("lock", 0, 11.0),
    ],
)
def test_a_fault_of_a_caller_excuses_a_repeated_call(fault) -> None:
    history = clean()
    call_twice_in_peace(history)
    history.faults.append(fault)
    assert "doubled" not in kinds(history)


def test_a_failed_attempt_is_followed_by_another() -> None:
    history = clean()
    call_twice_in_peace(history)
    place = next(place for place, call in enumerate(history.calls) if call.uid == "d-0/1/2" and call.phase == "end")
    history.calls[place] = history.calls[place]._replace(phase="failed")
    assert "doubled" not in kinds(history)


@pytest.mark.parametrize(("thawed", "found"), [(15.5, False), (12.0, True)])
def test_a_frozen_neighbour_puts_off_the_settling_of_a_call(thawed: float, found: bool) -> None:
    """It may hold the lock of the store. So a kill long after the call excuses a repeat, if that was as long."""
    history = clean()
    call_twice_in_peace(history)
    history.faults += [Fault("freeze", 9, 11.5), Fault("thaw", 9, thawed), Fault("kill", 7, 17.0)]
    assert ("doubled" in kinds(history)) is found
