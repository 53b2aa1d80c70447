"""The limit of a group, as pure arithmetic: never more calls than its rate and its burst, and never a stop for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow import Limit
from evenflow.errors import DefinitionError
from evenflow.protection.limiting import AHEAD, FORGET, Allowance, Keys, Taken, take

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("tat", "want", "granted", "wait"),
    [
        (None, 1, 1, 0.0),  # the first call ever
        (None, 9, 3, 0.1),  # as many as the burst, then one every tenth of a second
        (NOW - 60, 9, 3, 0.1),  # a long rest gives no more than the burst
        (NOW, 2, 2, 0.0),
        (NOW + 0.1, 9, 2, 0.1),
        (NOW + 0.25, 9, 0, 0.05),  # half of a call is there
        (NOW + 0.3, 9, 0, 0.1),  # the burst is used up
        (NOW + 3600, 9, 0, 0.1),  # the clock has jumped back by an hour
    ],
)
def test_how_much_is_granted(tat: float | None, want: int, granted: int, wait: float) -> None:
    taken = take(tat, NOW, want, 10.0, 3.0)
    assert (taken.granted, round(taken.wait, 3)) == (granted, wait)
    assert take(taken.tat, NOW + taken.wait + 0.001, 1, 10.0, 3.0).granted == 1


steps = st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(1, 20)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=100)
@given(steps, st.floats(0.2, 500.0), st.integers(1, 20))
def test_over_any_time_no_more_than_the_rate_and_the_burst(
    asked: list[tuple[float, int]], rate: float, burst: int
) -> None:
    now, tat, grants = NOW, None, list[tuple[float, int]]()
    for wait, want in asked:
        now += wait
        taken = take(tat, now, want, rate, burst)
        tat = taken.tat
        grants.append((now, taken.granted))
    for first in range(len(grants)):
        total = 0
        for at, granted in grants[first:]:
            total += granted
            assert total <= burst + rate * (at - grants[first][0]) + 0.01


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(-4000.0, 4000.0), max_size=10), st.floats(0.2, 500.0))
def test_a_clock_that_jumps_stops_nothing(jumps: list[float], rate: float) -> None:
    now, tat = NOW, None
    for jump in jumps:
        now += jump
        tat = take(tat, now, 5, rate, 2.0).tat
    taken = take(tat, now, 1, rate, 2.0)
    now += taken.wait + 1e-5
    assert taken.granted or take(taken.tat, now, 1, rate, 2.0).granted


def test_what_was_reserved_and_not_used_is_lost() -> None:
    allowance = Allowance(100.0, 11.0)
    assert not allowance.may(5.0)
    allowance.got(Taken(10, 0.0, 0.0), 10, 5.0, 5.01)
    assert allowance.may(5.05)
    allowance.use()
    assert not allowance.may(5.0 + AHEAD)
    assert allowance.wants(1) == 2, "twice what was used"


def test_after_less_than_was_asked_for_it_waits_until_there_is_some() -> None:
    allowance = Allowance(100.0, 11.0)
    allowance.got(Taken(10, 0.0, 0.0), 10, 5.0, 5.01)
    assert allowance.ask_at <= 5.01, "there may be more at once"
    allowance.got(Taken(3, 0.0, 0.02), 10, 5.0, 5.01)
    assert allowance.ask_at == pytest.approx(5.11), "a tenth of a second's at a time"
    slow = Allowance(1.0, 1.9)
    slow.got(Taken(0, 0.0, 0.7), 1, 5.0, 5.01)
    assert slow.ask_at == pytest.approx(5.71)


def test_a_store_that_answers_late_leaves_one_call() -> None:
    allowance = Allowance(100.0, 11.0)
    allowance.got(Taken(10, 0.0, 0.0), 10, 5.0, 6.0)
    assert allowance.may(6.0)
    allowance.use()
    assert not allowance.may(6.0)


def test_keys_are_apart_and_those_at_rest_are_forgotten() -> None:
    keys = Keys(2.0)
    keys.called(("t", "a"), 10.0)
    assert keys.at(("t", "a"), 10.1) == 10.5
    assert keys.at(("t", "b"), 10.1) == 10.1
    assert keys.at(("t", "a"), 11.0) == 11.0
    for n in range(3 * FORGET):
        keys.called(("t", str(n)), 20.0 + n)
    assert len(keys) <= FORGET


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"per_second": 0},
        {"per_second": -1.0},
        {"per_second": float("nan")},
        {"per_second": float("inf")},
        {"per_second": "50"},
        {"per_second": True},
        {"per_key": 0.0},
        {"burst": 5},
        {"per_second": 50.0, "burst": 5},
        {"per_second": 1.0, "burst": 1},
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError) as raised:
        Limit(**values)
    assert raised.value.remedy


@pytest.mark.parametrize(("rate", "burst"), [(50.0, None), (1.0, None), (50.0, 6), (0.1, 2), (1000.0, 101)])
def test_what_may_be_reserved_leaves_room_for_calls_that_come_later(rate: float, burst: int | None) -> None:
    limit = Limit(per_second=rate, burst=burst)
    assert limit.shared_burst >= 1
    if burst is not None:
        assert limit.shared_burst + rate * AHEAD == pytest.approx(burst)
