"""What an operation does next: a table, and properties of all its runs."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow.errors import Refused
from evenflow.redrive.operation import Ask, Done, Pace, Progress, Stop, Wait, decide, refilled


@pytest.mark.parametrize(
    ("pace", "progress", "credit", "move"),
    [
        (Pace(), Progress(1000), math.inf, Ask(200)),
        (Pace(), Progress(30), math.inf, Ask(30)),
        (Pace(), Progress(0), math.inf, Done()),
        (Pace(), Progress(1000, 200), math.inf, Wait()),
        (Pace(), Progress(1000, 200, passed=50, failed=5, gone=5), math.inf, Ask(60)),
        (Pace(), Progress(200, 200, passed=199), math.inf, Wait()),
        (Pace(), Progress(200, 200, passed=190, failed=6, gone=4), math.inf, Done()),
        (Pace(rate=50.0), Progress(1000), 3.9, Ask(3)),
        (Pace(rate=50.0), Progress(1000), 0.9, Wait()),
        (Pace(canary=3), Progress(1000), math.inf, Ask(3)),
        (Pace(canary=3), Progress(1000, 3, passed=2), math.inf, Wait()),
        (Pace(canary=3), Progress(1000, 3, passed=2, gone=1), math.inf, Ask(1)),  # another in its place
        (Pace(canary=3), Progress(1000, 3, passed=3), math.inf, Ask(200)),
        (Pace(canary=3), Progress(1000, 3, passed=1, failed=1), math.inf, Stop("the canary failed: 1 of the first 2")),
        (Pace(canary=3), Progress(1000, 9, passed=3, failed=6), math.inf, Ask(200)),  # of the canary none has
        (Pace(canary=5), Progress(3, 3, passed=2, failed=1), math.inf, Done()),
        (Pace(stop_above=10.0), Progress(1000, 200, passed=17, failed=2), math.inf, Ask(19)),  # too few
        (Pace(stop_above=10.0), Progress(1000, 200, passed=18, failed=2), math.inf, Ask(20)),  # not above
        (
            Pace(stop_above=10.0), Progress(1000, 200, passed=17, failed=3), math.inf,
            Stop("15 % of 20 have failed, more than 10 %"),
        ),
        (
            Pace(stop_above=0.0, minimum=1), Progress(1000, 200, failed=1), math.inf,
            Stop("100 % of 1 have failed, more than 0 %"),
        ),
        (Pace(stop_above=10.0), Progress(100, 100, failed=100), math.inf, Done()),  # nothing is left to stop
    ],
)  # fmt: skip
def test_what_comes_next(pace: Pace, progress: Progress, credit: float, move: object) -> None:
    found = decide(pace, progress, credit)
    assert (type(found), found) == (type(move), move)


@pytest.mark.parametrize(
    "wrong",
    [{"rate": 0.0}, {"rate": math.nan}, {"rate": math.inf}, {"canary": -1}, {"stop_above": 100.0}, {"stop_above": -1.0},
     {"minimum": 0}, {"batch": 0}],
)  # fmt: skip
def test_a_pace_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(Refused, match="cannot have"):
        Pace(**wrong)  # type: ignore[arg-type]


def test_credit_is_saved_up_for_one_second_and_a_clock_that_jumps_back_takes_none() -> None:
    assert refilled(Pace(rate=50.0), 0.0, 0.1) == 5.0
    assert refilled(Pace(rate=50.0), 10.0, 3600.0) == 50.0
    assert refilled(Pace(rate=0.1), 0.0, 5.0) == 0.5
    assert refilled(Pace(rate=0.1), 0.0, 3600.0) == 1.0
    assert refilled(Pace(rate=50.0), 7.0, -3600.0) == 7.0
    assert refilled(Pace(), 0.0, 0.0) == math.inf


PACES = st.builds(
    Pace,
    rate=st.none() | st.floats(0.5, 500.0),
    canary=st.integers(0, 12),
    stop_above=st.none() | st.integers(0, 99).map(float),
    minimum=st.integers(1, 30),
    batch=st.integers(1, 20),
)


@settings(max_examples=150, deadline=None)
@given(PACES, st.integers(0, 60), st.data())
def test_every_run_ends_and_keeps_to_its_pace(pace: Pace, total: int, data: st.DataObject) -> None:
    """Whatever becomes of what was asked for, and in whatever order: the batch, the canary, the rule and the rate hold."""
    fails = data.draw(st.lists(st.sampled_from(["passed", "failed", "gone"]), min_size=total, max_size=total))
    now, credit, seconds = Progress(total), 1.0 if pace.rate is not None else math.inf, 0.0
    for _ in range(20 * (total + 1)):
        move = decide(pace, now, credit)
        if isinstance(move, Stop | Done):
            break
        if isinstance(move, Ask):
            assert not _broken(pace, now), (pace, now)
            assert 1 <= move.lanes <= credit
            now = now._replace(asked=now.asked + move.lanes)
            credit -= move.lanes
            assert now.open <= pace.batch and now.asked <= total
            if now.passed < pace.canary:
                assert now.passed + now.open <= pace.canary
        if now.open:
            for outcome in fails[now.asked - now.open :][: data.draw(st.integers(1, now.open))]:
                now = now._replace(**{outcome: getattr(now, outcome) + 1})
        else:
            credit = refilled(pace, credit, 0.7)
            seconds += 0.7
    else:
        raise AssertionError(f"it does not end: {pace} {now}")
    if pace.rate is not None:
        assert now.asked <= max(1.0, pace.rate) + pace.rate * seconds + 1
    if isinstance(move, Stop):
        assert now.asked < total and now.failed
    else:
        assert now.asked == total and not now.open


def _broken(pace: Pace, now: Progress) -> bool:
    """The rules once more, in other words, for one that has something left to ask for."""
    canary = now.failed > 0 and now.passed < pace.canary
    decided = now.passed + now.failed
    if pace.stop_above is None or decided < pace.minimum:
        return canary
    return canary or Fraction(100 * now.failed, decided) > Fraction(pace.stop_above)
