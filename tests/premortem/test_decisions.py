"""The pure decisions behind the cases: marks, what follows a failure, who works on what. Held by properties."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow import Delivery, Event, Policy, Service, Topic, Transaction
from evenflow.engine import Partition
from evenflow.errors import DecodeError, NewerVersion
from evenflow.handler import caller
from evenflow.ownership import Share, share_out
from evenflow.policy import DeadLetter, Retry, after_failure
from evenflow.position import MISSING_LIMIT, PROCESS_PREFIX, Marks, decode_marks, encode_marks, merge

# -- marks ------------------------------------------------------------------------------------------------------------

ARRIVALS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(1, 12)), max_size=60)


class Model:
    """A set of numbers per producer and slot. What is below the first that came was there before this group began."""

    def __init__(self) -> None:
        self.taken: dict[tuple[str, int], set[int]] = {}

    def take(self, producer: str, slot: int, number: int) -> bool:
        taken = self.taken.setdefault((producer, slot), set())
        if number in taken or (taken and number < min(taken)):
            return False
        taken.add(number)
        return True

    def copy(self) -> Model:
        other = Model()
        other.taken = {key: set(numbers) for key, numbers in self.taken.items()}
        return other


@given(ARRIVALS, st.dictionaries(st.integers(0, 60), st.booleans(), max_size=10))
def test_marks_are_a_set(arrivals: list[tuple[str, int, int]], ends: dict[int, bool]) -> None:
    """Each number is run once, in whatever order and however often it comes, across commits and rollbacks."""
    marks, model = Marks(), Model()
    taking, tried = marks.fork(), model.copy()
    for place, (producer, slot, number) in enumerate(arrivals):
        assert taking.take(producer, slot, number) is tried.take(producer, slot, number)
        if place in ends:
            if ends[place]:  # a commit; otherwise a rollback
                marks, model = decode_marks(encode_marks(taking.marks(0.0))), tried
            taking, tried = marks.fork(), model.copy()


@given(ARRIVALS)
def test_a_transaction_leaves_the_marks_it_began_with_as_they_are(arrivals: list[tuple[str, int, int]]) -> None:
    """A rollback needs no undoing: only what `marks` returns has changed."""
    first = Marks().fork()
    for producer, slot, number in arrivals[::2]:
        first.take(producer, slot, number)
    marks = first.marks(1.0)
    before = encode_marks(marks)
    second = marks.fork()
    for producer, slot, number in arrivals[1::2]:
        second.take(producer, slot, number)
    second.marks(2.0)
    assert encode_marks(marks) == before


@given(st.lists(st.integers(1, 30), max_size=60))
def test_late_numbers_are_counted_and_only_they(numbers: list[int]) -> None:
    """Late is a number that is run after a higher one."""
    taking, highest, late = Marks().fork(), 0, 0
    for number in numbers:
        if taking.take("p", 0, number):
            late += number < highest
            highest = max(highest, number)
    assert taking.late == late


@given(st.lists(st.integers(1, 30), max_size=60))
def test_where_a_log_drops_events_only_the_highest_counts(numbers: list[int]) -> None:
    """In a compacted topic a gap is no loss: what is below the highest has been taken, or is gone."""
    taking, highest = Marks().fork(), 0
    for number in numbers:
        assert taking.take("p", 0, number, dense=False) is (number > highest)
        highest = max(highest, number)
    assert taking.marks(0.0).missing == {}


def test_what_is_missing_is_bounded() -> None:
    """A gap of a billion costs a thousand numbers; the oldest missing count as taken then."""
    taking = Marks().fork()
    assert taking.take("p", 0, 1) and taking.take("p", 0, 10**9)
    assert not taking.take("p", 0, 2)
    assert taking.take("p", 0, 10**9 - 1) and taking.take("p", 0, 10**9 - MISSING_LIMIT)
    assert len(encode_marks(taking.marks(0.0))) < 10 * MISSING_LIMIT


@given(ARRIVALS, st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4, 8]))
def test_marks_survive_another_partition_count(arrivals: list[tuple[str, int, int]], before: int, after: int) -> None:
    """What was taken in one generation is a repeat in the next, whichever partition its slot falls to."""
    parts = [Marks().fork() for _ in range(before)]
    for producer, slot, number in arrivals:
        parts[slot % before].take(producer, slot, number)
    merged = [
        merge([part.marks(0.0) for part in parts], frozenset(s for s in range(256) if s % after == number))
        for number in range(after)
    ]
    for producer, slot, number in arrivals:
        assert not merged[slot % after].fork().take(producer, slot, number)


def test_long_gone_processes_are_forgotten_and_stores_never() -> None:
    """A process that publishes directly is a producer of its own; those that are gone must not pile up."""
    taking = Marks().fork()
    for producer in (f"{PROCESS_PREFIX}gone", "store"):
        taking.take(producer, 0, 1)
    marks = taking.marks(100.0)
    marks.prune(99.0)
    assert set(marks.highest) == {f"{PROCESS_PREFIX}gone", "store"}
    marks.prune(101.0)
    assert set(marks.highest) == {"store"} == set(marks.seen)


# -- after a failure --------------------------------------------------------------------------------------------------

POLICIES = st.builds(
    lambda attempts, first, more, factor: Policy(
        attempts=attempts, first_delay=first, max_delay=first + more, factor=factor, final=(ZeroDivisionError,)
    ),
    st.integers(1, 50),
    st.floats(0, 1000),
    st.floats(0, 1e6),
    st.floats(1, 1000),
)


@given(POLICIES)
def test_retries_end_and_their_delays_rise_up_to_the_limit(policy: Policy) -> None:
    """Exactly `attempts` attempts, each delay at least the one before and at most `max_delay`."""
    decisions = [after_failure(ValueError(), attempt, policy) for attempt in range(1, policy.attempts + 1)]
    *retries, last = decisions
    assert last == DeadLetter() and all(isinstance(each, Retry) for each in retries)
    delays = [each.delay for each in retries if isinstance(each, Retry)]
    assert delays == sorted(delays) and all(policy.first_delay <= each <= policy.max_delay for each in delays)


@given(POLICIES, st.integers(1, 10**6))
def test_what_no_retry_can_help_is_a_dead_letter_and_what_heals_by_itself_never(policy: Policy, attempt: int) -> None:
    """Undecodable and `final` errors at once; a newer version never, however often it was tried."""
    assert after_failure(DecodeError("t", "no"), attempt, policy) == DeadLetter()
    assert after_failure(ZeroDivisionError(), attempt, policy) == DeadLetter()
    assert after_failure(NewerVersion("t", 2, 1), attempt, policy) == Retry(policy.max_delay, counts=False)
    assert after_failure(ValueError(), policy.attempts + attempt, policy) == DeadLetter()


# -- sharing out ------------------------------------------------------------------------------------------------------

PROCESSES = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=7, unique=True)


def converge(owners: dict[Partition, str | None], live: list[str], order: list[int]) -> int:
    """Let the processes look one after another until nobody does anything; how many partitions were moved."""
    moved, quiet, turn = 0, 0, 0
    while quiet < len(live):
        me = live[order[turn % len(order)] % len(live)] if turn < 3 * len(order) else live[turn % len(live)]
        turn += 1
        assert turn < 2000, (owners, live)
        share = share_out(owners, me, live)
        assert not (share.take and share.give)
        for partition in share.give:
            assert owners[partition] == me
            owners[partition] = None
        for partition in share.take:
            assert owners[partition] not in live, "taken from a live owner"
            owners[partition] = me
            moved += 1
        quiet = 0 if share.take or share.give or turn <= 3 * len(order) else quiet + 1
    return moved


@settings(max_examples=300)
@given(
    st.integers(1, 32),
    st.lists(PROCESSES, min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "dead", None]), min_size=32, max_size=32),
    st.lists(st.integers(0, 6), min_size=1, max_size=10),
)
def test_partitions_are_shared_out_evenly_and_then_nothing_moves(
    count: int, changes: list[list[str]], start: list[str | None], order: list[int]
) -> None:
    """From any start, with processes that come and go: all are taken, evenly within one, and it stays so."""
    owners = {Partition("t", 1, n): start[n] for n in range(count)}
    for live in changes:
        converge(owners, live, order)
        held = {process: sum(1 for owner in owners.values() if owner == process) for process in live}
        assert sum(held.values()) == count
        assert max(held.values()) - min(held.values()) <= 1
        for process in live:
            share = share_out(owners, process, live)
            assert share.take == () and share.give == ()


def test_who_is_not_heard_of_takes_nothing_and_gives_nothing() -> None:
    """Its first heartbeat was lost on the way: what it took, others would take from it as from a dead one."""
    owners: dict[Partition, str | None] = {Partition("t", 1, 0): None, Partition("t", 1, 1): "a"}
    assert share_out(owners, "b", ["a"]) == Share((), ())


@given(st.integers(1, 32), PROCESSES, st.sampled_from("abcdefg"))
def test_few_partitions_move_when_one_process_comes_or_goes(count: int, live: list[str], other: str) -> None:
    """Who stays keeps what is its even share."""
    owners: dict[Partition, str | None] = {Partition("t", 1, n): None for n in range(count)}
    converge(owners, live, [0])
    now = [each for each in live if each != other] if other in live and len(live) > 1 else [*live, other]
    now = sorted(set(now))
    before = dict(owners)
    gone = sum(1 for owner in before.values() if owner not in now)
    moved = converge(owners, now, [0])
    fair = -(-count // len(now))
    assert moved <= max(gone, fair) + len(now)
    assert all(before[p] not in now or owners[p] == before[p] or moved > gone for p in owners)


# -- calling a handler ------------------------------------------------------------------------------------------------


class Happened(Event, type="happened", topic=Topic("happenings", partitions=1)):
    what: str


ROLES = {"event": Happened, "tx": Transaction, "delivery": Delivery, "text": str, "number": int}


@given(st.permutations(["tx", "delivery", "text", "number"]), st.integers(0, 4))
def test_every_parameter_gets_what_its_type_says_wherever_it_stands(roles: list[str], count: int) -> None:
    """The event first, the rest in any order, by type alone."""
    names = [f"any_{role}" for role in roles[:count]]

    async def handler(**given: Any) -> dict[str, Any]:
        return given

    async def wrapper(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**dict(zip(["first", *names], args, strict=False)), **kwargs}

    kinds = [ROLES[role] for role in roles[:count]]
    parameters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)
        for name, kind in zip(["first", *names], [Happened, *kinds], strict=True)
    ]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
    service = Service("shop")
    service.on(Happened, group="work")(wrapper)
    (spec,) = service.handlers()
    event, tx, delivery = object(), object(), object()
    bound = {name: "bound" if kind is str else 7 for name, kind in spec.dependencies}
    values = {"tx": tx, "delivery": delivery, "text": "bound", "number": 7}
    result = asyncio.run(caller(spec, bound)(event, tx, delivery))
    assert result == {"first": event, **{f"any_{role}": values[role] for role in roles[:count]}}
