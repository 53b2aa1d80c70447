"""A short run of the real thing, with a fixed seed, is clean; with a bug planted it is not."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.servers import refuse

from .checker import check
from .children import ROOT, born, kill_known
from .crew import wrong
from .nemesis import Nemesis, Options
from .pair import Pair, missing
from .proving import with_bug
from .reading import read

MIX = {"kill": 3, "freeze": 2, "loader": 1, "jump": 1}
BRIEF = {"kill server": 2, "freeze server": 1, "cut": 2, "reset": 2, "half-open": 1, "delay": 1}
"""Without connections that are lost and nobody knows it: to find that out takes its time."""


@pytest.mark.slow
@pytest.mark.alone
def test_a_short_run_is_clean(tmp_path: Path) -> None:
    found = run(tmp_path, Options(seed=7, pace=0.8, disk=False), 8.0)
    assert found["kill"] >= 2


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("pair", [Pair("postgres", "postgres"), Pair("kafka", "postgres")], ids="-".join)
def test_a_short_run_is_clean_on(pair: Pair, tmp_path: Path) -> None:
    if why := missing(pair):
        refuse(why)
    options = Options(
        seed=7,
        pace=0.8,
        disk=False,
        rate=400,
        workers=2,
        ways=("program",),
        pair=pair,
        mix={**MIX, **BRIEF},
        drain=90.0,
    )
    found = run(tmp_path, options, 6.0)
    assert found["harmed"] >= 2


def run(folder: Path, options: Options, seconds: float) -> Counter[str]:
    """A run that has to be clean. How often there was what."""
    nemesis = Nemesis(folder, options)
    try:
        nemesis.run(seconds)
    finally:
        nemesis.close()
    history = read(folder)
    verdict = check(history)
    assert nemesis.record.complaints == []
    assert verdict.anomalies == [], verdict.summary(history.faults)
    assert verdict.events > 500
    assert {call.phase for call in history.calls} >= {"start", "end"}
    return nemesis.record.counts


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("relay_deletes_a_gap", Pair()),
        ("calls_again_for_nothing", Pair()),
        ("marks_outlive_a_rollback", Pair("postgres", "postgres")),
    ],
)
def test_a_planted_bug_is_found(name: str, pair: Pair) -> None:
    if why := missing(pair):
        refuse(why)
    _, verdict = with_bug(name, seed=1, seconds=3.0, pair=pair)
    assert verdict is not None


def test_what_judges_never_loads_evenflow() -> None:
    """Neither the checker nor nemesis, but for the proxy, which harms: a mistake of ours cannot hide itself."""
    code = "import sys, tests.crash.proving; print(*(name for name in sys.modules if name.split('.')[0] == 'evenflow'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) <= {"evenflow", "evenflow.errors", "evenflow.lab", "evenflow.lab.proxy"}


def test_a_pid_that_is_given_anew_is_no_process_of_ours() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        kill_known({(other.pid, born(other.pid) - 1), (other.pid, 0)})
        assert other.poll() is None
        kill_known({(other.pid, born(other.pid))})
        assert other.wait(10) < 0
    assert born(other.pid) == 0


def test_what_a_process_says_and_should_not_is_found(tmp_path: Path) -> None:
    fine = "WARNING group a.b waits: server closed the connection unexpectedly; group a.b: e is tried again"
    bad = (
        "ERROR group a.b is stopped: the log ends at -1001",
        "ERROR service a: unexpected while sharing out partitions",
    )
    log = tmp_path / "worker-0.log"
    log.write_text("\n".join((fine, *bad, fine)))
    assert [line.partition(": ")[2] for line in wrong(log)] == list(bad)
