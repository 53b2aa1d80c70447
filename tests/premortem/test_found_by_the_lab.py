"""What the crash lab, and looking where it pointed, has found: each as small as it could be made."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evenflow import Topic
from evenflow.redrive import redriving
from evenflow.clock import SystemClock
from evenflow.engine import Engine
from evenflow.engines import compaction
from evenflow.engines.memory import MemoryEngine
from evenflow.engines.sqlite.engine import SqliteEngine
from evenflow.envelope import Envelope
from evenflow.redrive.operation import Pace
from evenflow.position import Marks

from .planted import fails_without, must_fail, planted
from .stage import case, in_partition

Patch = pytest.MonkeyPatch
LATEST = Topic("latest", partitions=1, compacted=True)


# -- compaction with several producers of one key -------------------------------------------------------------------------


def numbered(producer: str, number: int, at: float) -> Envelope:
    return Envelope(f"{producer}{number}", "shop", "t", 1, "k", 1, at, b"{}", producer, number)


def what_stands_last_replaces_all(patch: Patch) -> None:
    patch.setattr(compaction, "_stays", lambda each, behind: not behind)


def taken(envelopes: list[Envelope], marks: Marks) -> list[str]:
    """What a group takes of these, one after another: repeats are dropped."""
    taking = marks.fork()
    new = [each.id for each in envelopes if taking.take(each.producer, each.slot, each.number, dense=False)]
    marks.highest.update(taking.touched)
    return new


@fails_without(what_stands_last_replaces_all)
def test_a_repeat_of_one_producer_does_not_replace_what_another_has_published_since() -> None:
    """A relay died between its append and its note of it; another process had published the same key meanwhile."""
    for engine in (SqliteEngine, MemoryEngine):

        async def test(path: Path, kind: Any = engine) -> None:
            made: Engine = kind(path / "log.db", SystemClock()) if kind is SqliteEngine else kind(SystemClock())
            await made.open()
            try:
                log = await made.declare(LATEST)
                await made.append("latest", [numbered("store", 7, 1.0)])
                ahead = Marks({}, {}, {})
                assert taken(await in_partition(made, log.partitions(1)[0]), ahead) == ["store7"]
                await made.append("latest", [numbered("process", 1, 2.0)])
                await made.append("latest", [numbered("store", 7, 1.0)])
                await made.maintain()
                left = await in_partition(made, log.partitions(1)[0])
                assert taken(left, ahead) == ["process1"], "who has read the first of the two"
                assert taken(left, Marks({}, {}, {}))[-1] == "process1", "who reads all of it"
                await made.append("latest", [numbered("store", 8, 3.0)])
                await made.append("latest", [numbered("store", 9, 4.0)])
                await made.append("latest", [numbered("store", 10, 5.0)])
                await made.maintain()
                last = await in_partition(made, log.partitions(1)[0])
                assert [each.id for each in last] == ["store10"], "what is newer for sure replaces all of it"
            finally:
                await made.close()

        case(test)


# -- a wall clock that is set back ------------------------------------------------------------------------------------------


def credit_waits_for_the_clock(patch: Patch) -> None:
    patch.setattr(redriving, "math", SimpleNamespace(inf=0.0))


@fails_without(credit_waits_for_the_clock)
def test_an_operation_with_a_rate_goes_on_when_the_clock_is_set_back() -> None:
    each = SimpleNamespace(pace=Pace(rate=0.5), credit=0.0, credited=50_000.0)
    assert redriving.credit(each, 50_001.0) == 0.5
    assert redriving.credit(each, 10_000.0) == 1.0


@planted(__name__)
def test_the_case_fails_without_its_mend(case: Any, plant: Any, monkeypatch: Patch) -> None:
    must_fail(case, plant, monkeypatch)
