"""What follows from a failure, and how it is written down: pure, held by tables and properties."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenflow import Policy, Reject, RetryLater
from evenflow.errors import DecodeError, DefinitionError, NewerVersion
from evenflow.failure import Failure, describe, fingerprint, normal
from evenflow.policy import Again, DeadLetter, Decision, HandlerTimeout, ProcessEnded, Retry, Stop, after_failure

# -- deciding ---------------------------------------------------------------------------------------------------------

GIVEN = Policy(
    attempts=4, first_delay=1.0, max_delay=8.0, factor=4.0, jitter=0.5, deadline=100.0, in_place=1,
    final=(ZeroDivisionError,), stop=(PermissionError,),
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "attempt", "age", "draw", "expected"),
    [
        (ValueError(), 1, 0.0, 0.0, Again()),
        (ValueError(), 2, 0.0, 0.0, Retry(1.0)),
        (ValueError(), 2, 0.0, 0.5, Retry(1.25)),
        (ValueError(), 3, 0.0, 0.0, Retry(4.0)),
        (ValueError(), 4, 0.0, 0.0, DeadLetter()),
        (ValueError(), 9, 0.0, 0.0, DeadLetter()),
        (ValueError(), 2, 99.0, 0.0, Retry(1.0)),
        (ValueError(), 2, 99.0, 0.5, DeadLetter()),  # it would begin after the deadline
        (ValueError(), 2, -50.0, 0.0, Retry(1.0)),  # the clock was set back
        (ValueError(), 1, 101.0, 0.0, DeadLetter()),
        (HandlerTimeout(1.0), 1, 0.0, 0.0, Retry(1.0)),  # a call that is late holds up its lane long enough
        (ProcessEnded(), 1, 0.0, 0.0, Retry(1.0)),
        (ZeroDivisionError(), 1, 0.0, 0.0, DeadLetter()),
        (Reject("no such order"), 1, 0.0, 0.0, DeadLetter()),
        (DecodeError("t", "no"), 1, 0.0, 0.0, DeadLetter()),
        (RetryLater(30), 1, 0.0, 0.9, Retry(30.0, counts=False)),
        (RetryLater(30), 99, 0.0, 0.0, Retry(30.0, counts=False)),
        (RetryLater(30), 1, 80.0, 0.0, DeadLetter()),
        (RetryLater(0), 1, 0.0, 0.0, Retry(0.0, counts=False)),
        (NewerVersion("t", 2, 1), 99, 1e9, 0.0, Retry(8.0, counts=False)),
        (PermissionError(), 99, 1e9, 0.0, Stop()),
        (KeyError(), 2, 0.0, 0.0, Retry(1.0)),
        (SystemExit(), 2, 0.0, 0.0, Retry(1.0)),
    ],
)
def test_what_follows(error: BaseException, attempt: int, age: float, draw: float, expected: Decision) -> None:
    assert after_failure(error, attempt, GIVEN, age=age, draw=draw) == expected


POLICIES = st.builds(
    lambda attempts, first, more, factor, jitter, deadline, place: Policy(
        attempts=attempts, first_delay=first, max_delay=first + more, factor=factor, jitter=jitter,
        deadline=None if deadline is None else first + deadline, in_place=min(place, attempts - 1),
    ),
    st.integers(1, 2000), st.floats(0, 60), st.floats(0, 1e4), st.floats(1, 100), st.floats(0, 1),
    st.none() | st.floats(0.01, 1e5), st.integers(0, 5),
)  # fmt: skip


@given(POLICIES, st.integers(1, 10**9), st.floats(0, 1e6), st.floats(0, 1, exclude_max=True))
def test_every_policy_answers_and_keeps_its_word(policy: Policy, attempt: int, age: float, draw: float) -> None:
    """Jitter only lengthens, and by its share; nothing begins after the deadline; attempts end; a high number is fine."""
    decision = after_failure(ValueError(), attempt, policy, age=age, draw=draw)
    plain = after_failure(ValueError(), attempt, replace(policy, deadline=None))
    if attempt >= policy.attempts:
        assert decision == plain == DeadLetter()
    elif attempt <= policy.in_place:
        assert plain == Again()
    else:
        assert isinstance(plain, Retry)
        assert policy.first_delay <= plain.delay <= policy.max_delay
    if isinstance(decision, Retry):
        assert isinstance(plain, Retry)
        assert plain.delay <= decision.delay <= plain.delay * (1 + policy.jitter)
        assert policy.deadline is None or age + decision.delay <= policy.deadline
    elif decision != plain:
        assert decision == DeadLetter()
        assert policy.deadline is not None
        assert age + (plain.delay * (1 + policy.jitter) if isinstance(plain, Retry) else 0) > policy.deadline


@given(POLICIES)
def test_an_event_is_called_as_often_as_its_policy_says(policy: Policy) -> None:
    patient = replace(policy, deadline=None)
    for attempt in itertools.count(1):
        decision = after_failure(ValueError(), attempt, patient)
        if decision == DeadLetter() or attempt > 50:
            break
    assert attempt == min(policy.attempts, 51)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"attempts": 0}, "attempts=0"),
        ({"attempts": 2.5}, "attempts=2.5"),
        ({"attempts": True}, "attempts=True"),
        ({"attempts": "3"}, "attempts='3'"),
        ({"first_delay": float("nan")}, "first_delay=nan"),
        ({"first_delay": -1}, "first_delay=-1"),
        ({"first_delay": 10, "max_delay": 5}, "max_delay=5"),
        ({"max_delay": float("inf")}, "max_delay=inf"),
        ({"factor": 0.5}, "factor=0.5"),
        ({"jitter": 1.5}, "jitter=1.5"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": None}, "timeout=None"),
        ({"deadline": 0}, "deadline=0"),
        ({"deadline": 0.5}, "leaves time for no retry"),
        ({"in_place": 5}, "in_place=5"),
        ({"in_place": -1}, "in_place=-1"),
        ({"final": ValueError}, "final=(ValueError,)"),
        ({"final": ("ValueError",)}, "final="),
        ({"stop": [ValueError]}, "stop=(PermissionError,)"),
        ({"stop": (OSError,), "final": (OSError,)}, "OSError in both final and stop"),
        ({"parking": -1}, "parking=-1"),
        ({"parking_bytes": None}, "parking_bytes=None"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_with_what_to_do(given: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match="a Policy cannot have") as caught:
        Policy(**given)
    assert says in str(caught.value) and caught.value.remedy


def test_what_makes_sense_is_taken() -> None:
    Policy(attempts=1, deadline=0.1)
    Policy(attempts=3, in_place=2, deadline=0.1)  # all in place: no delay
    Policy(parking=0, parking_bytes=0, final=(BaseException,), jitter=1)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), None, "5", True])
def test_retry_later_takes_seconds(seconds: Any) -> None:
    with pytest.raises(ValueError, match="it takes a number of seconds"):
        RetryLater(seconds)


# -- fingerprints -----------------------------------------------------------------------------------------------------


def raised(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("it was to raise")


def ship(order: str, count: int) -> None:
    raise ValueError(f"order {order!r} has {count} items")


def bill(order: str, count: int) -> None:
    raise ValueError(f"order {order!r} has {count} items")


SOURCE = "def work(n):\n    return {}[n]\n"


def compiled(before: str) -> Callable[[int], object]:
    """The same function further down in its file, in a process of its own so to say."""
    space: dict[str, Any] = {}
    exec(compile(before + SOURCE, "/srv/app/shop.py" if before else "/home/app/shop.py", "exec"), space)  # noqa: S102
    return space["work"]  # type: ignore[no-any-return]


def test_failures_alike_have_one_fingerprint() -> None:
    """Values, lines and folders do not matter; type, function and text do."""
    mark = fingerprint(raised(lambda: ship("o-1", 7)))
    assert len(mark) == 12 and set(mark) <= set("0123456789abcdef")
    assert fingerprint(raised(lambda: ship("another", 123))) == mark
    assert fingerprint(raised(lambda: bill("o-1", 7))) != mark
    assert fingerprint(ValueError("order 'o-1' has 7 items")) != mark
    assert fingerprint(raised(lambda: compiled("")(1))) == fingerprint(raised(lambda: compiled("\n\nx = 1\n")(22)))
    assert fingerprint(OSError("x")) != fingerprint(ValueError("x"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("order o-17 not found", "order o-# not found"),
        ("can't open 'a b.txt': denied", "can't open ?: denied"),
        ("""no key "it's" in {'a': 1, "b": 22}""", "no key ? in {?: #, ?: #}"),
        ("id 550e8400-e29b-41d4-a716-446655440000 at 0x7f3a", "id # at #"),
        ("late since 2026-11-22T11:15:48.123+01:00", "late since #"),
        ("[1, 2, 3] and [7]", "[#] and [#]"),
        ("b'\\xff' is no text", "? is no text"),
        ("  two\n lines ", "two lines"),
        ("", ""),
    ],
)
def test_values_are_taken_out_of_texts(text: str, expected: str) -> None:
    assert normal(text) == expected


@given(st.text())
def test_any_text_has_a_normal_form_and_any_error_can_be_written_down(text: str) -> None:
    assert normal(normal(text)) == normal(text) or "'" in text or '"' in text or "`" in text
    error = ValueError(text)
    describe(error).encode()
    assert "\x00" not in describe(error)
    assert fingerprint(error) == fingerprint(ValueError(text))


def test_what_cannot_be_shown_is_written_down_even_so() -> None:
    """An error whose text raises, one with half a character, one that is its own cause."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert "its text cannot be had: RuntimeError" in describe(Mute()) and fingerprint(Mute())
    assert describe(ValueError("\udc80")).encode() and fingerprint(ValueError("\udc80"))
    round_ = ValueError("round")
    round_.__cause__ = round_
    assert describe(round_) == "ValueError: round"
    assert len(describe(ValueError("x" * 100_000))) <= 4000


def test_a_description_tells_where_and_why() -> None:
    def inner() -> None:
        raise KeyError("sku")

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            error.add_note("while pricing")
            raise ValueError("no price") from error

    told = describe(raised(outer))
    assert told.startswith("ValueError: no price\n") and "in outer" in told
    assert "caused by KeyError: 'sku'\n  while pricing\n" in told and f"{__file__}:" in told
    assert sys.platform not in told


def test_a_failure_knows_what_was_tried_in_place() -> None:
    first = Failure(ValueError("a"), 1, Again(), 10.0)
    second = Failure(ValueError("b"), 2, Retry(5.0), 11.0, first)
    assert [each.attempt for each in second.history()] == [1, 2] and second.due == 16.0 and second.counted == 2
    later = Failure(RetryLater(3), 1, Retry(3.0, counts=False), 11.0)
    assert later.counted == 0 and later.due == 14.0
    assert Failure(ValueError(), 5, DeadLetter(), 1.0).due is None
