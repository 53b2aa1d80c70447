"""A short run of the real thing, with a fixed seed, is clean; with a bug planted it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .checker import check
from .children import ROOT
from .nemesis import Nemesis, Options
from .proving import with_bug
from .reading import read


@pytest.mark.slow
def test_a_short_run_is_clean(tmp_path: Path) -> None:
    nemesis = Nemesis(tmp_path, Options(seed=7, pace=0.8, disk=False))
    nemesis.run(8.0)
    history = read(tmp_path)
    verdict = check(history)
    assert nemesis.complaints == []
    assert verdict.anomalies == [], verdict.summary(history.faults)
    assert nemesis.counts["kill"] >= 2
    assert verdict.events > 1000
    assert {call.phase for call in history.calls} >= {"start", "end"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relay_deletes_a_gap", "calls_again_for_nothing"])
def test_a_planted_bug_is_found(name: str) -> None:
    _, verdict = with_bug(name, seed=1, seconds=3.0)
    assert verdict is not None


def test_what_judges_never_loads_evenflow() -> None:
    """Neither the checker nor nemesis: a mistake of ours cannot hide itself."""
    code = "import sys, tests.crash.proving; sys.exit(any(name.split('.')[0] == 'evenflow' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
