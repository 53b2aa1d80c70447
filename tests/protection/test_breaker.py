"""The breaker as a pure machine of states."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow import Breaker, Policy, Reject, RetryLater
from evenflow.protection.breaker import (
    CLOSED,
    JUMP,
    BreakerState,
    Tally,
    due_in,
    failed,
    forced,
    given_back,
    opened,
    passed,
    probing,
    told,
)
from evenflow.errors import DecodeError, DefinitionError
from evenflow.policy import HandlerTimeout
from evenflow.protection.protecting import counts

RULE = Breaker(pause=10.0, max_pause=35.0, passes=2)
NOW = 1000.0


def test_its_way_through_all_states() -> None:
    state = opened(CLOSED, RULE, NOW, "ConnectionError: away")
    assert (state.state, due_in(state, NOW)) == ("open", 10.0)
    assert opened(state, RULE, NOW + 5, "later") is state
    assert probing(state, NOW + 9.9, "a", 3.0) is state

    state = probing(state, NOW + 10, "a", 3.0)
    assert (state.state, state.prober, state.permit) == ("half-open", "a", 1)
    assert probing(state, NOW + 12, "b", 3.0) is state, "one probe at a time"

    state = failed(state, RULE, NOW + 12, 1, "ConnectionError: still away")
    assert (state.state, due_in(state, NOW + 12)) == ("open", 20.0)
    state = failed(probing(state, NOW + 32, "a", 3.0), RULE, NOW + 32, 2, "")
    assert due_in(state, NOW + 32) == 35.0, "no pause is longer than max_pause"

    state = passed(probing(state, NOW + 67, "a", 3.0), RULE, NOW + 68, 3)
    assert (state.state, state.passed, due_in(state, NOW + 68)) == ("half-open", 1, 0.0)
    state = passed(probing(state, NOW + 68, "b", 3.0), RULE, NOW + 69, 4)
    assert state.closed
    assert probing(opened(state, RULE, NOW + 70, ""), NOW + 80, "a", 3.0).permit == 5, "numbers never come back"


def test_a_prober_that_is_gone_holds_up_others_no_longer_than_its_permit() -> None:
    state = probing(opened(CLOSED, RULE, NOW, ""), NOW + 10, "gone", 3.0)
    assert probing(state, NOW + 12.9, "b", 3.0) is state
    second = probing(state, NOW + 13, "b", 3.0)
    assert (second.prober, second.permit) == ("b", 2)
    for late in (passed(second, RULE, NOW + 14, 1), failed(second, RULE, NOW + 14, 1, ""), given_back(second, NOW, 1)):
        assert late is second, "the one that comes back late changes nothing"


def test_a_permit_that_was_not_used_goes_to_the_next_at_once() -> None:
    state = given_back(probing(opened(CLOSED, RULE, NOW, ""), NOW + 10, "a", 3.0), NOW + 10, 1)
    assert probing(state, NOW + 10, "b", 3.0).prober == "b"


def test_a_clock_that_jumps_back_lets_a_probe_go() -> None:
    state = opened(CLOSED, RULE, NOW, "")
    assert due_in(state, NOW - 3600) == 0.0
    assert probing(state, NOW - 3600, "a", 3.0).prober == "a"


def test_a_person_closes_it_and_the_probe_that_is_out_changes_nothing() -> None:
    out = probing(opened(CLOSED, RULE, NOW, ""), NOW + 10, "a", 3.0)
    state = forced(out, NOW + 11)
    assert state.closed
    assert failed(state, RULE, NOW + 12, out.permit, "") is state


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("opfrgjx"), st.floats(-5.0, 50.0), st.integers(0, 3)), max_size=40))
def test_whatever_happens_there_is_one_permit_and_always_a_way_on(steps: list[tuple[str, float, int]]) -> None:
    state, now, permits = CLOSED, NOW, [0]
    for what, wait, back in steps:
        now += wait
        before, permit = state, max(0, state.permit - back)
        match what:
            case "o":
                state = opened(state, RULE, now, "e")
            case "p":
                state = probing(state, now, "me", 3.0)
            case "f":
                state = failed(state, RULE, now, permit, "e")
            case "r":
                state = passed(state, RULE, now, permit)
            case "g":
                state = given_back(state, now, permit)
            case "x":
                state = forced(state, now)
        if what in "frg" and permit != before.permit:
            assert state is before, "only the last permit counts"
        permits.append(state.permit)
        assert (state.prober is not None) <= (state.state == "half-open")
        assert 0 <= due_in(state, now) <= RULE.max_pause + JUMP
    assert permits == sorted(permits)
    if not state.closed:
        due = now + due_in(state, now)
        assert "me" in {probing(state, at, "me", 3.0).prober for at in (due, due + 1e-6)}


def test_it_trips_at_so_many_failures_that_are_a_share_of_all_within_the_time() -> None:
    tally = Tally(Breaker(failures=3, within=10.0, share=0.5))
    for at in (0.0, 1.0):
        tally.add(at, failed=True)
    assert not tally.trips(1.0)
    tally.add(2.0, failed=True)
    assert tally.trips(2.0)
    assert not tally.trips(12.0), "they are too old"
    for _ in range(4):
        tally.add(2.0, failed=False)
    assert tally.counts(2.0) == (7, 3)
    assert not tally.trips(2.0), "most calls are well"
    tally.add(-3600.0, failed=True)
    assert tally.counts(-3600.0) == (1, 1), "the clock has jumped back"
    tally.clear()
    assert tally.counts(2.0) == (0, 0)


@pytest.mark.parametrize(
    ("error", "errors", "counted"),
    [
        (ConnectionError(), None, True),
        (HandlerTimeout(1.0), None, True),
        (ValueError(), None, False),  # final in the policy below
        (Reject("no"), None, False),
        (RetryLater(3), None, False),
        (DecodeError("t", "r"), None, False),
        (KeyboardInterrupt(), None, False),
        (ConnectionResetError(), (ConnectionError,), True),
        (KeyError(), (ConnectionError,), False),
        (HandlerTimeout(1.0), (TimeoutError,), True),
        (HandlerTimeout(1.0), (ConnectionError,), False),
        (Reject("no"), (Exception,), False),
    ],
)
def test_which_errors_count(error: BaseException, errors: Any, counted: bool) -> None:
    assert counts(error, errors, Policy(final=(ValueError,))) is counted


@pytest.mark.parametrize(
    "values",
    [
        {"failures": 0},
        {"failures": 2.5},
        {"within": 0},
        {"within": float("inf")},
        {"share": 0},
        {"share": 1.5},
        {"pause": -1},
        {"pause": 30, "max_pause": 20},
        {"passes": 0},
        {"errors": ()},
        {"errors": ConnectionError},
        {"errors": ("ConnectionError",)},
    ],
)
def test_a_breaker_that_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError) as raised:
        Breaker(**values)
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (CLOSED, "breaker closed"),
        (
            opened(CLOSED, RULE, NOW - 3, "ConnectionError: x"),
            "breaker open, next probe in 7 s, because ConnectionError: x",
        ),
        (BreakerState("half-open", prober="pid 3"), "breaker half-open, one event is being tried"),
    ],
)
def test_how_it_is_told(state: BreakerState, line: str) -> None:
    assert told(state, NOW) == line
